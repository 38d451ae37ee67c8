"""What the tiers hold for a call now, and what the call could do with it; nothing is promoted, counted or written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmcache.engine.log_copy import View
from llmcache.explaining.explanations import Found, TierPlace
from llmcache.tiers.stack import Place, TierStack

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.engine.runtime import Runtime
    from llmcache.envelope import Entry

_CLOCK_SKEW: Final = 60.0
"""An entry from further in the future than clocks differ is not used, see ``tiers.stack``."""
_BEFORE: Final[tuple[Found, ...]] = ("fresh", "stale")


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one tier holds, and whether it is void."""

    place: TierPlace
    entry: Entry | None
    """Holds an answer: it must not be told."""
    views: tuple[View, ...] = ()
    """Of the invalidation log, all of which have to admit it."""

    @property
    def is_void(self) -> bool:
        """Whether it was invalidated, whatever else it is."""
        return self.entry is not None and not all(view.admits(self.entry.seen) for view in self.views)


def look(now: Runtime, call: Call, view: View) -> list[Sighting]:
    """Return what each tier holds, fastest first; then what lies under the keys of secrets that only read."""
    memory = None if now.tiers.memory is None else now.tiers.memory.name
    places = now.tiers.places(call.key)
    unread = {state.name for state in now.tiers.states() if not state.reads}
    found = [_sighting(now, call, place, (view,), memory, unread) for place in places]
    return [*found, *_older(now, call, view)]


def _older(now: Runtime, call: Call, view: View) -> Iterator[Sighting]:
    for seal, key in zip(now.seals[1:], call.older_keys, strict=True):
        views = (view, now.log.view(key, call.facts))
        for tier in now.tiers.below:
            # As a stack of its own: where it lies is what is asked.
            (place,) = TierStack(None, (tier,), now.namespace, now.clock, seal=seal).places(key)
            if place.entry is not None:
                yield _sighting(now, call, place, views, None, set())


def _sighting(
    now: Runtime, call: Call, place: Place, views: tuple[View, ...], memory: str | None, unread: set[str]
) -> Sighting:
    entry = place.entry
    if entry is None:
        found: Found = "damaged" if place.state == "damaged" else "unreachable" if place.tier in unread else "absent"
        return Sighting(TierPlace(place.tier, found), None)
    age = now.clock.wall() - entry.written_at
    # In memory ages are told by a clock that cannot be set back.
    found = "future" if age < -_CLOCK_SKEW and place.tier != memory else _usable(call, place, max(age, 0.0))
    if found in _BEFORE and not all(view.admits(entry.seen) for view in views):
        found = "invalidated"
    left = call.max_age - age if place.ttl_left is None else min(place.ttl_left, call.max_age - age)
    left = None if left == float("inf") else max(left, 0.0)
    return Sighting(TierPlace(place.tier, found, max(age, 0.0), left), entry, views)


def _usable(call: Call, place: Place, age: float) -> Found:
    if place.state == "fresh" and age < call.oldest:
        return "fresh"
    if place.state in _BEFORE and age < call.stalest:
        return "stale"
    return "too_old" if place.state == "fresh" else "expired"


def deciding(found: list[Sighting]) -> Sighting | None:
    """Return what a call takes, or else would take if it could: a fresh one, a stale one, the newest."""
    held = [each for each in found if each.entry is not None]
    fresh = [each for each in held if each.place.found == "fresh"]
    stale = [each for each in held if each.place.found == "stale"]
    newest = sorted(stale or held, key=_written_at, reverse=True)
    if fresh or newest:
        return (fresh or newest)[0]
    return next((each for state in ("damaged", "unreachable") for each in found if each.place.found == state), None)


def _written_at(each: Sighting) -> float:
    return 0.0 if each.entry is None else each.entry.written_at
