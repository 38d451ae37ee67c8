"""Leases as rows of PostgreSQL or MySQL, for tiers that cannot hold any, over a connection that no caller has.

A caller's own may be inside a transaction: others would not see the row, and would wait for its end. Time is the
database's. The entries lie in a tier that knows nothing of leases, so that looking again and publishing are steps of
their own: two processes can lead in a gap between them, and one overwrites the other's answer with as good a one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from django.db import connections
from django.db.models import Q
from django.db.models.functions import Now

from llmcache.engine.leases import ANY, HEAD_BYTES, Lease, Reply, Turn
from llmcache.models import Lease as LeaseRow
from llmcache.tiers.base import ByteTier, LeftAloneError
from llmcache.tiers.desk import Desk

T = TypeVar("T")

SECONDS: Final = 0.5
"""How long a caller waits for the database; then it leads without a lease."""
WAITING_SECONDS: Final = 5.0
"""How long one waits that waits for another's lease already."""
REST_SECONDS: Final = 0.5
"""How long the database is left alone after it has failed, or was late: less than a lease lives that is not renewed."""
VENDORS: Final = ("postgresql", "mysql")
_THREADS: Final = 2
_SWEEP_EVERY: Final = 100
_KEPT: Final = timedelta(hours=1)


class DatabaseLeases:
    """The leases in one database, for entries in one tier."""

    def __init__(self, using: str, tier: ByteTier) -> None:
        self.tier = tier
        self._using = using
        self._desk = Desk("llmcache-leases", _THREADS, connections.close_all)
        self._made = itertools.count(1)
        self._rests_until = 0.0

    def take(self, turn: Turn, seconds: float, instead_of: bytes) -> Reply:
        """Take a lease, unless there is an entry, or another's lease."""
        value = self.tier.get(turn.names.entry) or b""
        if _is_found(value, turn):
            return Reply("found", value)
        # Who has waited for another knows that somebody asks, and is in no hurry to do so too.
        patience = WAITING_SECONDS if turn.holder else SECONDS
        reply = self._ask(partial(self._take, turn, seconds, instead_of), patience)
        if reply.state != "led":
            return reply._replace(head=value[:HEAD_BYTES])
        # Somebody may have published and ended its lease in between.
        value = self.tier.get(turn.names.entry) or b""
        if _is_found(value, turn):
            self.release(Lease(turn.names, turn.token, b"", 0), b"", 0)
            return Reply("found", value)
        return reply._replace(head=value[:HEAD_BYTES])

    def _take(self, turn: Turn, seconds: float, instead_of: bytes) -> Reply:
        rows = self._rows().filter(name=turn.names.lease)
        mine: dict[str, Any] = {"token": turn.token.hex(), "until": _from_now(seconds), "outcome": ""}
        told = (
            rows.filter(token=turn.holder.hex(), until__gt=Now()).exclude(outcome="").first() if turn.holder else None
        )
        if told is not None:
            return Reply("failed", told.outcome.encode())
        # What the one that is waited for has told since is for the next look: it is not to be asked for again.
        is_told = ~Q(outcome="") & ~Q(token=turn.holder.hex())
        is_free = Q(until__lte=Now()) | is_told | Q(token__in=[mine["token"], instead_of.hex()])
        if rows.filter(is_free).update(**mine):
            return Reply("led")
        self._sweep()
        self._rows().bulk_create([LeaseRow(name=turn.names.lease, **mine)], ignore_conflicts=True)
        holder = bytes.fromhex(rows.values_list("token", flat=True).first() or "")
        return Reply("led") if holder == turn.token else Reply("waits", holder=holder)

    def publish(self, lease: Lease, entry: bytes, more: bytes, ttl_seconds: float | None) -> bool:
        """Keep both parts of an entry and end the lease, where it allows that."""
        names, token = lease.names, lease.token.hex()
        rows = self._rows().filter(name=names.lease, outcome="", until__gt=Now())
        try:
            holder = self._ask(lambda: rows.values_list("token", flat=True).first())
        except Exception:  # noqa: BLE001  # of whatever database: the tier is another store, and the answer is paid for
            holder = token
        if holder not in (None, token):
            return False
        kept = lease.head in (ANY, (self.tier.get(names.entry) or b"")[:HEAD_BYTES])
        if kept:
            self.tier.set(names.more, more, ttl_seconds)
            self.tier.set(names.entry, entry, ttl_seconds)
        if holder == token:
            try:
                self.release(lease, b"", 0)
            except Exception:  # noqa: BLE001  # of whatever database: the answer is kept
                lease.is_left = True
        return kept

    def renew(self, leases: Sequence[Lease], seconds: float) -> None:
        """Let leases live for so long from now."""
        tokens = {lease.names.lease: lease.token.hex() for lease in leases}
        is_mine = Q(*(Q(name=name, token=token) for name, token in tokens.items()), _connector=Q.OR)

        def renew() -> None:
            self._rows().filter(is_mine).update(until=_from_now(seconds))
            gone = tokens.keys() - set(self._rows().filter(name__in=sorted(tokens)).values_list("name", flat=True))
            made = [LeaseRow(name=name, token=tokens[name], until=_from_now(seconds)) for name in sorted(gone)]
            if made:
                self._rows().bulk_create(made, ignore_conflicts=True)

        self._ask(renew)

    def release(self, lease: Lease, outcome: bytes, seconds: float) -> None:
        """End a lease that is still held, and leave in its place how the call has failed."""
        rows = self._rows().filter(name=lease.names.lease, token=lease.token.hex(), outcome="")

        def release() -> None:
            if outcome:
                rows.update(outcome=outcome.decode(), until=_from_now(seconds))
            else:
                rows.delete()

        self._ask(release)

    def close(self) -> None:
        """Close what is open to the database."""
        self._desk.close()

    def _sweep(self) -> None:
        if next(self._made) % _SWEEP_EVERY == 0:
            self._rows().filter(until__lt=Now() - _KEPT).delete()

    def _rows(self) -> Any:
        return LeaseRow.objects.using(self._using)

    def _ask(self, do: Callable[[], T], seconds: float = SECONDS) -> T:
        if time.monotonic() < self._rests_until:
            raise LeftAloneError
        try:
            return self._desk.ask(partial(self._connected, do), seconds)
        except Exception:
            # Each call would wait for it again.
            self._rests_until = time.monotonic() + REST_SECONDS
            raise

    def _connected(self, do: Callable[[], T]) -> T:
        # Of this thread alone, and open as long as that is: by CONN_MAX_AGE, which is about requests and is 0 unless a
        # project sets it, each statement would connect anew.
        connection = connections[self._using]
        try:
            return do()
        except Exception:
            connection.close()
            raise


def _from_now(seconds: float) -> Any:
    return Now() + timedelta(seconds=seconds)


def _is_found(value: bytes, turn: Turn) -> bool:
    return bool(value) and turn.refused not in (ANY, value[:HEAD_BYTES])
