"""House-keeping: what is to be done now and then, by a task, by cron, or by hand.

Each step may be left out, be done twice, or by several at once; each takes no longer than it is given. None is needed
for answers to be right, but that invalidations that were planned come into force by nobody else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llmcache.engine import process
from llmcache.exceptions import LLMCacheError
from llmcache.flushing import flush, require_no_loop

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

logger = logging.getLogger("llmcache.housekeeping")

Send = Callable[[str, str | int], bool]
"""Has a task of a name do something about an id; tells whether it will."""
SECONDS: Final = 20.0
"""How long all steps together take at most, but for one that is under way."""
LEAST_SECONDS: Final = 1.0
"""What each step gets, however long those before it have taken."""


@dataclass(frozen=True, slots=True)
class House:
    """What was done."""

    done: dict[str, Any] = field(default_factory=dict)
    """By step: a number, or numbers by name. What is left for the next time is not told."""
    failed: dict[str, str] = field(default_factory=dict)
    """By step that could not be done: the name of what it raised."""


def keep_house(seconds: float = SECONDS, send: Send | None = None) -> House:
    """Do each step once, and say what was done. A step that fails holds up no other.

    ``send``: has a task of this name do what takes long, about an id, and tells whether it will; without it that is
    done here, as far as there is time. Raises ``ConfigurationError``, ``AsyncContext``, and nothing else.
    """
    require_no_loop("housekeeping.keep_house")
    now = process.current()
    now.require_database()
    until, house = time.monotonic() + seconds, House()
    for name, step in STEPS.items():
        try:
            house.done[name] = step(now, max(until - time.monotonic(), LEAST_SECONDS), send)
        except Exception as error:  # noqa: BLE001  # of whatever database or store; the other steps are worth doing
            # Ours hold nobody's text, and say what to do.
            house.failed[name] = str(error) if isinstance(error, LLMCacheError) else type(error).__name__
            logger.warning("House-keeping: %s could not be done: %s.", name, type(error).__name__)
    return house


def planned_invalidations(now: Runtime, seconds: float, send: Send | None = None) -> int:  # noqa: ARG001
    """Bring into force what was planned and is due; return how many."""
    from llmcache.planned import bring_all_into_force

    return bring_all_into_force()


def journals(now: Runtime, seconds: float, send: Send | None = None) -> bool:  # noqa: ARG001
    """Bring in what this process knows, and journals of dead ones of this machine; return whether all is in."""
    return flush(seconds)


def due_plans(now: Runtime, seconds: float, send: Send | None = None) -> int:  # noqa: ARG001
    """Begin runs of the plans of warming that are due; return how many are due. The runs are worked at later."""
    from llmcache.warming import plans

    due, errors = plans.due_plans(), list[LLMCacheError]()
    for plan in due:
        if send is not None and send("run_plan", plan.pk):
            continue
        try:
            plans.run_plan(plan)
        except LLMCacheError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return len(due)


def stalled_runs(now: Runtime, seconds: float, send: Send | None = None) -> int:  # noqa: ARG001
    """Have runs of warming go on that nobody works at; return how many there were."""
    from llmcache.warming.runs import unseen

    until, found = time.monotonic() + seconds, unseen()
    for uid in found:
        if send is not None and send("work_on_run", uid):
            continue
        work_for(uid, until - time.monotonic())
    return len(found)


def work_for(uid: str, seconds: float) -> bool:
    """Work at a run of warming for so long; return whether it goes on and something is left of it."""
    from llmcache.warming.work import work

    until = time.monotonic() + seconds
    found = work(uid, should_stop=lambda: time.monotonic() >= until)
    return found.state == "running" and found.to_ask > 0


def entries_told(now: Runtime, seconds: float, send: Send | None = None) -> int:  # noqa: ARG001
    """Bring rows of entries up to date with the invalidation log; return how many were changed."""
    from llmcache.marking import tell_entries

    return tell_entries(now, seconds)


def pruned(now: Runtime, seconds: float, send: Send | None = None) -> dict[str, int]:  # noqa: ARG001
    """Delete rows that are older than ``RETENTION`` says; return how many, by what they were."""
    from llmcache.pruning import prune_rows

    return prune_rows(now, seconds)


STEPS: Final[dict[str, Callable[[Runtime, float, Send | None], Any]]] = {
    "planned_invalidations": planned_invalidations,
    "due_plans": due_plans,
    "journals": journals,
    "entries_told": entries_told,
    "pruned": pruned,
    "stalled_runs": stalled_runs,
}
"""In the order in which they are done: first what somebody waits for, and last what takes all the time there is."""
