"""Leases in the simulated store: the steps that scripts do there, one process's way to them, and its watchdog."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from llmcache import envelope
from llmcache.engine.leases import ANY, HEAD_BYTES, TOKEN_BYTES, Lease, Leases, Reply, Turn
from tests.simulator.oracle import Violation
from tests.simulator.places import SharedTier
from tests.simulator.schedule import Schedule, Task, waiting

if TYPE_CHECKING:
    from tests.simulator.port import Process

_FAILED: Final = b"!"


@dataclass(slots=True)
class Holder:
    """Who has gone for a lease, as only the schedule knows."""

    task: Task
    process: Process
    lost: bool = False
    """Whether it may be somebody else's meanwhile, or never was this one's."""
    is_going: bool = False
    """Whether it does not know yet what has become of its attempt."""
    over_at: float | None = None
    """When its flight was over, in seconds."""
    lay: bytes = b""
    """The entry that lay there when it was taken."""

    def ended_at(self) -> float | None:
        """Return since when nobody holds its lease; None while somebody does."""
        return self.task.ended_at if self.over_at is None else self.over_at


class Scripts:
    """What the store does in one step, see ``llmcache.tiers.redis_leases``."""

    def __init__(self, schedule: Schedule, tier: SharedTier) -> None:
        self._schedule = schedule
        self._tier = tier
        self._lie: dict[str, tuple[bytes, float]] = {}
        self.holders: dict[bytes, Holder] = {}
        """By token."""

    def take(
        self, entry: str, lease: str, seconds: float, *, token: bytes, refused: bytes, instead_of: bytes, waited: bytes
    ) -> Reply:
        lay = self._tier.data.get(entry, b"")
        if self.is_of_use(lay, refused):
            return Reply("found", lay)
        lies = self.lies(lease)
        if lies not in (b"", token, instead_of):
            if is_held(lies):
                return Reply("waits", head=lay[:HEAD_BYTES], holder=lies)
            if waited and lies[1 : TOKEN_BYTES + 1] == waited:
                return Reply("failed", lies[TOKEN_BYTES + 1 :])
        if is_held(lies) and lies != token and self.holders[lies].ended_at() is None:
            self._lose(lies)
        self._put(lease, token, seconds)
        self.holders[token].lay = lay
        return Reply("led", head=lay[:HEAD_BYTES])

    def is_of_use(self, lay: bytes, refused: bytes) -> bool:
        return bool(lay) and refused not in (ANY, lay[:HEAD_BYTES])

    def publish(self, lease: Lease, entry: bytes, more: bytes) -> bool:
        names, lies = lease.names, self.lies(lease.names.lease)
        lay = self._tier.data.get(names.entry, b"")
        kept = self.may_publish(lease, lies, lay)
        if kept:
            self._judge(lease, lay, entry)
            self._tier.put(names.more, more)
            self._tier.put(names.entry, entry)
        if self.may_release(lies, lease.token):
            del self._lie[names.lease]
        return kept

    def may_publish(self, lease: Lease, lies: bytes, lay: bytes) -> bool:
        return (not is_held(lies) or lies == lease.token) and lease.head in (ANY, lay[:HEAD_BYTES])

    def renew(self, leases: list[tuple[str, bytes]], seconds: float) -> None:
        for name, token in leases:
            if self.lies(name) in (b"", token):
                self._put(name, token, seconds)

    def release(self, name: str, token: bytes, outcome: bytes, seconds: float) -> None:
        if not self.may_release(self.lies(name), token):
            return
        if outcome:
            self._put(name, _FAILED + token + outcome, seconds)
        else:
            del self._lie[name]

    def may_release(self, lies: bytes, token: bytes) -> bool:
        return lies == token

    def flush(self) -> None:
        """Forget all leases: whoever holds one has lost it."""
        for token, _ in self._lie.values():
            self._lose(token)
        self._lie.clear()

    def lies(self, name: str) -> bytes:
        """Return what lies in a lease's place; nothing once its time is over."""
        value, until = self._lie.get(name, (b"", 0.0))
        if value and until <= self._schedule.now:
            del self._lie[name]
            self._lose(value)
            return b""
        return value

    def left(self) -> int:
        """Return how many leases lie there."""
        return sum(is_held(self.lies(name)) for name in list(self._lie))

    def _put(self, name: str, value: bytes, seconds: float) -> None:
        self._lie[name] = value, self._schedule.now + seconds

    def _lose(self, token: bytes) -> None:
        if is_held(token):
            self.holders[token].lost = True

    def _judge(self, lease: Lease, lay: bytes, entry: bytes) -> None:
        """Blame who keeps an answer in the place of one that was asked for later."""
        newer, older = (_number(data, lease.names.entry) for data in (lay, entry))
        if newer > older >= 0 and lease.head != ANY:
            self._schedule.fail(Violation(f"{self.holders[lease.token].task.name} keeps #{older} over #{newer}"))


def is_held(lies: bytes) -> bool:
    """Return whether what lies in a lease's place is a token."""
    return len(lies) == TOKEN_BYTES


def _number(data: bytes, name: str) -> int:
    """Return the number of the answer in an entry; -1 for no entry."""
    entry = envelope.decode(data, bytes.fromhex(name[-65:-1])) if data else None
    return -1 if entry is None else json.loads(entry.answer).get("asked", -1)


class Place:
    """One process's way to the leases in the store."""

    def __init__(self, process: Process, scripts: Scripts) -> None:
        self._process = process
        self._scripts = scripts
        self._command = process.tier.command

    def take(self, turn: Turn, seconds: float, instead_of: bytes) -> Reply:
        me = self._process.schedule.current
        assert me is not None
        holder = self._scripts.holders.setdefault(turn.token, Holder(me.acts_for, self._process))
        take = partial(
            self._scripts.take,
            turn.names.entry,
            turn.names.lease,
            seconds,
            token=turn.token,
            refused=turn.refused,
            instead_of=instead_of,
            waited=turn.holder,
        )
        holder.is_going = True
        try:
            return self._command("goes for the lease", take)
        finally:
            holder.is_going = False

    def publish(self, lease: Lease, entry: bytes, more: bytes, ttl_seconds: float | None) -> bool:
        return self._command("publishes", partial(self._scripts.publish, lease, entry, more))

    def renew(self, leases: Sequence[Lease], seconds: float) -> None:
        told = [(lease.names.lease, lease.token) for lease in leases]
        self._command(f"renews {len(told)} leases", partial(self._scripts.renew, told, seconds))

    def release(self, lease: Lease, outcome: bytes, seconds: float) -> None:
        release = partial(self._scripts.release, lease.names.lease, lease.token, outcome, seconds)
        self._command("says how it failed" if outcome else "lets go of the lease", release)

    def close(self) -> None:
        pass


class WatchedLeases(Leases):
    """One process's leases, with a task of the schedule in the place of the thread."""

    def __init__(self, place: Place, seconds: float, schedule: Schedule, name: str) -> None:
        super().__init__(place, seconds, schedule.monotonic)
        # Whatever else there is to do: a machine that is not busy renews in time.
        self.watchdog = schedule.add(f"{name}: watchdog", self._watch(), serves=True, prompt=True)

    def _start(self) -> None:
        self.watchdog.wake()

    async def _watch(self) -> None:
        """Do as ``Leases._serve``."""
        while True:
            while not self._ended and not self._is_due():
                # Of what is never due it is for ever.
                await waiting("the watchdog rests", self._due - self._monotonic())
            self._go_round()

    def finish_now(self) -> None:
        """Tell what is still to be told."""
        self._go_round()


MakeLeases = Callable[[Place, float, Schedule, str], WatchedLeases]
