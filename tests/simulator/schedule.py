"""Who goes on, and what time it is: tasks in steps, one after the other, in an order that a seed decides."""

from __future__ import annotations

import heapq
import random
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine
from typing import Any, Final, NamedTuple

FOR_EVER: Final = float("inf")
_MOST_STEPS: Final = 20_000
_TIME_PASSES: Final = 0.12
"""How often the time moves although somebody could go on."""
_OTHERS_GO_ON: Final = 0.5
_DEEPEST: Final = 3


class Interrupted(BaseException):
    """What is raised in a caller that is interrupted."""


class Step(NamedTuple):
    """What a task is about to do when it lets others go on."""

    says: str
    seconds: float = 0.0
    """How long it takes."""
    waits: bool = False
    """Whether it goes on before that when it is woken."""


@coroutine
def step(says: str, seconds: float = 0.0) -> Generator[Step]:
    """Let others go on, for some seconds."""
    yield Step(says, seconds)


@coroutine
def waiting(says: str, seconds: float) -> Generator[Step]:
    """Let others go on until this task is woken, or for some seconds."""
    yield Step(says, seconds, True)


class Task:
    """One thread of a simulated process."""

    def __init__(
        self, name: str, schedule: Schedule, work: Coroutine[Step, None, Any], *, serves: bool, prompt: bool
    ) -> None:
        self.name = name
        self.serves = serves
        """Whether nobody waits for its end."""
        self.prompt = prompt
        """Whether time stands still until it has gone on."""
        self.error: BaseException | None = None
        self.acts_for = self
        """Whose work it does: another's, for a thread that a task waits for."""
        self.ended_at: float | None = None
        self.waits = False
        self.stands_still = False
        self.is_struck = False
        """Whether it is interrupted in the middle of what it does."""
        self._schedule = schedule
        self._work = work
        self._context: Context = copy_context()
        self._alive = True
        self.wakes_at = 0.0
        self.runs = False
        self.has_begun = False

    def is_alive(self) -> bool:
        """Return whether it may go on."""
        return self._alive

    def go_on(self) -> Step | None:
        """Do one step; return what comes next, None at the end."""
        self.has_begun = True
        try:
            return self._context.run(self._work.send, None)
        except (StopIteration, Interrupted):
            self.die()
        except Exception as error:
            self.die()
            self.error = error
            raise
        return None

    def die(self) -> None:
        """Do nothing any more, not even what would be done at an end. What it was doing is kept, not closed."""
        if self._alive:
            self._alive, self.ended_at = False, self._schedule.now

    def forget(self) -> None:
        """Take back what has never begun."""
        if not self.has_begun:
            self._work.close()

    def interrupt(self) -> None:
        """End where it is, as by Ctrl-C."""
        # On its way out it may let others go on.
        self.runs, outer, self._schedule.current = True, self._schedule.current, self
        try:
            self._context.run(self._work.throw, Interrupted())
        except Interrupted:
            self.die()
            return
        finally:
            self.runs, self._schedule.current = False, outer
        raise AssertionError(f"{self.name} goes on after an interrupt")

    def wake(self) -> None:
        """Let it go on now, if it waits for that."""
        if self.waits:
            self.waits = False
            self._schedule.make_ready(self)


class Schedule:
    """All tasks, the time, and what was done."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1_000.0
        self.tick = 0
        """The number of the step."""
        self.steps: list[tuple[int, float, str, str]] = []
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self._ready: list[Task] = []
        self._timers: list[tuple[float, int, Task]] = []
        self._depth = 0
        self._standing: list[Task] = []
        self._problem: Exception | None = None
        self._is_closed = False

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_700_000_000

    def chance(self, odds: float) -> bool:
        return self.random.random() < odds

    def add(self, name: str, work: Coroutine[Step, None, Any], *, serves: bool = False, prompt: bool = False) -> Task:
        """Have something done, from now on."""
        task = Task(name, self, work, serves=serves, prompt=prompt)
        self.tasks.append(task)
        self._ready.append(task)
        if self._is_closed:
            task.forget()
        return task

    def say(self, says: str) -> None:
        """Note what the current task does."""
        self.tick += 1
        self.steps.append((self.tick, self.now, self.current.name if self.current else "-", says))

    def make_ready(self, task: Task) -> None:
        self._ready.append(task)

    def die_if_struck(self) -> None:
        """Raise what interrupts the current task in the middle of something."""
        if self.current is not None and self.current.is_struck:
            self.current.is_struck = False
            raise Interrupted

    def fail(self, error: Exception) -> None:
        """End with an error, whoever catches it on its way."""
        self._problem = self._problem or error
        raise error

    def let_go_on(self, tasks: list[Task]) -> None:
        """Have those go on that stood still."""
        for task in tasks:
            task.stands_still = False
        self._ready += [task for task in self._standing if not task.stands_still]
        self._standing = [task for task in self._standing if task.stands_still]

    def run(self) -> None:
        """Go on until all have ended but those that serve."""
        self._run()
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """Take back what has never begun. What was ended in the middle does nothing more when it is thrown away."""
        self._is_closed = True
        for task in self.tasks:
            task.forget()

    def _run(self) -> None:
        while self._problem is None and any(task.is_alive() and not task.serves for task in self.tasks):
            if self._timers and (
                not self._ready
                or (self.random.random() < _TIME_PASSES and not any(task.prompt for task in self._ready))
            ):
                self._pass(max(self._timers[0][0] - self.now, 0.0))
            if self._ready:
                self._step()
            elif not self._timers:
                stuck = [task.name for task in self.tasks if task.is_alive() and not task.serves]
                raise AssertionError(f"they wait for ever: {', '.join(stuck)}")
            if self.tick > _MOST_STEPS:
                raise AssertionError("it does not end")

    def let_others(self, seconds: float = 0.0) -> None:
        """Let others go on in the middle of what cannot be left: a read of a table, a write."""
        if self._is_closed:
            return
        if seconds:
            self._pass(seconds)
        if self._depth >= _DEEPEST:
            return
        self._depth += 1
        while self._ready and self.random.random() < _OTHERS_GO_ON:
            self._step()
        self._depth -= 1

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        while self._timers and self._timers[0][0] <= self.now:
            at, _, task = heapq.heappop(self._timers)
            # One that was woken before has its time no more.
            is_under_way = task.runs or task in self._ready or task in self._standing
            if task.wakes_at == at and task.is_alive() and not is_under_way:
                task.waits = False
                self._ready.append(task)

    def _step(self) -> None:
        ready = self._ready
        place = int(self.random.random() * len(ready))
        ready[place], ready[-1] = ready[-1], ready[place]
        task = ready.pop()
        if not task.is_alive() or task.runs:
            return
        if task.stands_still:
            self._standing.append(task)
            return
        outer, self.current, task.runs = self.current, task, True
        try:
            following = task.go_on()
        except Exception as error:
            self.fail(error)
            raise
        finally:
            task.runs = False
        # It may have been ended while it was under way.
        if following is not None and task.is_alive():
            self._follow(task, following)
        self.current = outer

    def _follow(self, task: Task, following: Step) -> None:
        says, seconds, waits = following
        self.say(says)
        task.waits = waits
        if seconds == FOR_EVER:
            task.wakes_at = FOR_EVER
        elif seconds > 0 or waits:
            task.wakes_at = self.now + seconds
            heapq.heappush(self._timers, (task.wakes_at, self.tick, task))
        else:
            self._ready.append(task)
