"""The purse of a run: calls and money that any number of processes draw from, and never more than there is.

Drawing is one conditional update of the run's row. What a call under way may cost is held until it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from django.db.models import F, Value
from django.db.models.functions import Coalesce, Greatest

from llmcache.models import WarmingRun

if TYPE_CHECKING:
    from django.db.models import QuerySet

MOST_AT_ONCE: Final = 32
"""Calls of one block."""
_SHARE: Final = 32
"""A block is this part of what is left, so that blocks shrink as the purse empties."""
_MINUTE: Final = 60.0
_TRIES: Final = 5

State = WarmingRun.State


@dataclass(frozen=True, slots=True)
class Drawn:
    """What drawing has come to."""

    outcome: Literal["drawn", "paced", "exhausted", "stopped"]
    """``paced``: there is some, later. ``exhausted``: nothing is left. ``stopped``: the run is not under way."""
    permits: int = 0
    each_pico_usd: int = 0
    """What is held for each of them."""
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that has ended."""

    held_pico_usd: int
    cost_pico_usd: int | None
    """None where it is not known: what was held for it goes on to be."""


class Purse:
    """The purse of one run."""

    def __init__(self, run: WarmingRun, using: str, wall: Callable[[], float]) -> None:
        self._pk = run.pk
        self._using = using
        self._wall = wall

    def draw(self, wanted: int) -> Drawn:
        """Take a block of permits out of it, in one conditional update; where money counts, no more than are wanted."""
        for _ in range(_TRIES):
            run = self._row().get()
            if run.state != State.RUNNING:
                return Drawn("exhausted" if run.state == State.EXHAUSTED else "stopped")
            each = run.permit_pico_usd or 0
            left = _left(run, each)
            if left is not None and left < 1:
                return Drawn("exhausted")
            now = self._wall()
            if run.per_minute and run.paced_until > now:
                return Drawn("paced", wait_seconds=run.paced_until - now)
            count = _block(left, run.per_minute)
            if run.max_pico_usd is not None:
                # What lies about would be held at a price that may soon be too low.
                count = min(count, wanted)
            if self._take(run, count, each, now):
                return Drawn("drawn", count, each)
        # Others are quicker: a moment later there are fewer of them.
        return Drawn("paced", wait_seconds=0.05)

    def _take(self, run: WarmingRun, count: int, each: int, now: float) -> bool:
        enough = self._row().filter(state=State.RUNNING)
        change: dict[str, Any] = {"permits": F("permits") + count, "held_pico_usd": F("held_pico_usd") + count * each}
        if run.max_calls is not None:
            enough = enough.filter(permits__lte=F("max_calls") - count)
        if run.max_pico_usd is not None:
            enough = enough.filter(held_pico_usd__lte=F("max_pico_usd") - count * each)
        if run.per_minute:
            enough = enough.filter(paced_until__lte=now)
            change["paced_until"] = now + count * _MINUTE / run.per_minute
        return enough.update(**change) == 1

    def give_back(self, each_pico_usd: Iterable[int]) -> None:
        """Put permits back that were not used; each told with what is held for it."""
        held = list(each_pico_usd)
        if held:
            self._row().update(permits=F("permits") - len(held), held_pico_usd=F("held_pico_usd") - sum(held))

    def settle(self, ended: Iterable[Ended]) -> None:
        """Write what calls have come to."""
        calls = list(ended)
        if not calls:
            return
        known = [(each.held_pico_usd, each.cost_pico_usd) for each in calls if each.cost_pico_usd is not None]
        change: dict[str, Any] = {
            "calls": F("calls") + len(calls),
            "unpriced": F("unpriced") + len(calls) - len(known),
        }
        if known:
            spent = sum(cost for _, cost in known)
            change["spent_pico_usd"] = F("spent_pico_usd") + spent
            change["held_pico_usd"] = F("held_pico_usd") + spent - sum(held for held, _ in known)
            # From now on a call under way counts as the dearest there was.
            dearest = max(cost for _, cost in known)
            change["permit_pico_usd"] = Greatest(Coalesce(F("permit_pico_usd"), Value(0)), Value(dearest))
        self._row().update(**change)

    def _row(self) -> QuerySet[WarmingRun]:
        return WarmingRun.objects.using(self._using).filter(pk=self._pk)


def _left(run: WarmingRun, each: int) -> int | None:
    """Return how many calls are left; None for any number."""
    bounds: list[int] = []
    if run.max_calls is not None:
        bounds.append(run.max_calls - run.permits)
    if run.max_pico_usd is not None:
        money = run.max_pico_usd - run.held_pico_usd
        bounds.append(money // each if each else MOST_AT_ONCE * _SHARE if money > 0 else 0)
    return min(bounds) if bounds else None


def _block(left: int | None, per_minute: int | None) -> int:
    block = MOST_AT_ONCE if left is None else max(1, min(left // _SHARE, MOST_AT_ONCE))
    # Not more at once than a second has of them.
    return block if not per_minute else max(1, min(block, per_minute // 60))
