"""The key of a request, as a caller can learn it without paying: from the error of a call that may not ask."""

from typing import Any

import pytest

import llmcache


def key_of(content: str, response_model: Any, **options: Any) -> str:
    """Return the key of a request in hex."""
    with pytest.raises(llmcache.NotCached) as caught:
        llmcache.extract(content, response_model, cache="only", **options)
    assert caught.value.key is not None
    return caught.value.key
