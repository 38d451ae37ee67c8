"""The bytes of an entry: what a tier keeps, and how they are read without trust.

One byte string: a fixed binary header, the provider's own answer text, the ids of the invalidations it has seen, and
meta facts as JSON. A hit needs the header and the answer only. Anything that is not whole, not of this format, or not
for this key is a miss: ``decode`` returns None and never raises.

Layout, little-endian::

    4   magic          first byte is no digit and no printable character: some clients turn numeric bytes to int
    1   format         1
    1   flags          1 = supplement; 2 = the check is a MAC
    2   reserved       0
    32  key            the request's own key: a reply meant for another request is a miss
    16  check          CRC-32 of all other bytes in its first four, or, with ``KEY_SECRETS``, a MAC of sixteen
    8   written_at     float, seconds since the epoch
    8   fresh_until    float, seconds since the epoch; infinity = no expiry
    8   stale_until    float, as above
    8   cost           integer of 10**-12 US dollars; -1 = not known
    4   latency_ms
    4   length of the answer      4   of the seen ids      4   of the meta facts
"""

from __future__ import annotations

import hmac
import json
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, TypeAlias, cast
from zlib import crc32

FORMAT: Final = 1
MAGIC: Final = b"\xf1LMC"
SUPPLEMENT: Final = 1
MAC: Final = 2
UNKNOWN_COST: Final = -1
MOST_COST: Final = 10**16
"""Ten thousand dollars: no answer costs more, and sums of what claims to would leave the database's integers."""
SEEN_ID_BYTES: Final = 16
MAX_SEEN: Final = 64

_HEADER = struct.Struct("<4sBBH32s16sdddqIIII")
_HEADER_SIZE: Final = _HEADER.size
# The same from the check on: what comes before is compared as it is. The check is a CRC-32 and twelve zeros.
_READ: Final = struct.Struct("<IQIdddqIIII").unpack_from
_KEY_END: Final = 40
_CHECK_END: Final = 56
_CHECK_PADDING = b"\0" * 12
_STARTS: Final = tuple(MAGIC + bytes((FORMAT, flags, 0, 0)) for flags in range(4))
"""The first eight bytes, by the flags."""
_STARTED: Final = tuple(map(crc32, _STARTS))
"""Their CRC-32, by the flags."""

Opened: TypeAlias = tuple[bytes, float, float, float, int, int, int]
"""Answer, ``written_at``, ``fresh_until``, ``stale_until``, ``cost``, ``latency_ms`` and the length of the seen ids."""


@dataclass(slots=True)
class Entry:
    """An answer with what is needed to decide whether it may be served."""

    key: bytes
    answer: bytes
    """The provider's own answer text, UTF-8; hit and miss validate these same bytes."""
    written_at: float
    """Wall-clock seconds at which the answer was received."""
    fresh_until: float
    """Wall-clock seconds; infinity when it does not expire."""
    stale_until: float
    cost: int = UNKNOWN_COST
    """What making it cost, all attempts included, in 10**-12 US dollars."""
    latency_ms: int = 0
    seen: bytes = b""
    meta: bytes = b"{}"

    def opened(self) -> Opened:
        """Return what ``opened`` does of this entry's bytes."""
        times = self.written_at, self.fresh_until, self.stale_until
        return self.answer, *times, self.cost, self.latency_ms, len(self.seen)

    def facts(self) -> dict[str, Any]:
        """Return the meta facts; an empty dict when they cannot be read."""
        try:
            facts: Any = json.loads(self.meta)
        except (ValueError, RecursionError):
            return {}
        return cast("dict[str, Any]", facts) if isinstance(facts, dict) else {}


def _mac(secret: bytes, *parts: bytes) -> bytes:
    mac = blake2b(key=secret, digest_size=_CHECK_END - _KEY_END)
    for part in parts:
        mac.update(part)
    return mac.digest()


def encode(entry: Entry, *, flags: int = 0, secret: bytes = b"") -> bytes:
    """Return the bytes of an entry for a tier to keep; with a ``secret`` their check is a MAC."""
    head = _HEADER.pack(
        MAGIC,
        FORMAT,
        flags | (MAC if secret else 0),
        0,
        entry.key,
        b"",
        entry.written_at,
        entry.fresh_until,
        entry.stale_until,
        entry.cost,
        min(entry.latency_ms, 2**32 - 1),
        len(entry.answer),
        len(entry.seen),
        len(entry.meta),
    )
    body = entry.answer + entry.seen + entry.meta
    before, after = head[:_KEY_END], head[_CHECK_END:]
    if secret:
        return b"".join((before, _mac(secret, before, after, body), after, body))
    check = crc32(body, crc32(after, crc32(before)))
    return b"".join((before, check.to_bytes(4, "little"), _CHECK_PADDING, after, body))


def decode(data: object, key: bytes, *, flags: int = 0, secret: bytes = b"") -> Entry | None:
    """Return the entry that these bytes hold for this key, or None for anything else.

    With a ``secret``, anything else is also what was not sealed with that very one.
    """
    found = opened(data, key, secret, flags)
    if found is None:
        return None
    answer, written_at, fresh_until, stale_until, cost, latency_ms, seen_size = found
    whole = cast("bytes", data)
    if stale_until == fresh_until:
        # One object for both: memory holds an entry for each answer.
        stale_until = fresh_until
    answer_end = _HEADER_SIZE + len(answer)
    seen_end = answer_end + seen_size
    seen, meta = whole[answer_end:seen_end], whole[seen_end:]
    return Entry(key, answer, written_at, fresh_until, stale_until, cost, latency_ms, seen, meta)


def opened(data: Any, key: bytes, secret: bytes = b"", flags: int = 0) -> Opened | None:
    """Return what a hit needs of the entry that ``decode`` would return, in two thirds of the time.

    The lengths that the header announces are compared with the bytes that are there before anything is cut out, so
    that nothing is allocated on the word of a stranger.
    """
    if secret:
        flags |= MAC
    if type(data) is not bytes or len(data) < _HEADER_SIZE or data[:_KEY_END] != _STARTS[flags] + key:
        return None
    (
        check,
        padding,
        more_padding,
        written_at,
        fresh_until,
        stale_until,
        cost,
        latency_ms,
        answer_size,
        seen_size,
        meta_size,
    ) = _READ(data, _KEY_END)
    if (
        len(data) != _HEADER_SIZE + answer_size + seen_size + meta_size
        or (seen_size and (seen_size % SEEN_ID_BYTES or seen_size > MAX_SEEN * SEEN_ID_BYTES))
        or not UNKNOWN_COST <= cost <= MOST_COST
    ):
        return None
    rest = data[_CHECK_END:]
    if secret:
        if not hmac.compare_digest(data[_KEY_END:_CHECK_END], _mac(secret, data[:_KEY_END], rest)):
            return None
    # What comes before the check has been compared: its CRC is that of what it is equal to.
    elif check != crc32(rest, crc32(key, _STARTED[flags])) or padding or more_padding:
        return None
    answer = data[_HEADER_SIZE : _HEADER_SIZE + answer_size]
    return answer, written_at, fresh_until, stale_until, cost, latency_ms, seen_size
