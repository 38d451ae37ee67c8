"""A request as it is recorded: what would change the answer, without secrets, and images and files by digest.

The same is made of a request that is sent to be answered by a cassette, so the two are compared as they are written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from llmcache.keys import Sample
from llmcache.providers.base import TRANSPORT_FIELDS, Body

if TYPE_CHECKING:
    from llmcache.conf import Settings

Clean = Callable[[str], str]
"""Returns a text as it may be recorded."""

MASK: Final = "[API key]"
_SHORTEST_SECRET: Final = 8
"""Below it a key is one that nobody checks ("none", "x"), and would be found in many an innocent word."""
_DATA_URL: Final = re.compile(r"data:[^,;\s]{0,200}(?:;[^,;\s]{0,200}){0,5};base64,")
_BARE_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{1024,}={0,2}")


def recorded(model: str, body: Body, clean: Clean, variant: str | int | Sample | None = None) -> dict[str, Any]:
    """Return the request that a body is: ``model`` as ``provider/model``, then the body's fields in their order.

    ``variant`` is not sent, but it is what tells the answers to one request apart when they are asked for at once.
    """
    data = json.loads(json.dumps({name: value for name, value in body.items() if name not in TRANSPORT_FIELDS}))
    data.pop("model", None)
    of, number = variant if isinstance(variant, Sample) else (variant, None)
    apart = {name: value for name, value in (("variant", of), ("sample", number)) if value is not None}
    return {"model": model, **apart, **mapped(data, lambda text: clean(_without_bytes(text)))}


def identity(request: dict[str, Any]) -> str:
    """Return what is equal for equal requests, in whatever order their fields are written."""
    return json.dumps(request, sort_keys=True)


def mapped(data: Any, change: Clean) -> Any:
    """Return JSON data with each of its strings changed; the names in objects stay."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, dict):
        return {name: mapped(part, change) for name, part in cast("dict[str, Any]", data).items()}
    return [mapped(part, change) for part in cast("list[Any]", data)] if isinstance(data, list) else data


def cleaner(settings: Settings, redact: Clean | None) -> Clean:
    """Return what masks the API keys of all providers, and then does what the user wants done."""
    secrets = _secrets(settings, os.environ)

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, MASK)
        return text if redact is None else redact(text)

    return clean


def _secrets(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    told: Iterable[str | None] = (
        *(each.api_key for each in settings.providers.values()),
        environment.get("OPENAI_API_KEY"),
    )
    # The longest first: one may begin with another.
    return sorted(
        {each for each in told if each and len(each) >= _SHORTEST_SECRET}, key=lambda each: (-len(each), each)
    )


def _without_bytes(text: str) -> str:
    """Return a text, or of an image or a file in Base64 its type, size and digest, as ``sha256sum`` tells it."""
    found = _DATA_URL.match(text)
    if found is None and _BARE_BASE64.fullmatch(text) is None:
        return text
    start = 0 if found is None else found.end()
    try:
        data = base64.b64decode(text[start:], validate=True)
    except (binascii.Error, ValueError):
        return text
    return f"{text[:start]}[{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}]"
