"""What differs in the settings while the sandbox is asked: its address, a key for nobody, and its own prices."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

_PICO_FOR_A_MILLION: Final = 10**6
"""10⁻¹² dollars a token are as many 10⁻⁶ dollars for a million of them."""


def sandboxed(llmcache: Mapping[str, Any], base_url: str) -> dict[str, Any]:
    """Return the settings ``LLMCACHE`` with the sandbox as the provider, whatever the environment names."""
    # Only here: the project's settings import this module, and most of its commands ask nobody.
    from llmcache.testing.sandbox import CACHED_INPUT_PICO_USD, INPUT_PICO_USD, OUTPUT_PICO_USD

    pico = {"input": INPUT_PICO_USD, "cache_read": CACHED_INPUT_PICO_USD, "output": OUTPUT_PICO_USD}
    return {
        **llmcache,
        "PROVIDERS": {"openai": {"base_url": base_url, "api_key": "sandbox"}},
        "PRICES": {llmcache["MODEL"]: {name: Decimal(each) / _PICO_FOR_A_MILLION for name, each in pico.items()}},
    }
