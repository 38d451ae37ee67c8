"""The key of a request, as a caller can learn it without paying: from the error of a call that may not ask."""

from typing import Any

import llmcache


def key_of(content: str, response_model: Any, **options: Any) -> str:
    """Return the key of a request in hex."""
    try:
        llmcache.extract_with_info(content, response_model, cache="only", **options)
    except llmcache.NotCached as error:
        assert error.key is not None
        return error.key
    raise AssertionError("this request was answered from a cache")
