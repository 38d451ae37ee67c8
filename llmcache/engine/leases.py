"""Leases: who asks the provider for one request, of all processes that share a place to say so.

A lease saves money and carries no correctness: whoever cannot get, keep or read one asks all the same.

What a place can do is in ``LeasePlace``. ``Leases`` is one process's book of those it holds, with the thread that
renews them; it remembers those that it gave up on, which a frozen server may still have granted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, Protocol

logger = logging.getLogger("llmcache.call")

HEAD_BYTES: Final = 64
"""Of an entry: with its key, check and time of writing, so that no two writings have them alike."""
ANY: Final = b"*"
"""In the place of a head: whatever lies there is not looked at."""
TOKEN_BYTES: Final = 16
FIRST_SECONDS: Final = 2.0
"""How long a lease lives before it is renewed for the first time: as long as a ghost is waited for."""
RENEWED_AFTER: Final = 0.35
"""The part of it after which that is done."""
LONGEST_SECONDS: Final = 600.0
"""How long one is renewed at most."""
OUTCOME_SECONDS: Final = 2.0
"""How long those who wait can learn how a call has failed."""
_MOST_GIVEN_UP: Final = 1_000
_LATE_SECONDS: Final = 0.5
_TRIES: Final = 20
"""How often renewing is tried, at most, in the time that a lease lives."""


class Names(NamedTuple):
    """What a flight's things are called in a tier."""

    entry: str
    more: str
    lease: str


class Reply(NamedTuple):
    """What became of an attempt to take a lease."""

    state: Literal["led", "waits", "found", "failed", "alone"]
    """``alone``: there is no place to say so, or it cannot be reached."""
    data: bytes = b""
    """What was found, or how the holder's call has failed."""
    head: bytes = b""
    """The beginning of the entry that lies there; empty when none does."""
    holder: bytes = b""
    """Whose lease is waited for."""


ALONE: Final = Reply("alone")


class Turn:
    """One process's attempts to lead one flight."""

    __slots__ = ("holder", "is_over", "names", "refused", "token")

    def __init__(self, names: Names, refused: bytes) -> None:
        self.names = names
        self.token = os.urandom(TOKEN_BYTES)
        self.refused = refused
        """The beginning of an entry that lies there and is of no use; ``ANY`` where it was not looked at."""
        self.holder = b""
        """Whose lease was waited for last."""
        self.is_over = False
        """Whether nobody wants to lead any more: what is granted from now on is given back."""


class Lease:
    """A lease that this process holds, or may hold."""

    __slots__ = ("head", "is_left", "names", "token", "until")

    def __init__(self, names: Names, token: bytes, head: bytes, until: float) -> None:
        self.names = names
        self.token = token
        self.head = head
        """The beginning of what lay there when it was taken; ``ANY`` where that is not known."""
        self.until = until
        """Until when it is renewed, in monotonic seconds."""
        self.is_left = False
        """Whether it may lie there still, though its answer was published: it could not be ended."""


class LeasePlace(Protocol):
    """Where leases lie. Its methods raise what their store raises."""

    def take(self, turn: Turn, seconds: float, instead_of: bytes) -> Reply:
        """Take a lease, also one whose token is ``instead_of``, unless there is an entry, or another's lease."""
        ...

    def publish(self, lease: Lease, entry: bytes, more: bytes, ttl_seconds: float | None) -> bool:
        """Keep both parts of an entry and end the lease, in one step; return whether the lease allowed that."""
        ...

    def renew(self, leases: Sequence[Lease], seconds: float) -> None:
        """Let leases live for so long from now; take those anew that are gone, and that nobody else has."""
        ...

    def release(self, lease: Lease, outcome: bytes, seconds: float) -> None:
        """End a lease that is still held, and leave in its place how the call has failed, if that is to be told."""
        ...

    def close(self) -> None:
        """Let go of what was opened for leases alone."""
        ...


class Leases:
    """The leases of one runtime. ``seconds`` is how long one lives that is renewed."""

    def __init__(self, place: LeasePlace, seconds: float, monotonic: Callable[[], float]) -> None:
        self._place = place
        self._seconds = seconds
        self._monotonic = monotonic
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Begin with none: they are the parent's, and so is the thread that renews them."""
        self._changed = threading.Condition()
        self._held: dict[bytes, Lease] = {}
        self._ended: list[tuple[Lease, bytes]] = []
        self._renewed: frozenset[bytes] = frozenset()
        self._given_up: OrderedDict[bytes, None] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._due = float("inf")
        self._busy = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def first_seconds(self) -> float:
        """How long a lease lives that was not renewed yet."""
        return min(FIRST_SECONDS, self._seconds)

    def take(self, turn: Turn, until: float) -> tuple[Reply, Lease]:
        """Take a lease for a flight; raises nothing. The lease is of use whatever the reply: it fences what is written.

        ``until``: when its call is over at the latest, in monotonic seconds.
        """
        until = min(until, self._monotonic() + LONGEST_SECONDS)
        try:
            reply = self._place.take(turn, self.first_seconds, b"")
            if reply.state == "waits" and reply.holder in self._given_up:
                reply = self._place.take(turn, self.first_seconds, reply.holder)
        except Exception as error:  # noqa: BLE001  # of whatever store: whoever cannot say that it leads leads all the same
            logger.debug("No lease could be taken: %s.", type(error).__name__)
            # A server that stood still may grant it all the same.
            self._give_up(turn.token)
            return ALONE, Lease(turn.names, turn.token, turn.refused, until)
        except BaseException:
            # An interrupt: nobody of this process is to wait for what nobody holds.
            self._give_up(turn.token)
            raise
        if reply.state == "waits":
            turn.holder = reply.holder
            if turn.refused == ANY:
                turn.refused = reply.head
        lease = Lease(turn.names, turn.token, reply.head, until)
        if reply.state == "led" and not self._hold(lease, turn):
            # Whoever wanted it has gone while it was taken.
            self._give_up(lease.token)
            self._release(lease, b"")
        return reply, lease

    def publish(self, lease: Lease, entry: bytes, more: bytes, ttl_seconds: float | None) -> bool:
        """Keep an entry and end its lease; False where another has led meanwhile. Raises what the store raises."""
        with self._changed:
            # Renewed no more: what is renewed after it was ended would be taken anew, and nobody would hold it.
            lease.until = 0.0
            is_renewed = lease.token in self._renewed
        try:
            kept = self._place.publish(lease, entry, more, ttl_seconds)
        except BaseException:
            # It may be carried out yet, and end the lease; or not.
            self._give_up(lease.token)
            raise
        finally:
            if self._let_go(lease) or is_renewed or lease.is_left:
                self._end_later(lease, b"")
        return kept

    def end(self, turn: Turn, outcome: bytes = b"", *, here: bool) -> None:
        """End attempts to lead, and the lease if it was taken.

        ``here``: in this thread; else, without waiting, in the one that renews. It may be called at any moment, also
        while the lease is being taken in another thread.
        """
        with self._changed:
            turn.is_over = True
            lease = self._held.get(turn.token)
            is_renewed = lease is not None and self._let_go(lease)
        if lease is None:
            return
        # Whoever is elected next in this process need not wait until the server has heard of it.
        self._give_up(lease.token)
        if here:
            self._release(lease, outcome)
        if is_renewed or not here:
            self._end_later(lease, b"" if here else outcome)

    def _hold(self, lease: Lease, turn: Turn) -> bool:
        with self._changed:
            if turn.is_over:
                return False
            self._held[lease.token] = lease
            self._due = min(self._due, self._monotonic() + RENEWED_AFTER * self.first_seconds)
            self._start()
            self._changed.notify_all()
            return True

    def _let_go(self, lease: Lease) -> bool:
        """Renew a lease no more. Return whether that is under way now: if it is ended before, it is taken anew then."""
        with self._changed:
            self._held.pop(lease.token, None)
            return lease.token in self._renewed

    def _end_later(self, lease: Lease, outcome: bytes) -> None:
        """End a lease in the thread that renews, after what that one does now."""
        self._give_up(lease.token)
        with self._changed:
            self._ended.append((lease, outcome))
            self._start()
            self._changed.notify_all()

    def _give_up(self, token: bytes) -> None:
        with self._changed:
            self._given_up[token] = None
            while len(self._given_up) > _MOST_GIVEN_UP:
                self._given_up.popitem(last=False)

    def _release(self, lease: Lease, outcome: bytes) -> None:
        try:
            self._place.release(lease, outcome, OUTCOME_SECONDS)
        except Exception as error:  # noqa: BLE001  # it ends by itself
            logger.debug("A lease could not be ended: %s.", type(error).__name__)

    # -- the thread

    def _start(self) -> None:
        if self._closed:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._serve, name="llmcache-watchdog", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter ends, or the system has no thread left: leases end by themselves.
            self._thread = None

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not (self._ended or self._closed or self._is_due()):
                    # How long is asked each time: who takes a lease while nothing is due wakes this for a new time.
                    self._changed.wait(self._wait())
                if self._closed:
                    return
                self._busy = True
            self._go_round()

    def _go_round(self) -> None:
        """Tell what has ended, and renew the rest if that is due."""
        with self._changed:
            ended, self._ended = self._ended, []
            now = self._monotonic()
            is_due = now >= self._due
            renewed = [lease for lease in self._held.values() if lease.until > now] if is_due else []
            if is_due:
                self._due = now + self._seconds / 3 if renewed else float("inf")
            self._renewed = frozenset(lease.token for lease in renewed)
        for lease, outcome in ended:
            self._release(lease, outcome)
        if renewed:
            self._renew(renewed)
        with self._changed:
            self._renewed = frozenset()

    def _is_due(self) -> bool:
        return self._monotonic() >= self._due

    def _wait(self) -> float | None:
        left = self._due - self._monotonic()
        # Of a clock that tests move: looked at now and then.
        return None if left == float("inf") else min(max(left, 0.0), 1.0)

    def _renew(self, leases: Sequence[Lease]) -> None:
        try:
            self._place.renew(leases, self._seconds)
        except Exception as error:  # noqa: BLE001  # tried again soon: each has some time left
            logger.debug("Leases could not be renewed: %s.", type(error).__name__)
            for lease in leases:
                # It may be carried out when they are over.
                self._give_up(lease.token)
            with self._changed:
                self._due = min(self._due, self._monotonic() + self._seconds / _TRIES)

    def finish(self, seconds: float = _LATE_SECONDS) -> None:
        """Wait until what was ended has been told."""
        with self._changed:
            if self._thread is not None and self._thread.is_alive():
                self._changed.wait_for(lambda: not self._ended and not self._busy, seconds)

    def close(self) -> None:
        """Tell what is to be told, renew nothing any more, and let go of the place."""
        self.finish()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._place.close()
