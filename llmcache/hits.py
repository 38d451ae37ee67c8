"""Hits: calls that a tier answers, from their arguments to the value, and nothing else.

This is the way of nearly all calls. What is unusual in any way is no hit here, and goes the way of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import ValidationError

from llmcache.bypassing import is_bypassed
from llmcache.engine.call import Done
from llmcache.engine.log_copy import Judge
from llmcache.prepared import tagged

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime
    from llmcache.prepared import Prepared
    from llmcache.tiers.stack import Held

Away = Callable[[], Coroutine[Any, Any, Done]]
"""Has a call answered in the background."""


class Unread(NamedTuple):
    """A call that memory does not answer, and nobody has looked further."""

    now: Runtime
    prepared: Prepared
    key: bytes
    is_confirmed: bool
    """Whether what is known of invalidations is recent; memory was not looked into otherwise."""


NO_HIT: Final = object()
LOOKED: Final = object()
"""No hit, and no tier below memory had one either."""


def hit(
    now: Runtime,
    content: Any,
    response_model: Any,
    options: tuple[Any, ...],
    params: dict[str, Any],
    in_memory: bool = False,
) -> Any:
    """Return the value of a call that a tier answers, or ``NO_HIT``, or ``LOOKED``; ``in_memory``: without I/O.

    It does nothing that another way can do: whatever is unusual is no hit.
    """
    try:
        prepared = now.prepared.get(tagged(response_model, options, params))
    except Exception:  # noqa: BLE001  # what cannot be hashed is not looked up
        return NO_HIT
    if prepared is None or type(content) is not str or is_bypassed() or not prepared.current():
        return NO_HIT
    try:
        data = content.encode()
    except UnicodeEncodeError:
        return NO_HIT
    if not 0 < len(data) <= now.max_text_bytes:
        return NO_HIT
    state = prepared.state.copy()
    state.update(data)
    key = state.digest()
    clock, log = now.monotonic(), now.log
    if clock >= log.good_until:
        if in_memory:
            return Unread(now, prepared, key, is_confirmed=False)
        if not log.confirm() or log.has_own:
            return NO_HIT
    memory = now.memory
    held = None if memory is None else memory.get(key)
    if held is None or (held.epoch != log.epoch and _is_void(now, prepared, key, held)):
        return Unread(now, prepared, key, is_confirmed=True) if in_memory else _hit_below(now, prepared, key)
    if clock >= held.expires or clock - held.written >= prepared.max_age:
        return NO_HIT
    try:
        value = prepared.validate(held.answer)
    except ValidationError:
        return NO_HIT
    now.counts.count(held.tally or prepared.tally(held))
    return value


def known_hit(now: Runtime, prepared: Prepared, key: bytes, *, in_memory: bool) -> Any:
    """Do as ``hit`` for a call whose key is known; ``in_memory``: ``NO_HIT`` too where another tier may have it."""
    if is_bypassed() or not prepared.current():
        return NO_HIT
    clock, log = now.monotonic(), now.log
    if clock >= log.good_until and (in_memory or not log.confirm() or log.has_own):
        return NO_HIT
    memory = now.memory
    held = None if memory is None else memory.get(key)
    if held is None or (held.epoch != log.epoch and _is_void(now, prepared, key, held)):
        return NO_HIT if in_memory else _hit_below(now, prepared, key)
    if clock >= held.expires or clock - held.written >= prepared.max_age:
        return NO_HIT
    try:
        value = prepared.validate(held.answer)
    except ValidationError:
        return NO_HIT
    now.counts.count(held.tally or prepared.tally(held))
    return value


def _is_void(now: Runtime, prepared: Prepared, key: bytes, held: Held) -> bool:
    epoch = now.log.epoch
    if not prepared.view(now.log, key).admits(held.entry.seen):
        return True
    held.epoch = epoch
    return False


def _judge(now: Runtime, prepared: Prepared, key: bytes) -> Judge | None:
    view = prepared.view(now.log, key)
    return None if view.is_free else Judge(view)


def _hit_below(now: Runtime, prepared: Prepared, key: bytes) -> Any:
    # Nearly always nothing is void: one comparison in place of four calls.
    judge = None if prepared.free_at == now.log.epoch else _judge(now, prepared, key)
    found = now.tiers.open_below(key, prepared.max_age, judge)
    if found is None:
        return LOOKED
    opened, tier = found
    answer = opened[0]
    try:
        value = prepared.validate(answer)
    except ValidationError:
        return NO_HIT
    now.counts.count(prepared.tally_opened(key, opened, tier))
    return value


async def read(unread: Unread, context: Context, again: Callable[[], Any], others: Callable[[bool], Away]) -> Any:
    """Return what ``_hit_below`` does, read without holding up the loop; where nothing is found, what ``others`` give.

    It takes no text, so that its frame shows none.
    """
    now, prepared, key = unread.now, unread.prepared, unread.key
    if not unread.is_confirmed:
        from llmcache import workers

        if not await workers.files.run(now.log.confirm):
            return await value_of(others(False))
        value = context.run(again)
        if type(value) is not Unread:
            return await value_of(others(False)) if value is NO_HIT else value
        if not value.is_confirmed:
            # A change of this context's own, which those who look at all of it know of.
            return await value_of(others(False))
    judge = _judge(now, prepared, key)
    found = await now.tiers.aread_below(key, prepared.max_age, judge) if now.tiers.below else None
    if found is not None:
        try:
            value = context.run(prepared.validate, found.entry.answer)
        except ValidationError:
            # Who asks looks once more, and says why.
            pass
        else:
            now.counts.count(prepared.tally_below(found))
            return value
    return await value_of(others(True))


async def value_of(away: Away) -> Any:
    """Return the value of a call that is answered in the background."""
    return (await away()).answered.value
