"""A whole schedule, made of one number: processes, what they share, who acts, and what goes wrong."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Final

from tests.simulator import actors
from tests.simulator.leases import WatchedLeases
from tests.simulator.oracle import Oracle, Violation
from tests.simulator.places import SharedTier, Table, Wall
from tests.simulator.port import CallPort, Process, SimulatedPort
from tests.simulator.schedule import Schedule, Step, Task

RECHECK: Final = 1.0
_GRACE: Final = 4.0
_SLACK: Final = 0.2
_MOST_LATE: Final = 4.0


class World:
    """One schedule. ``make_port``: whose rules hold in it."""

    def __init__(self, seed: int, make_port: CallPort = SimulatedPort) -> None:
        self.make_port = make_port
        self.schedule = schedule = Schedule(seed)
        random = schedule.random
        recheck = 0.0 if random.random() < 0.3 else RECHECK
        self.has_leases = random.random() < 0.7
        # Every fourth with leases is one in which nothing goes wrong.
        self.is_calm = is_calm = self.has_leases and random.random() < 0.25
        self.is_down = is_down = not is_calm and random.random() < 0.1
        # A reading of the log takes a moment.
        bound = 2 * recheck + _SLACK if recheck else 0.0
        if is_down and recheck:
            # What holds when the database does not answer: the grace, and what lay on the board then.
            bound = _GRACE + recheck + _SLACK
        self.oracle = Oracle(schedule, bound, is_down)
        self.table = Table(schedule, latency=random.choice((0.0, 0.0, 0.01)), fails=0.3 if is_down else 0.0)
        wall = Wall(schedule) if random.random() < 0.6 else None
        self.tier = tier = SharedTier(schedule, faults=0.1 if not is_calm and random.random() < 0.3 else 0.0)
        self.scripts = make_port.make_scripts(schedule, tier)
        self.processes = [
            Process(
                name,
                schedule,
                self.oracle,
                self.table,
                wall,
                tier,
                recheck=recheck,
                grace=_GRACE,
                may_be_late=is_down,
            )
            for name in "ABC"[: random.choice((2, 2, 3))]
        ]
        if self.has_leases:
            self._share_leases()
        self.actors: list[Task] = []
        for number in range(1, random.choice((4, 5, 6)) + 1):
            process = random.choice(self.processes)
            work = actors.call_again_and_again(self, process, random.choice((1, 2, 3)))
            self._add(f"caller {number} in {process.name}", process, work)
        for number in (1, 2):
            process = random.choice(self.processes)
            self._add(f"invalidator {number} in {process.name}", process, actors.invalidate(self, process))
        process = random.choice(self.processes)
        self._add(f"undoer in {process.name}", process, actors.undo(self, process))
        # In every fourth one, so that the others stay as they were.
        for number in range(1, (2 if seed % 8 == 7 else 1 if seed % 4 == 3 else 0) + 1):
            process = random.choice(self.processes)
            self._add(f"corrector {number} in {process.name}", process, actors.correct(self, process))
        self._add_trouble()

    def problem(self) -> str | None:
        """Run the schedule and return what was wrong."""
        try:
            self.run()
        except AssertionError as error:
            return str(error)
        return None

    def me(self) -> Task:
        """Return the task that runs."""
        assert self.schedule.current is not None
        return self.schedule.current

    def run(self) -> None:
        """Run the schedule. Raises ``Violation``."""
        try:
            self.schedule.run()
            self._check_ends()
        finally:
            self.schedule.close()

    def _check_ends(self) -> None:
        for process in self.processes:
            left = [flight for flight in process.flights._flights.values() if flight.leader.is_alive()]
            if left:
                raise Violation(f"{len(left)} flights are left in {process.name}")
            if process.leases is not None and not process.is_dead:
                process.leases.finish_now()
                self._check_book(process, process.leases)
        if self.is_calm:
            self._check_calm()

    def _check_book(self, process: Process, leases: WatchedLeases) -> None:
        holders = [self.scripts.holders[token] for token in leases._held]
        left = [holder.task.name for holder in holders if holder.over_at is not None or holder.task.is_alive()]
        if left:
            raise Violation(f"{process.name} renews the leases of {', '.join(left)}")

    def _check_calm(self) -> None:
        lost = [holder.task.name for holder in self.scripts.holders.values() if holder.lost]
        if lost:
            raise Violation(f"{', '.join(lost)} lost a lease, and nothing was wrong")
        if self.scripts.left():
            raise Violation(f"{self.scripts.left()} leases lie there, and nobody holds them")

    def _share_leases(self) -> None:
        random = self.schedule.random
        seconds = random.choice((1.0, 3.0))
        # A late command may be as late as a store stands still.
        most = seconds + 0.5 + (0.0 if self.is_calm else _MOST_LATE)
        for process in self.processes:
            process.leaves_to_threads = random.random() < 0.4
            process.share_leases(self.scripts, self.make_port.make_leases, seconds, most)

    def _add_trouble(self) -> None:
        if self.is_calm:
            return
        schedule, random = self.schedule, self.schedule.random
        schedule.add("bad luck", actors.go_wrong(self), serves=True)
        if self.has_leases and random.random() < 0.6:
            schedule.add("trouble", actors.trouble_the_store(self), serves=True)
        if self.has_leases and random.random() < 0.2:
            schedule.add("stroke", actors.strike(self), serves=True)

    def _add(self, name: str, process: Process, work: Coroutine[Step, None, None]) -> None:
        task = self.schedule.add(name, work)
        self.actors.append(task)
        process.tasks.append(task)
