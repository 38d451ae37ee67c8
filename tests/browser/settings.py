"""The demo project's settings for the server that the browser visits: production, and a strict content policy."""

from project.settings import *  # noqa: F403 - Django reads a settings module's names

DEBUG = False
MIDDLEWARE = ["tests.browser.policy.StrictPolicy", *MIDDLEWARE]  # noqa: F405
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# Invoices are asked of this one; what costs nothing that is known is the exception.
_GPT_5 = {"input": "1.25", "cache_read": "0.125", "output": "10"}
LLMCACHE["KINDS"] = {**LLMCACHE.get("KINDS", {}), "Invoice": {"type": "tests.rows.Invoice"}}  # noqa: F405
LLMCACHE["PRICES"] = {**LLMCACHE.get("PRICES", {}), "openai/gpt-5": _GPT_5}  # noqa: F405
