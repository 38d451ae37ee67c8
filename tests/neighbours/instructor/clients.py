"""OpenAI clients for Instructor, none of which keeps a connection open: nobody would close it."""

from typing import Any, Final

import httpx2
import openai

from llmcache.testing.sandbox import Sandbox

_LIMITS: Final = httpx2.Limits(max_keepalive_connections=0)


def upstream(sandbox: Sandbox, **options: Any) -> openai.OpenAI:
    """Return a client that asks the sandbox."""
    http = openai.DefaultHttpxClient(limits=_LIMITS)
    return openai.OpenAI(base_url=sandbox.base_url, api_key="sandbox", http_client=http, **options)


def async_upstream(sandbox: Sandbox, **options: Any) -> openai.AsyncOpenAI:
    """Return an asynchronous client that asks the sandbox."""
    http = openai.DefaultAsyncHttpxClient(limits=_LIMITS)
    return openai.AsyncOpenAI(base_url=sandbox.base_url, api_key="sandbox", http_client=http, **options)
