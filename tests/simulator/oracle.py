"""What was asked and invalidated when, and which answers must not be: by the schedule, not by the code under test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from llmcache import envelope
from llmcache.engine.call import Call
from llmcache.engine.log_copy import Row, View
from llmcache.engine.predicates import matches
from tests.simulator.schedule import Schedule, Task

if TYPE_CHECKING:
    from tests.simulator.leases import Holder
    from tests.simulator.port import Process


_LATE_SECONDS: Final = 6.0
"""How much longer than its timeout a call may take: its last look, and an answer's way into the tiers."""


LONGEST_CALL: Final = 30.0


class Violation(AssertionError):
    """Something was served, or asked for, that must not be."""


@dataclass(slots=True)
class Change:
    """One invalidation or one undo: a change of a row, by one task. Ticks and seconds; None for what has not been."""

    row: Row
    task: Task
    process: Process
    made: int | None = None
    """Its maker's context knows it from then on."""
    committed: int | None = None
    committed_at: float = 0.0
    told: int | None = None
    """All of its maker's process knows it from then on."""
    rolled_back: bool = False


@dataclass(slots=True)
class Asked:
    """One attempt at the provider."""

    number: int
    tick: int
    task: Task
    flight: tuple[Process, bytes] | None
    """Which no other attempt under way may have; None for one that is nobody else's."""
    holder: Holder | None
    """Of the lease for it; None where there are none."""


@dataclass(slots=True)
class Begun:
    """When a call began."""

    call: Call
    task: Task
    process: Process
    tick: int
    at: float


@dataclass
class Oracle:
    """Sees all, says nothing unless something is wrong."""

    schedule: Schedule
    bound: float
    """Seconds after which every process has to know what was committed; 0 is strict."""
    is_down: bool = False
    """Whether the database does not always answer."""
    invalidations: list[Change] = field(default_factory=list)
    undos: dict[bytes, list[Change]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    under_way: list[Asked] = field(default_factory=list)
    answers: int = 0
    hits: int = 0

    # -- told by actors and ports

    def asks(self, task: Task, flight: tuple[Process, bytes] | None, holder: Holder | None) -> Asked:
        """Note that the provider is asked from now on."""
        asked = Asked(len(self.asked), self.schedule.tick, task, flight, holder)
        for other in self.under_way:
            if _is_alike(asked, other) and other.task.is_alive():
                raise Violation(f"{task.name} asks what {other.task.name} is asking for: #{other.number}")
        self.asked.append(asked)
        self.under_way.append(asked)
        return asked

    def led(self, begun: Begun, holder: Holder, view: View) -> None:
        """Judge who leads: not where a valid entry has lain."""
        entry = envelope.decode(holder.lay, begun.call.key) if holder.lay else None
        if entry is not None and begun.call.cache != "refresh" and view.is_confirmed and view.admits(entry.seen):
            raise Violation(f"{begun.task.name} leads, and a valid entry lies there")

    def waits(self, begun: Begun, holder: Holder, most: float) -> None:
        """Judge who waits for another's lease: not for its own process's, nor for long once nobody holds it."""
        ended_at = holder.ended_at()
        if ended_at is None:
            return
        if holder.process is begun.process and not holder.is_going:
            raise Violation(f"{begun.task.name} waits for a lease of its own process's, of {holder.task.name}")
        if holder.over_at is None and not holder.process.is_dead:
            # A thread that is gone without a trace: its lease is renewed for as long as its call may take.
            most += LONGEST_CALL
        if self.schedule.now > ended_at + most:
            late = self.schedule.now - ended_at
            raise Violation(f"{begun.task.name} waits for {holder.task.name}, which has been over for {late:.2f} s")

    def ended(self, begun: Begun, paid: int | None, got: int | None) -> None:
        """Judge how a call has ended: within its time, and with the answer that it has paid for."""
        late = self.schedule.now - begun.at - begun.call.timeout - begun.process.stood_still
        if late > _LATE_SECONDS:
            raise Violation(f"{begun.task.name} goes on for {late:.2f} s after its time")
        if paid is not None and got != paid:
            raise Violation(f"{begun.task.name} has paid for answer #{paid} and has not got it")

    def answered(self, begun: Begun, number: int, outcome: str) -> None:
        """Judge an answer."""
        self.answers += 1
        self.hits += outcome == "hit"
        if number < 0:
            self._humans(begun, -number)
            return
        asked = self.asked[number]
        if outcome != "bypass" and not self.is_down:
            self._providers(begun, number)
        for change in self.invalidations:
            if (
                self._matches(change, begun.call)
                and self._is_known(change, begun)
                and self._is_older(asked, change)
                and not self._is_undone(change, begun.task)
            ):
                raise Violation(
                    f"{begun.task.name} began at step {begun.tick} and got answer #{number} ({outcome}), "
                    f"asked for at step {asked.tick}, before {_said(change)}"
                )

    def _humans(self, begun: Begun, number: int) -> None:
        """Judge an answer that a human has given by the row with this number."""
        (change,) = (each for each in self.invalidations if each.row.number == number)
        if change.rolled_back or (change.committed is None and change.task is not begun.task):
            raise Violation(f"{begun.task.name} got the human's answer {number}, which nobody has given")
        if any(self._is_known(undo, begun) for undo in self.undos.get(change.row.id, ())):
            raise Violation(f"{begun.task.name} got the human's answer {number}, which was withdrawn")
        for other in self._corrections(begun):
            if other.row.number > number:
                raise Violation(f"{begun.task.name} got the human's answer {number}, and there is a newer one")

    def _providers(self, begun: Begun, number: int) -> None:
        """Judge an answer of the provider's: a human's has to stand in its place where there is one."""
        for change in self._corrections(begun):
            raise Violation(f"{begun.task.name} got answer #{number} in place of the human's, {_said(change)}")

    def _corrections(self, begun: Begun) -> list[Change]:
        """Return the human's answers that a call has to know of, and that nobody has withdrawn."""
        return [
            change
            for change in self.invalidations
            if change.row.corrects
            and self._matches(change, begun.call)
            and self._is_known(change, begun)
            and not self._is_undone(change, begun.task)
        ]

    def viewed(self, begun: Begun, view: View) -> None:
        """Judge what a call knows of the log after it has looked: what was undone must not be in force any more."""
        if not view.is_confirmed:
            return
        for row_id in (*(valid.id for valid in view.rows), view.correction or b""):
            for undo in self.undos.get(row_id, ()):
                if self._is_known(undo, begun):
                    raise Violation(f"{begun.task.name} does not know at step {self.schedule.tick} of {_said(undo)}")

    def missed(self, begun: Begun, where: str) -> None:
        """Blame a call that does not find what is there."""
        raise Violation(f"{begun.task.name} does not find the valid entry in {where}")

    # -- the rules

    def _matches(self, change: Change, call: Call) -> bool:
        return not change.rolled_back and matches(change.row.predicate, call.key.hex(), call.facts)

    def _is_known(self, change: Change, begun: Begun) -> bool:
        """Return whether a call has to go by a change that it may have seen when it began."""
        if change.rolled_back:
            return False
        if change.task is begun.task and change.made is not None and change.made <= begun.tick:
            return True
        if change.committed is None:
            return False
        if change.process is begun.process and change.told is not None and change.told <= begun.tick:
            return True
        if self.bound == 0:
            return change.committed <= begun.tick
        return change.committed_at + self.bound <= begun.at

    def _is_older(self, asked: Asked, change: Change) -> bool:
        """Return whether the provider was asked before the change was there to be seen by who has asked."""
        if asked.task is change.task and change.made is not None:
            return asked.tick < change.made
        return change.committed is None or asked.tick < change.committed

    def _is_undone(self, change: Change, task: Task) -> bool:
        return any(
            undo.committed is not None or (undo.task is task and undo.made is not None)
            for undo in self.undos.get(change.row.id, ())
            if not undo.rolled_back
        )


def _said(change: Change) -> str:
    what = "invalidation" if change.row.active else "undo of invalidation"
    by = f"{what} {change.row.number}, made at {change.made} by {change.task.name}"
    return f"{by}, committed at {change.committed} ({change.committed_at:.2f}), told at {change.told}"


def _is_alike(one: Asked, other: Asked) -> bool:
    """Return whether one of two attempts is one too many: of one flight, by who could know of each other."""
    if one.flight is None or other.flight is None or one.flight[1] != other.flight[1]:
        return False
    if one.flight[0] is other.flight[0]:
        return True
    if one.holder is None or other.holder is None:
        return False
    return not one.holder.lost and not other.holder.lost
