"""Hashes of what a key is made of, so that two requests can be compared without their texts.

They are made as keys are: SHA-256, or, with ``KEY_SECRETS``, BLAKE2b under a key of the first secret's. What an entry's
row tells in plain columns has none: kind, model, response type, schema, tenant, subject and tags.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmcache import keys

if TYPE_CHECKING:
    from llmcache.content.messages import Content
    from llmcache.engine.call import Call
    from llmcache.plans import Plan
    from llmcache.sealing import Seal

HASH_BYTES: Final = 16
MAX_PARAMS: Final = 20
"""Parameters that have a hash of their own; the others have one together."""
MAX_PLAIN: Final = 200
"""Characters of a plain column, ``models.MAX_NAME``; what is cut there has a hash too."""
MAX_TAGS: Final = 50
"""Tags that an entry's row tells; where there are more, all of them have a hash."""
# What Python takes as the name of an argument, within reason: others may be a text.
_NAME: Final = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)


def content_hash(content: str | Content, seal: Seal) -> str:
    """Return what stands for a content, in 32 hex digits."""
    return _hash("content", content.encode() if isinstance(content, str) else content.key_bytes, seal)


def components_of(call: Call, seal: Seal) -> dict[str, Any]:
    """Return the hashes of what no plain column of an entry's row tells; what a call does not have is left out.

    ``by`` is the id of the secret they are made with: hashes under two secrets cannot be compared.
    """
    plan = call.plan
    told: dict[str, Any] = {
        **form_of(plan, seal),
        "provider": _hash("provider", plan.provider.identity.encode(), seal),
        "version": None if call.version is None else _hash("version", call.version.encode(), seal),
        # A number and its digits are two variants.
        "variant": None if call.variant is None else _hash("variant", keys.canonical_json(call.variant), seal),
        **_params(plan.params, seal),
        "cut": _cut(call, seal),
    }
    return {name: value for name, value in told.items() if value is not None and value != {}}


def form_of(plan: Plan, seal: Seal) -> dict[str, str | None]:
    """Return the hashes of what a project changes for all texts at once: the system prompt and the versions.

    The form of the schema stands in a plain column.
    """
    return {
        "by": seal.id,
        "project": _hash("project", plan.version.encode(), seal),
        "system": None if plan.system is None else _hash("system", plan.system.encode(), seal),
    }


def _params(params: Mapping[str, Any], seal: Seal) -> dict[str, Any]:
    named = [name for name in sorted(params) if _NAME.fullmatch(name)][:MAX_PARAMS]
    others = {name: params[name] for name in sorted(params.keys() - set(named))}
    return {
        "params": {name: _hash("param", keys.canonical_json(params[name]), seal) for name in named},
        "others": _hash("others", keys.canonical_json(others), seal) if others else None,
    }


def _cut(call: Call, seal: Seal) -> dict[str, str]:
    """Return hashes of what a plain column does not tell whole: without them, two tenants could look like one."""
    plain = {
        "tenant": call.tenant,
        "kind": call.plan.kind,
        "model": call.plan.model,
        "response_type": call.plan.response.name,
    }
    cut = {name: _hash(name, word.encode(), seal) for name, word in plain.items() if word and is_cut(word)}
    if len(call.tags) > MAX_TAGS or any(map(is_cut, call.tags)):
        cut["tags"] = _hash("tags", json.dumps(call.tags).encode(), seal)
    return cut


def is_cut(word: str) -> bool:
    """Return whether a plain column does not hold a word as it is."""
    return len(word) > MAX_PLAIN or "\0" in word


def _hash(name: str, data: bytes, seal: Seal) -> str:
    # Framed with its name: the same word as a system prompt and as a content has two hashes.
    whole = b"llmcache component " + keys.frame(name.encode()) + data
    if seal.id is None:
        return hashlib.sha256(whole).hexdigest()[: 2 * HASH_BYTES]
    return hashlib.blake2b(whole, key=seal.key_hash, digest_size=HASH_BYTES).hexdigest()


def checked_hash(value: Any) -> str:
    """Return a hash that a journal's line tells; empty for what is none."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) else ""


def checked_components(value: Any) -> dict[str, Any]:
    """Return the hashes that a journal's line tells, without what is none: whoever can write a file can write one."""
    if not isinstance(value, dict):
        return {}
    by = value.get("by")
    found: dict[str, Any] = _hashes(value, ("provider", "project", "system", "version", "variant", "others"))
    for name, most in (("params", MAX_PARAMS), ("cut", 5)):
        part = value.get(name)
        if isinstance(part, dict):
            names = [each for each in part if isinstance(each, str) and _NAME.fullmatch(each)]
            found[name] = _hashes(part, names[:most])
    if isinstance(by, str) and _NAME_OF_SECRET.fullmatch(by):
        found["by"] = by
    return found


_NAME_OF_SECRET: Final = re.compile(r"[0-9a-z]{1,16}")


def _hashes(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: kept for name in names if (kept := checked_hash(values.get(name)))}
