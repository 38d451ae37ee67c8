"""Keys: the 32 bytes that are equal exactly when two requests may share an answer.

A key is a hash over framed parts, SHA-256 or, with ``KEY_SECRETS``, BLAKE2b under a key of the secret's. Each part is
preceded by its length, so that no two lists of parts run together:

1. what a plan knows: provider identity, kind, the response type's name, ``VERSION``, and the body as it is built,
   without the user's content and without what is not keyed;
2. the call's scope: tenant, subject, tags, version, variant, each tagged with its type;
3. the content, last, so that it needs no frame.

Not in a key: API keys, timeouts, the package's version, import paths. An upgrade must not make users pay again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from hashlib import _Hash  # pyright: ignore[reportPrivateUsage]  # typeshed has no public name for it

HashState: TypeAlias = "_Hash | hashlib.blake2b"

KEY_FORMAT: Final = 1
MAX_NAMESPACE: Final = 64
_LABEL: Final = b"llmcache key 1\n"
_TEXT: Final = b"t"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def frame(part: bytes) -> bytes:
    """Return a part preceded by its length in eight bytes."""
    return len(part).to_bytes(8, "little") + part


def canonical_json(value: Any) -> bytes:
    """Return JSON in the order it was built: sorted keys would make two different schemas one.

    Raises ``ValueError`` for NaN and infinity, ``TypeError`` for what is no JSON.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def plan_state(
    *, identity: str, kind: str, type_name: str, version: str, head: bytes, secret: bytes = b""
) -> HashState:
    """Return the hash state of everything a plan knows; a key is a copy of it, continued."""
    state = hashlib.blake2b(_LABEL, key=secret, digest_size=32) if secret else hashlib.sha256(_LABEL)
    for part in (identity.encode(), kind.encode(), type_name.encode(), version.encode(), head):
        state.update(frame(part))
    return state


class Sample(NamedTuple):
    """The variant of a further answer to a request."""

    of: str | int | None
    """The request's own variant."""
    number: int
    """Which of its further answers it is, from 1: the first answer is that of the request itself."""


def scope(
    tenant: str | None,
    subject: str | None,
    tags: Iterable[str],
    version: str | None,
    variant: str | int | Sample | None,
) -> bytes:
    """Return the bytes of what a call names beside its content; a word and nothing are never equal."""
    names = sorted({tag.encode() for tag in tags})
    parts = [_tagged(tenant), _tagged(subject), len(names).to_bytes(8, "little"), *map(frame, names)]
    return b"".join((*parts, _tagged(version), _tagged(variant), _TEXT))


def _tagged(value: str | int | Sample | None) -> bytes:
    if value is None:
        return b"\0"
    if isinstance(value, Sample):
        # A tag of its own: no word and no number that a project calls a variant is one of another's samples.
        return b"\3" + value.number.to_bytes(8, "little") + _tagged(value.of)
    if isinstance(value, str):
        return b"\1" + frame(value.encode())
    return b"\2" + frame(str(value).encode())


NO_SCOPE: Final = scope(None, None, (), None, None)


def provider_identity(alias: str, base_url: str) -> str:
    """Return what names a provider in keys: its alias with the host and path of its base URL.

    On loopback the port is left out: a server that a test or a demo starts anew lies at another port each time.
    """
    url = urlsplit(base_url)
    host = url.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    port = "" if url.port in (None, _DEFAULT_PORTS.get(url.scheme)) or is_loopback(host) else f":{url.port}"
    return f"{alias} {shown}{port}{url.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def default_namespace(settings_module: str, database: dict[str, Any]) -> str:
    """Return what keeps two projects, and a test run and its project, apart in one store: 12 hex digits.

    A hash of the settings package and of the connected database's engine, host, port and name, the name of an SQLite
    file made absolute.
    """
    name = str(database.get("NAME") or "")
    if "sqlite" in str(database.get("ENGINE", "")) and name and not re.match(r":memory:|file:", name):
        name = str(Path(name).absolute())
    parts = [settings_module.partition(".")[0], *(str(database.get(k) or "") for k in ("ENGINE", "HOST", "PORT")), name]
    return hashlib.sha256(b"".join(frame(part.encode()) for part in parts)).hexdigest()[:12]


def storage_key(namespace: str, key: bytes, secret_id: str | None = None) -> str:
    """Return the name under which an entry lies in a tier; ``secret_id`` is that of the secret its key was made with.

    The braces make Redis Cluster put an entry, its supplement and its lease into one slot.
    """
    return f"{storage_prefix(namespace, secret_id)}{key.hex()}}}"


def storage_prefix(namespace: str, secret_id: str | None) -> str:
    """Return what comes before the key in all names of one namespace and secret; a closing brace comes after it."""
    by = "" if secret_id is None else f"{secret_id}:"
    return f"llmcache:{namespace}:{KEY_FORMAT}:{by}{{"


def supplement_key(namespace: str, key: bytes, secret_id: str | None = None) -> str:
    """Return the name under which lies what a hit does not need."""
    return storage_key(namespace, key, secret_id) + ":more"


def lease_key(namespace: str, key: bytes, seen: bytes, secret_id: str | None = None) -> str:
    """Return the name of the lease of those who ask for a key and have seen these rows of the invalidation log."""
    after = f":{hashlib.sha256(seen).hexdigest()[:16]}" if seen else ""
    return f"{storage_key(namespace, key, secret_id)}:lead{after}"


def board_key(namespace: str) -> str:
    """Return the name under which processes leave the state of the invalidation log for each other."""
    return f"llmcache:{namespace}:{KEY_FORMAT}:log"
