"""Every place for leases does the same: Redis by scripts, Redis without scripts, a disk tier's file."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db.backends.signals import connection_created
from django.db.models import QuerySet
from pytest_django import DjangoDbBlocker

from llmcache.engine.leases import ANY, HEAD_BYTES, Lease, LeasePlace, Leases, Names, Reply, Turn
from llmcache.tiers.base import LeftAloneError
from llmcache.tiers.configured import tier_of
from llmcache.tiers.disk import DiskStore, DiskTier
from llmcache.tiers.disk_leases import DiskLeases
from llmcache.tiers.redis_leases import RedisLeases
from llmcache.tiers.redis_tier import RedisTier
from tests.cache_servers import RedisServer
from tests.contract.aliases import ALIAS, aliases, in_caches
from tests.ledgers import ALIAS as LEDGER
from tests.ledgers import known
from tests.waiting import until

Book = Callable[[float], Leases]

OLD, NEW = b"o" * 100, b"n" * 100
SECONDS = 30.0


def names() -> Names:
    """Return names of their own, which lie together."""
    tag = os.urandom(8).hex()
    return Names(*(f"{{{tag}}}:{part}" for part in ("entry", "more", "lead")))


class Place:
    """A place, and what lies in its tier."""

    def __init__(self, place: Any) -> None:
        self.place: LeasePlace = place
        self.tier: Any = place.tier
        self.names = names()

    def turn(self, refused: bytes = b"") -> Turn:
        return Turn(self.names, refused)

    def take(self, turn: Turn, seconds: float = SECONDS, instead_of: bytes = b"") -> Reply:
        return self.place.take(turn, seconds, instead_of)

    def led(self, seconds: float = SECONDS, refused: bytes = b"") -> Lease:
        turn = self.turn(refused)
        reply = self.take(turn, seconds)
        assert reply.state == "led"
        return Lease(self.names, turn.token, reply.head, float("inf"))

    def publish(self, lease: Lease, entry: bytes = NEW, ttl: float | None = SECONDS) -> bool:
        return self.place.publish(lease, entry, b"more", ttl)

    @property
    def holder(self) -> bytes | None:
        return self.held_by(self.names.lease)

    def held_by(self, name: str) -> bytes | None:
        """Return what lies in a lease's place."""
        rows = getattr(self.place, "_rows", None)
        if rows is None:
            return self.tier.get(name)
        row = rows().filter(name=name).first()
        return None if row is None else bytes.fromhex(row.token)

    def forget(self) -> None:
        """Let the lease be gone, as after a restart of the server."""
        rows = getattr(self.place, "_rows", None)
        if rows is None:
            self.tier.delete(self.names.lease)
        else:
            rows().filter(name=self.names.lease).delete()

    @property
    def entry(self) -> bytes | None:
        return self.tier.get(self.names.entry)


@pytest.fixture(params=["Redis", "Redis without scripts", "shards", "disk", "PostgreSQL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "PostgreSQL":
        from llmcache.lease_rows import DatabaseLeases

        database: dict[str, Any] = request.getfixturevalue("postgresql_tables")
        blocker: DjangoDbBlocker = request.getfixturevalue("django_db_blocker")
        store = DiskStore(tmp_path / "tier")
        with blocker.unblock(), known(database):
            made = Place(DatabaseLeases(LEDGER, DiskTier("disk", store)))
            yield made
            made.place.close()
        store.close()
        return
    if request.param == "disk":
        store = DiskStore(tmp_path / "tier")
        yield Place(DiskLeases(DiskTier("disk", store)))
        store.close()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    kind = {"shards": "django-redis over shards"}.get(request.param, "django-redis")
    with aliases(request, tmp_path) as make:
        settings = make.settings(kind)
        if request.param == "Redis without scripts":
            settings["LOCATION"] = _without_scripts(server)
        with in_caches(**{ALIAS: settings}):
            tier = tier_of(ALIAS)
            assert isinstance(tier, RedisTier)
            yield Place(RedisLeases(tier))
            tier.close()


def _without_scripts(server: RedisServer) -> str:
    """Return the address of a user who may run no scripts."""
    client = redis.Redis.from_url(server.url)
    client.execute_command(
        "ACL", "SETUSER", "noscripts", "on", ">secret", "~*", "&*", "+@all", "-eval", "-evalsha", "-script"
    )
    client.close()
    return server.url.replace("redis://", "redis://noscripts:secret@")


def test_the_first_leads_and_others_wait(place: Place) -> None:
    first, second = place.turn(), place.turn()
    assert place.take(first).state == "led"
    found = place.take(second)
    assert (found.state, found.holder, found.head) == ("waits", first.token, b"")
    # Whoever asks again for what it has leads on.
    assert place.take(first).state == "led"


def test_what_was_published_is_found(place: Place) -> None:
    lease = place.led()
    assert place.publish(lease)
    assert (place.entry, place.tier.get(place.names.more), place.holder) == (NEW, b"more", None)
    found = place.take(place.turn())
    assert (found.state, found.data) == ("found", NEW)


def test_what_is_of_no_use_is_not_found_again(place: Place) -> None:
    place.tier.set(place.names.entry, OLD, SECONDS)
    turn = place.turn()
    assert place.take(turn).data == OLD
    turn.refused = OLD[:HEAD_BYTES]
    reply = place.take(turn)
    assert (reply.state, reply.head) == ("led", OLD[:HEAD_BYTES])
    lease = Lease(place.names, turn.token, reply.head, float("inf"))
    assert place.publish(lease)
    assert place.entry == NEW


def test_who_does_not_look_leads_whatever_lies_there_and_finds_what_comes(place: Place) -> None:
    place.tier.set(place.names.entry, OLD, SECONDS)
    lease, other = place.led(refused=ANY), place.turn(ANY)
    waits = place.take(other)
    assert (waits.state, waits.head) == ("waits", OLD[:HEAD_BYTES])
    other.refused = waits.head
    assert place.take(other).state == "waits"
    assert place.publish(lease)
    assert place.take(other).data == NEW


def test_one_that_has_run_out_is_taken_and_its_holder_publishes_nothing(place: Place) -> None:
    late = place.led(seconds=0.05)
    turn = place.turn()
    until(lambda: place.take(turn).state == "led")
    assert not place.publish(late, OLD)
    assert (place.entry, place.holder) == (None, turn.token)
    assert place.publish(Lease(place.names, turn.token, b"", float("inf")))
    # Nor when the other has published, and nobody holds it any more.
    assert not place.publish(late, OLD)
    assert place.entry == NEW


def test_one_that_is_gone_publishes_where_nobody_has(place: Place) -> None:
    """As after a restart of the server, which forgets everything."""
    lease = place.led()
    place.forget()
    assert place.publish(lease)
    assert (place.entry, place.holder) == (NEW, None)


def test_one_that_is_gone_does_not_overwrite_what_came_meanwhile(place: Place) -> None:
    lease = place.led()
    place.forget()
    place.tier.set(place.names.entry, OLD, SECONDS)
    assert not place.publish(lease)
    assert place.entry == OLD


def test_renewed_it_lives_on(place: Place) -> None:
    lease = place.led(seconds=0.2)
    place.place.renew([lease], SECONDS)
    clock = threading.Event()
    clock.wait(0.3)
    assert place.take(place.turn()).state == "waits"


def test_renewed_when_it_is_gone_it_is_taken_anew_and_another_holders_is_not(place: Place) -> None:
    lease, turn = place.led(), place.turn()
    place.forget()
    place.place.renew([lease], SECONDS)
    assert place.holder == lease.token
    place.forget()
    assert place.take(turn).state == "led"
    place.place.renew([lease], SECONDS)
    assert place.holder == turn.token


def test_many_are_renewed_at_once(place: Place) -> None:
    leases = list[Lease]()
    for _ in range(20):
        place.names = names()
        leases.append(place.led(seconds=0.3))
    place.place.renew(leases, SECONDS)
    threading.Event().wait(0.4)
    assert [place.held_by(lease.names.lease) for lease in leases] == [lease.token for lease in leases]


def test_ended_by_its_holder_alone(place: Place) -> None:
    lease, turn = place.led(), place.turn()
    place.place.release(Lease(place.names, os.urandom(16), b"", 0), b"", SECONDS)
    assert place.holder == lease.token
    place.place.release(lease, b"", SECONDS)
    assert place.holder is None
    assert place.take(turn).state == "led"


def test_how_it_failed_is_told_to_who_has_waited_for_it_alone(place: Place) -> None:
    lease, waiting, late = place.led(), place.turn(), place.turn()
    waiting.holder = place.take(waiting).holder
    place.place.release(lease, b'{"code":"refused"}', SECONDS)
    found = place.take(waiting)
    assert (found.state, found.data) == ("failed", b'{"code":"refused"}')
    assert place.take(late).state == "led"
    # It waits for the one who leads now, who has not failed.
    assert place.take(waiting).state == "waits"


def test_how_it_failed_hinders_nobody_who_publishes(place: Place) -> None:
    lease = place.led()
    place.place.release(lease, b'{"code":"refused"}', SECONDS)
    assert place.publish(lease)
    assert place.entry == NEW


def test_one_that_was_given_up_is_taken_over(place: Place) -> None:
    ghost, turn = place.led(), place.turn()
    assert place.take(turn).state == "waits"
    assert place.take(turn, instead_of=os.urandom(16)).state == "waits"
    assert place.take(turn, instead_of=ghost.token).state == "led"


@pytest.mark.parametrize("token", [b"!" + b"x" * 15, b"\x00" * 16])
def test_a_token_may_begin_as_it_likes(place: Place, token: bytes) -> None:
    turn = place.turn()
    turn.token = token
    assert place.take(turn).state == "led"
    assert place.take(place.turn()).state == "waits"
    assert place.publish(Lease(place.names, token, b"", float("inf")))


def test_of_many_at_once_one_leads(place: Place) -> None:
    start, states = threading.Barrier(8), list[str]()

    def take() -> None:
        turn = place.turn()
        start.wait(10)
        states.append(place.take(turn).state)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(states) == ["led", *["waits"] * 7]


def test_for_no_time_and_for_ever(place: Place) -> None:
    lease = place.led()
    assert place.publish(lease, ttl=None)
    assert place.entry == NEW


# -- the book of one process


@pytest.fixture
def book(place: Place) -> Iterator[Book]:
    """Makes the book of a process, whose leases live so long; nobody renews them when the test is over."""
    made = list[Leases]()

    def make(seconds: float) -> Leases:
        made.append(Leases(place.place, seconds, time.monotonic))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Broken:
    """A place that cannot be reached."""

    def take(self, turn: Turn, seconds: float, instead_of: bytes) -> Reply:
        raise OSError("nobody is there")

    def renew(self, leases: Any, seconds: float) -> None:
        raise OSError("nobody is there")

    def release(self, lease: Lease, outcome: bytes, seconds: float) -> None:
        raise OSError("nobody is there")

    def publish(self, lease: Lease, entry: bytes, more: bytes, ttl_seconds: float | None) -> bool:
        raise OSError("nobody is there")

    def close(self) -> None:
        """Have nothing open."""


def test_who_cannot_say_that_it_leads_leads_alone() -> None:
    leases = Leases(Broken(), 10, lambda: 0.0)
    turn = Turn(Names("a", "b", "c"), b"")
    reply, lease = leases.take(turn, 60)
    assert (reply.state, len(leases)) == ("alone", 0)
    leases.end(turn, here=True)
    with pytest.raises(OSError, match="nobody"):
        leases.publish(lease, NEW, b"", None)


def test_a_lease_that_a_process_gave_up_on_does_not_keep_it_waiting(place: Place, book: Book) -> None:
    """A server that stood still has granted it after all."""
    leases = book(SECONDS)
    turn = place.turn()
    reply, lease = leases.take(turn, time.monotonic() + 60)
    assert reply.state == "led"
    with leases._changed:
        leases._held.clear()
    leases._give_up(lease.token)
    again, _ = leases.take(place.turn(), time.monotonic() + 60)
    assert again.state == "led"


def test_they_are_renewed_while_their_calls_last_and_not_longer(place: Place, book: Book) -> None:
    leases = book(0.3)
    turn, other = place.turn(), place.turn()
    leases.take(turn, time.monotonic() + 1.0)
    began = time.monotonic()
    while (state := place.take(other, 0.3).state) == "waits":
        time.sleep(0.02)
    # As long as the call may take, and the last renewal lasts; not one lease, and not for ever.
    assert (state, time.monotonic() - began > 0.9) == ("led", True)
    leases.end(turn, here=True)
    assert place.holder == other.token


def test_ended_elsewhere_it_is_told_by_the_thread(place: Place, book: Book) -> None:
    leases = book(SECONDS)
    turn = place.turn()
    reply, _ = leases.take(turn, time.monotonic() + 60)
    assert (reply.state, len(leases)) == ("led", 1)
    leases.end(turn, here=False)
    assert len(leases) == 0
    leases.finish(10)
    assert place.holder is None


def test_one_that_is_granted_to_nobody_any_more_is_given_back(place: Place, book: Book) -> None:
    """Of a caller that has gone while a thread was taking it."""
    leases = book(SECONDS)
    turn = place.turn()
    leases.end(turn, here=True)
    reply, _ = leases.take(turn, time.monotonic() + 60)
    assert (reply.state, len(leases), place.holder) == ("led", 0, None)


def test_one_that_is_taken_after_nothing_was_held_for_a_while_is_renewed_too(
    place: Place, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = book(0.3)
    first, second, renewed = place.turn(), place.turn(), list[bytes]()
    leases.take(first, time.monotonic() + 60)
    leases.end(first, here=True)
    # The thread that renews has found nothing to do, and waits for what comes.
    until(lambda: leases._due == float("inf"))
    renew = place.place.renew

    def noted(held: Sequence[Lease], seconds: float) -> None:
        renew(held, seconds)
        renewed.extend(lease.token for lease in held)

    monkeypatch.setattr(place.place, "renew", noted)
    leases.take(second, time.monotonic() + 60)
    until(lambda: renewed.count(second.token) >= 3)
    leases.end(second, here=True)


@pytest.mark.parametrize("place", ["PostgreSQL"], indirect=True)
def test_one_that_could_not_be_ended_when_its_answer_was_kept_keeps_nobody_here_waiting(
    place: Place, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, turn = book(SECONDS), place.turn()
    _, lease = leases.take(turn, time.monotonic() + 60)

    def fail(*_: object) -> None:
        raise OSError("the server is gone")

    with monkeypatch.context() as broken:
        broken.setattr(place.place, "release", fail)
        assert leases.publish(lease, NEW, b"more", SECONDS)
        leases.end(turn, here=True)
        leases.finish(10)
    assert place.holder == lease.token
    # By who asks for what is there already.
    assert leases.take(place.turn(ANY), time.monotonic() + 60)[0].state == "led"


@pytest.mark.parametrize("place", ["PostgreSQL"], indirect=True)
def test_statements_about_leases_share_a_connection(place: Place) -> None:
    """Also where ``CONN_MAX_AGE`` is 0, as it is by default: who waits asks several times a second."""
    opened = list[object]()

    def note(*, connection: object, **_: object) -> None:
        opened.append(connection)

    connection_created.connect(note, weak=False)
    try:
        for number in range(5):
            lease = place.led()
            place.place.renew([lease], SECONDS)
            assert place.publish(lease, b"entry %d" % number)
            place.tier.delete(place.names.entry)
    finally:
        connection_created.disconnect(note)
    # One of each of its threads, and this test's own.
    assert 0 < len(opened) <= 3


@pytest.mark.parametrize("place", ["PostgreSQL"], indirect=True)
def test_a_database_that_fails_is_left_alone_for_a_while(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcache import lease_rows

    asked = list[int]()

    def fail(*_: object) -> None:
        asked.append(1)
        raise OSError("the server is gone")

    with monkeypatch.context() as broken:
        broken.setattr(lease_rows.DatabaseLeases, "_connected", fail)
        for _ in range(3):
            with pytest.raises((OSError, LeftAloneError)):
                place.take(place.turn())
    assert len(asked) == 1
    with pytest.raises(LeftAloneError):
        place.take(place.turn())
    place.place._rests_until = 0.0  # type: ignore[attr-defined]
    assert place.take(place.turn()).state == "led"


@pytest.mark.parametrize("place", ["PostgreSQL"], indirect=True)
def test_how_it_failed_is_told_when_that_comes_in_the_midst_of_a_look(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, turn, released = place.led(), place.turn(), list[Lease]()
    turn.holder = place.take(turn).holder
    update = QuerySet.update

    def meanwhile(rows: Any, **given: Any) -> int:
        if not released:
            released.append(lease)
            place.place.release(lease, b"refused", SECONDS)
        return update(rows, **given)

    monkeypatch.setattr(QuerySet, "update", meanwhile)
    assert place.take(turn).state == "waits"
    assert released
    assert place.take(turn)[:2] == ("failed", b"refused")
    assert place.take(place.turn()).state == "led"
