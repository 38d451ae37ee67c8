"""The demo project's settings, for the tests of package and project: what is written lies in a temporary folder."""

import json
import os

import tests.place  # noqa: F401 - tells the project's settings where to write, so it comes first

# isort: split
from project.settings import *  # noqa: F403 - Django reads a settings module's names

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SILENCED_SYSTEM_CHECKS: list[str] = []

# The demo's answers outlive its simulated month; tests are about the package's own default.
del LLMCACHE["TTL"]  # noqa: F405
# Tests of a TTL are exact; those of jitter set it.
LLMCACHE |= {"JITTER": 0}  # noqa: F405
# A test's child process gets the settings of the test that started it.
LLMCACHE |= json.loads(os.environ.get("LLMCACHE_TEST_SETTINGS", "{}"))
if os.environ.get("LLMCACHE_TEST_CACHES"):
    CACHES = json.loads(os.environ["LLMCACHE_TEST_CACHES"])
if os.environ.get("LLMCACHE_TEST_DATABASE"):
    DATABASES = {"default": json.loads(os.environ["LLMCACHE_TEST_DATABASE"])}
