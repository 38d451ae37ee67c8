"""Working at a run: one thread that shares out items and permits and writes what came of them, and a crew that asks.

Any number of processes may do so at one run. Each may be killed at any moment.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from django.db import InterfaceError, OperationalError, connections
from django.utils import timezone

from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.flushing import require_no_loop
from llmcache.models import WarmingItem, WarmingRun
from llmcache.money.facts import unix_of
from llmcache.warming.claims import Claims, Done
from llmcache.warming.crew import Counter, Crew, Permits, Result
from llmcache.warming.purse import Ended, Purse
from llmcache.warming.runs import Progress, end_run, free_plan, number, progress_of, run_of, wanted_by
from llmcache.warming_models import MAX_CONCURRENCY

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from llmcache.engine.runtime import Runtime
    from llmcache.warming.claims import Claimed
    from llmcache.warming.wanted import Wanted

T = TypeVar("T")

WRITE_SECONDS: Final = 0.25
_MOST_UNWRITTEN: Final = 64
LOOK_SECONDS: Final = 1.0
"""How often who works looks whether the run was paused or cancelled."""
_STEP_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 30.0
"""How long a database may be locked or gone."""
_MOST_TRIES: Final = 3
_MOST_TROUBLES: Final = 10
"""Failures on the way in a row, after which the run is paused."""

_Run = WarmingRun.State
_Item = WarmingItem.State


def work(
    run_uid: str,
    *,
    response_model: Any = None,
    concurrency: int | None = None,
    most: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Progress:
    """Ask for what a run has left until that is nothing, its budget is used up or it is stopped; return how far it is.

    ``response_model``: where ``KINDS`` names none for its kind. ``concurrency``: calls at the same time, of this
    process; by default what the run was prepared with. ``most``: items that this process takes. ``should_stop``: asked
    some times a second, in this thread; when it says True, calls under way are waited for and all else is given back.
    A ``KeyboardInterrupt`` does so too, and is raised after it.

    A run that is paused, cancelled or done is left alone. What other processes have claimed is waited for: where they
    die, it is asked here. Raises ``InvalidRequest`` for an unknown run and inside a transaction,
    ``ConfigurationError``, ``AsyncContext``, and the database's own errors.
    """
    require_no_loop("warm")
    now = process.current()
    run = run_of(now, run_uid)
    size = run.concurrency if concurrency is None else number("concurrency", concurrency, 1, MAX_CONCURRENCY)
    if most is not None:
        number("most", most, 1)
    require_no_transaction()
    if run.state == _Run.RUNNING:
        wanted = wanted_by(now, run, response_model)
        if now.test is None:
            # Calls for warming are not counted, and the first count is what lets the ledger's thread begin.
            now.writer.begin()
        _Foreman(now, run, most, should_stop or _never).work(wanted, size)
    return progress_of(now, run.uid)


def require_no_transaction() -> None:
    """Raise ``InvalidRequest`` inside a transaction; a test may be in its own."""
    now = process.current()
    now.require_database()
    if now.test is None and connections[now.settings.database].in_atomic_block:
        raise InvalidRequest(
            "A run of warming must not be worked at inside a transaction: no other process would see what is done, and "
            "it would be open while the provider answers. Call it after the commit."
        )


def _never() -> bool:
    return False


class _Foreman:
    """The one thread of a process that knows how a run stands."""

    def __init__(self, now: Runtime, run: WarmingRun, most: int | None, should_stop: Callable[[], bool]) -> None:
        self._now = now
        self._run = run
        self._using = now.settings.database
        self._most = most
        self._should_stop = should_stop
        self._claims = Claims(run, self._using)
        self._purse = Purse(run, self._using, now.clock.wall)
        self._news = threading.Event()
        self._counter = Counter(self._news)
        self._ready: deque[Claimed] = deque()
        self._at_hand: set[int] = set()
        self._in_flight = 0
        self._taken = 0
        self._ended: list[Ended] = []
        self._settled = 0
        self._is_priced = run.max_pico_usd is not None
        self._done: list[tuple[int, Done]] = []
        self._back: list[Result] = []
        self._troubles = 0
        self._trouble = ""
        self._is_stopped = False
        self._is_exhausted = False
        self._write_at = self._look_at = self._claim_at = self._draw_at = 0.0

    def work(self, wanted: Wanted, size: int) -> None:
        """Ask until nothing is left, or somebody says stop."""
        rows = self._rows().filter(started_at=None)
        self._patiently(lambda: rows.update(started_at=timezone.now()))
        crew = Crew(self._now, wanted, unix_of(self._run.made_at), size, self._news, self._counter)
        try:
            while self._step(crew, size):
                self._news.wait(_STEP_SECONDS)
                self._news.clear()
        finally:
            self._leave(crew)
        self._close_run()

    def _step(self, crew: Crew, size: int) -> bool:
        """Do what is to be done now; return whether there is more."""
        self._collect(crew)
        self._look()
        if self._is_stopped or self._should_stop():
            self._is_stopped = True
            return False
        self._claim(size)
        self._draw(size)
        self._hand_out(crew, size)
        if self._is_exhausted and not self._in_flight:
            self._give_back_ready()
        self._write()
        if self._in_flight or self._ready:
            return True
        # What others have may come back.
        return self._patiently(self._others_work if self._is_exhausted or self._is_sated else self._claims.are_left)

    @property
    def _is_sated(self) -> bool:
        return self._most is not None and self._taken >= self._most

    def _others_work(self) -> bool:
        return not self._is_sated and self._claims.have_others()

    # -- what comes back

    def _collect(self, crew: Crew) -> None:
        while crew.results:
            result = crew.results.popleft()
            self._in_flight -= 1
            self._counter.put(result.permits.unused)
            self._ended += result.permits.ended
            self._note(result)

    def _note(self, result: Result) -> None:
        item, calls = result.item, len(result.permits.ended)
        if result.is_trouble:
            self._troubles += 1
            if result.is_hopeless or self._troubles >= _MOST_TROUBLES:
                self._trouble, self._is_stopped = result.error, True
        elif result.state != _Item.WAITING:
            self._troubles = 0
        if result.state == _Item.WAITING and not (
            result.is_trouble and item.tries >= _MOST_TRIES and not result.is_hopeless
        ):
            self._back.append(result)
            return
        if result.key and result.key != item.key:
            self._patiently(partial(self._claims.note_key, item.pk, result.key))
        state = _Item.FAILED if result.state == _Item.WAITING else result.state
        before = (item.hits, item.saved_pico_usd) if state == _Item.WARMED else (0, 0)
        self._done.append((item.pk, Done(state, calls, result.error, *before)))

    def _write(self, *, everything: bool = False) -> None:
        """Write what has come back, some of it together."""
        count = len(self._done) + len(self._back)
        is_idle = not self._in_flight and not self._ready
        if not everything and not is_idle and count < _MOST_UNWRITTEN and time.monotonic() < self._write_at:
            return
        self._write_at = time.monotonic() + WRITE_SECONDS
        self._settle()
        self._at_hand.difference_update(pk for pk, _ in self._done)
        self._at_hand.difference_update(each.item.pk for each in self._back)
        if self._done:
            self._patiently(lambda: self._claims.finish(self._done))
            self._done = []
        if self._back:
            for is_tried in (False, True):
                pks = [each.item.pk for each in self._back if each.is_trouble is is_tried]
                if pks:
                    self._patiently(partial(self._claims.give_back, pks, untried=not is_tried))
            self._back = []
            # There is something to claim.
            self._claim_at = 0.0

    def _settle(self) -> None:
        if not self._ended:
            return
        self._once(lambda: self._purse.settle(self._ended))
        self._settled += len(self._ended)
        self._ended = []
        if self._is_priced:
            # Drawn anew, they are held at the price that is known now.
            self._give_back_permits()

    # -- what goes out

    def _look(self) -> None:
        """See whether somebody has stopped the run, and let others see that this worker is there."""
        moment_now = time.monotonic()
        if moment_now < self._look_at:
            return
        self._look_at = moment_now + LOOK_SECONDS
        state = self._patiently(lambda: self._rows().values_list("state", flat=True).first())
        if state not in (_Run.RUNNING, _Run.EXHAUSTED):
            self._is_stopped = True
            return
        self._patiently(lambda: self._rows().update(seen_at=timezone.now()))
        self._renew()

    def _claim(self, size: int) -> None:
        """Have as many items at hand as the crew could begin."""
        room = size - self._in_flight
        if len(self._ready) >= room or time.monotonic() < self._claim_at or self._is_exhausted:
            return
        count = 2 * size - len(self._ready)
        if self._most is not None:
            count = min(count, self._most - self._taken)
        found = self._patiently(lambda: self._claims.take(count)) if count > 0 else []
        self._taken += len(found)
        self._ready.extend(found)
        self._at_hand.update(item.pk for item in found)
        if not found:
            self._claim_at = time.monotonic() + LOOK_SECONDS / 2

    def _draw(self, size: int) -> None:
        """Have as many permits at hand as are needed now."""
        # An item that was there already has left its permit.
        self._is_exhausted &= not len(self._counter)
        needed = min(self._room(size), len(self._ready)) + self._counter.waiting
        if self._is_exhausted and not self._ready:
            # Others may give back what they do not use.
            needed += 1
        if self._is_priced and len(self._counter) < needed:
            self._settle()
        while len(self._counter) < needed and time.monotonic() >= self._draw_at:
            drawn = self._patiently(partial(self._purse.draw, needed - len(self._counter)))
            self._is_exhausted = drawn.outcome == "exhausted"
            if drawn.outcome == "drawn":
                self._counter.put([drawn.each_pico_usd] * drawn.permits)
                continue
            self._draw_at = time.monotonic() + min(max(drawn.wait_seconds, _STEP_SECONDS), LOOK_SECONDS)
            if drawn.outcome != "paced":
                self._counter.deny()
            self._is_stopped |= drawn.outcome == "stopped"
            return

    def _room(self, size: int) -> int:
        """Return how many more items can be under way: where money counts, few until it is known what they cost."""
        if self._is_priced:
            size = min(size, 1 + 2 * self._settled)
        return max(size - self._in_flight, 0)

    def _hand_out(self, crew: Crew, size: int) -> None:
        while self._ready and self._room(size):
            each = self._counter.take()
            if each is None:
                return
            self._in_flight += 1
            crew.give(self._ready.popleft(), each)

    # -- the end

    def _leave(self, crew: Crew) -> None:
        """Wait for what is under way, and give back all else."""
        self._counter.deny()
        while self._in_flight:
            self._news.wait(_STEP_SECONDS)
            self._news.clear()
            self._collect(crew)
            self._counter.deny()
            self._look_after_claims()
        crew.close()
        self._give_back_ready()
        self._write(everything=True)
        self._give_back_permits()

    def _give_back_permits(self) -> None:
        unused = self._counter.take_all()
        self._once(lambda: self._purse.give_back(unused))

    def _give_back_ready(self) -> None:
        self._back += [Result(item, Permits(self._counter, []), _Item.WAITING) for item in self._ready]
        self._ready.clear()

    def _look_after_claims(self) -> None:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            self._renew()

    def _renew(self) -> None:
        if self._at_hand:
            self._patiently(partial(self._claims.renew, self._at_hand))

    def _close_run(self) -> None:
        if not self._patiently(self._claims.are_left):
            self._patiently(partial(end_run, self._now, self._run))
            return
        under_way = self._rows().filter(state=_Run.RUNNING)
        if self._trouble:
            self._patiently(lambda: under_way.update(state=_Run.PAUSED, trouble=self._trouble[:64]))
        elif self._is_exhausted and not self._is_stopped:
            self._patiently(lambda: under_way.update(state=_Run.EXHAUSTED, ended_at=timezone.now()))
            # Without one that is under way, a plan can be run again.
            self._patiently(partial(free_plan, self._now, self._run))

    def _rows(self) -> QuerySet[WarmingRun]:
        return WarmingRun.objects.using(self._using).filter(pk=self._run.pk)

    def _once(self, do: Callable[[], object]) -> None:
        """Do something with the database that must not be done twice.

        A server may have done what it did not live to say. Then it is left: what is held for calls stays held, and the
        ledger knows of them.
        """
        if connections[self._using].vendor == "sqlite":
            self._patiently(do)
            return
        try:
            do()
        except (OperationalError, InterfaceError):
            if connections[self._using].in_atomic_block:
                raise
            connections[self._using].close_if_unusable_or_obsolete()

    def _patiently(self, do: Callable[[], T]) -> T:
        """Do something with the database, again where it is locked or gone for a while."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return do()
            except (OperationalError, InterfaceError):
                connection = connections[self._using]
                if connection.in_atomic_block or time.monotonic() >= until:
                    raise
                connection.close_if_unusable_or_obsolete()
                time.sleep(_STEP_SECONDS)
