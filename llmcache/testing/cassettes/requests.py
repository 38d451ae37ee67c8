"""A request as it is recorded: what would change the answer, without secrets, and images and files by digest.

The same is made of a request that is sent to be answered by a cassette, so the two are compared as they are written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Collection
from typing import Any, Final

from llmcache.keys import Sample
from llmcache.providers.base import TRANSPORT_FIELDS, Body
from llmcache.testing.cassettes.cleaning import Clean, cleaned_text, mapped

_DATA_URL: Final = re.compile(r"data:[^,;\s]{0,200}(?:;[^,;\s]{0,200}){0,5};base64,")
_BARE_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{1024,}={0,2}")


def recorded(
    model: str,
    body: Body,
    clean: Clean,
    variant: str | int | Sample | None = None,
    *,
    unkeyed: Collection[str] = (),
) -> dict[str, Any]:
    """Return the request that a body is: ``model`` as ``provider/model``, then the body's fields in their order.

    Without what is ``unkeyed``: it may differ each time, and whoever keeps it out of the key says that it does not
    change the answer. ``variant`` is not sent, but it is what tells the answers to one request apart when they are
    asked for at once.
    """
    left_out = TRANSPORT_FIELDS.union(unkeyed)
    data = json.loads(json.dumps({name: value for name, value in body.items() if name not in left_out}))
    data.pop("model", None)
    of, number = variant if isinstance(variant, Sample) else (variant, None)
    apart = {name: value for name, value in (("variant", of), ("sample", number)) if value is not None}
    return {"model": model, **apart, **mapped(data, lambda text: cleaned_text(_without_bytes(text), clean))}


def identity(request: dict[str, Any]) -> str:
    """Return what is equal for equal requests, in whatever order their fields are written."""
    return json.dumps(request, sort_keys=True)


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
