"""Leases in Redis: by scripts, one step each; by plain commands where scripts are denied."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from llmcache.engine.leases import ANY, HEAD_BYTES, TOKEN_BYTES, Lease, Reply, Turn
from llmcache.tiers.redis_tier import RedisTier

logger = logging.getLogger("llmcache.tiers")

_FAILED: Final = b"!"
"""Begins what lies in a lease's place when its holder's call has failed: the token and how it failed come after it."""

# KEYS: entry, lease. ARGV: token, milliseconds, refused head, whose lease may be taken over, whose was waited for.
_TAKE: Final = f"""
local head = redis.call('GETRANGE', KEYS[1], 0, {HEAD_BYTES - 1})
if ARGV[3] ~= '{ANY.decode()}' and head ~= '' and head ~= ARGV[3] then
  return {{'found', redis.call('GET', KEYS[1])}}
end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] and holder ~= ARGV[4] then
  if string.sub(holder, 1, 1) ~= '!' or #holder == {TOKEN_BYTES} then
    return {{'waits', holder, head}}
  end
  if ARGV[5] ~= '' and string.sub(holder, 2, {TOKEN_BYTES + 1}) == ARGV[5] then
    return {{'failed', string.sub(holder, {TOKEN_BYTES + 2})}}
  end
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {{'led', '', head}}
"""
# KEYS: entry, more, lease. ARGV: token, head, entry, more, milliseconds or nothing.
_PUBLISH: Final = f"""
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[1] and (string.sub(holder, 1, 1) ~= '!' or #holder == {TOKEN_BYTES}) then
  return 0
end
if ARGV[2] ~= '{ANY.decode()}' and redis.call('GETRANGE', KEYS[1], 0, {HEAD_BYTES - 1}) ~= ARGV[2] then
  if holder == ARGV[1] then redis.call('DEL', KEYS[3]) end
  return 0
end
if ARGV[5] == '' then
  redis.call('SET', KEYS[2], ARGV[4])
  redis.call('SET', KEYS[1], ARGV[3])
else
  redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[5])
end
if holder == ARGV[1] then redis.call('DEL', KEYS[3]) end
return 1
"""
# KEYS: leases. ARGV: milliseconds, and the token of each.
_RENEW: Final = """
for place, name in ipairs(KEYS) do
  local holder = redis.call('GET', name)
  if not holder or holder == ARGV[place + 1] then
    redis.call('SET', name, ARGV[place + 1], 'PX', ARGV[1])
  end
end
"""
# KEYS: lease. ARGV: token, what is to lie there or nothing, milliseconds.
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
end
"""


class RedisLeases:
    """The leases in one Redis, beside its entries."""

    def __init__(self, tier: RedisTier) -> None:
        self.tier = tier
        self._denied = False

    def take(self, turn: Turn, seconds: float, instead_of: bytes) -> Reply:
        """Take a lease, unless there is an entry, or another's lease."""
        keys = [self.tier.named(turn.names.entry), self.tier.named(turn.names.lease)]
        given = (turn.token, _milliseconds(seconds), turn.refused, instead_of, turn.holder)
        found = self._run(_TAKE, turn.names.entry, keys, given)
        if found is None:
            return self._take_by_steps(turn, keys, seconds, instead_of)
        state, *data = found
        return _reply(state.decode(), *data)

    def publish(self, lease: Lease, entry: bytes, more: bytes, ttl_seconds: float | None) -> bool:
        """Keep both parts of an entry and end the lease, where it allows that."""
        names = lease.names
        keys = [self.tier.named(name) for name in (names.entry, names.more, names.lease)]
        lives = b"" if ttl_seconds is None else _milliseconds(ttl_seconds)
        try:
            kept = self._run(_PUBLISH, names.entry, keys, (lease.token, lease.head, entry, more, lives))
        except ResponseError:
            # Somebody else's value lies in one of the places, and nobody can lead there before it is gone; or it cannot
            # be written at all, which is then counted.
            for name, value in ((names.more, more), (names.entry, entry)):
                self.tier.set(name, value, ttl_seconds)
            return True
        if kept is None:
            kept = self._publish_by_steps(lease, keys, entry, more, lives)
        self.tier.note_written()
        return kept == 1

    def renew(self, leases: Sequence[Lease], seconds: float) -> None:
        """Let leases live for so long from now."""
        of_server: defaultdict[int, list[Lease]] = defaultdict(list)
        for lease in leases:
            of_server[self.tier.server_number(lease.names.lease)].append(lease)
        for group in of_server.values():
            keys = [self.tier.named(lease.names.lease) for lease in group]
            tokens = [lease.token for lease in group]
            if self._run(_RENEW, group[0].names.lease, keys, (_milliseconds(seconds), *tokens), answers=False):
                continue
            for lease, key in zip(group, keys, strict=True):
                if self.tier.command(lease.names.lease, "GET", key) in (None, lease.token):
                    self.tier.command(lease.names.lease, "SET", key, lease.token, "PX", _milliseconds(seconds))

    def release(self, lease: Lease, outcome: bytes, seconds: float) -> None:
        """End a lease that is still held, and leave in its place how the call has failed."""
        name = lease.names.lease
        key = self.tier.named(name)
        left = _FAILED + lease.token + outcome if outcome else b""
        if self._run(_RELEASE, name, [key], (lease.token, left, _milliseconds(seconds)), answers=False):
            return
        if self.tier.command(name, "GET", key) == lease.token:
            if left:
                self.tier.command(name, "SET", key, left, "PX", _milliseconds(seconds))
            else:
                self.tier.command(name, "DEL", key)

    def close(self) -> None:
        """Do nothing: the tier has what is open."""

    def _run(self, script: str, of: str, keys: list[str], given: tuple[Any, ...], *, answers: bool = True) -> Any:
        """Return what a script does; None where the server denies scripts. One that answers nothing gives True."""
        if self._denied:
            return None
        try:
            try:
                found = self.tier.command(of, "EVALSHA", _DIGESTS[script], len(keys), *keys, *given)
            except NoScriptError:
                found = self.tier.command(of, "EVAL", script, len(keys), *keys, *given)
        except ResponseError as error:
            if not isinstance(error, NoPermissionError) and not str(error).startswith("unknown command"):
                raise
            self._denied = True
            logger.warning(
                "The tier %r does not let scripts be run: %s. Processes that ask for the same at the same moment may "
                "both ask the provider. Allow EVAL and EVALSHA.",
                self.tier.name,
                str(error)[:200],
            )
            return None
        return found if answers else True

    def _take_by_steps(self, turn: Turn, keys: list[str], seconds: float, instead_of: bytes) -> Reply:
        name, (entry, lease) = turn.names.entry, keys
        value: bytes = self.tier.command(name, "GET", entry) or b""
        head = value[:HEAD_BYTES]
        if value and turn.refused not in (ANY, head):
            return Reply("found", value)
        if self.tier.command(name, "SET", lease, turn.token, "NX", "PX", _milliseconds(seconds)):
            return Reply("led", head=head)
        holder: bytes = self.tier.command(name, "GET", lease) or b""
        has_failed = holder.startswith(_FAILED) and len(holder) != TOKEN_BYTES
        if has_failed and turn.holder and holder[1 : TOKEN_BYTES + 1] == turn.holder:
            return Reply("failed", holder[TOKEN_BYTES + 1 :])
        if has_failed or not holder or holder in (turn.token, instead_of):
            self.tier.command(name, "SET", lease, turn.token, "PX", _milliseconds(seconds))
            return Reply("led", head=head)
        return Reply("waits", head=head, holder=holder)

    def _publish_by_steps(self, lease: Lease, keys: list[str], entry: bytes, more: bytes, lives: Any) -> int:
        name = lease.names.entry
        holder: bytes | None = self.tier.command(name, "GET", keys[2])
        is_free = holder is None or (holder.startswith(_FAILED) and len(holder) != TOKEN_BYTES)
        if not is_free and holder != lease.token:
            return 0
        head = (self.tier.command(name, "GETRANGE", keys[0], 0, HEAD_BYTES - 1)) or b""
        kept = lease.head in (ANY, head)
        if kept:
            until = ("PX", lives) if lives else ()
            self.tier.command(name, "SET", keys[1], more, *until)
            self.tier.command(name, "SET", keys[0], entry, *until)
        if holder == lease.token:
            self.tier.command(name, "DEL", keys[2])
        return int(kept)


_DIGESTS: Final = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (_TAKE, _PUBLISH, _RENEW, _RELEASE)
}


def _reply(state: Any, data: bytes = b"", head: bytes = b"") -> Reply:
    return Reply(state, head=head, holder=data) if state == "waits" else Reply(state, data, head)


def _milliseconds(seconds: float) -> int:
    return max(math.ceil(seconds * 1_000), 1)
