"""The ledger: records become rows and sums, each call once, in whatever order, pieces and repetitions they come."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmcache
from llmcache.engine.counts import Collected, Tally
from llmcache.models import CacheEntry, ProviderCall, TenantDay, UsageBucket
from llmcache.money.journal_files import Event, JournalRecord, read_lines
from llmcache.money.ledger import Imported, add_counts, import_records
from llmcache.money.sums import LATENCY_PLACES
from tests.unit.ledger_records import (
    AT,
    BOUND,
    COST,
    DAY,
    FIELDS,
    HOSTILE,
    HOUR,
    KEY,
    NAMESPACE,
    bring,
    call,
    endless,
    everything,
    failed,
    hits_of,
    rejected,
    settled,
    started,
    stored,
)  # fmt: skip

pytestmark = pytest.mark.django_db


def row(number: int = 1) -> ProviderCall:
    return ProviderCall.objects.get(call_id=call(number))


_SUMS = (
    *("count", "avoided_pico_usd", "avoided_unknown", "saved_ms", "attempts", "spent_pico_usd", "unpriced"),
    *("in_doubt", "in_doubt_pico_usd", "in_doubt_unbounded"),
)


def sums(of: UsageBucket | TenantDay) -> dict[str, int]:
    """Return the sums that are not zero."""
    return {name: value for name in _SUMS if (value := getattr(of, name))}


def assert_sums_match_rows() -> None:
    """Fail unless the sums of hours and of days both are those of the rows."""
    left = [each for each in ProviderCall.objects.all() if each.outcome != "under_way"]
    doubtful = [each for each in left if each.outcome == "in_doubt"]
    ended = [each for each in left if each.outcome != "in_doubt"]
    expected = {
        "attempts": len(left),
        "spent_pico_usd": sum(each.cost_pico_usd or 0 for each in ended),
        "unpriced": sum(each.cost_pico_usd is None for each in ended),
        "in_doubt": len(doubtful),
        "in_doubt_pico_usd": sum(each.bound_pico_usd or 0 for each in doubtful),
        "in_doubt_unbounded": sum(each.bound_pico_usd is None for each in doubtful),
    }
    for table in (UsageBucket, TenantDay):
        total = {name: sum(getattr(each, name) for each in table.objects.all()) for name in expected}
        assert total == expected
    latencies = sum(sum(bucket.latencies) for bucket in UsageBucket.objects.all())
    assert latencies == sum(each.latency_ms is not None for each in left)


# What becomes of a call


def test_an_answer_is_a_row_with_all_that_was_told() -> None:
    assert bring(started(), settled()) == Imported(calls=1)
    found = row()
    assert found.started_at == datetime.fromtimestamp(AT, UTC)
    assert found.ended_at == datetime.fromtimestamp(AT + 2, UTC)
    assert (found.outcome, found.kind, found.model, found.answered_model) == (
        "answered",
        "Ticket",
        "openai/m",
        "m-2026",
    )
    assert (found.tenant, found.key, found.reason, found.attempt) == ("acme", KEY, "no_entry", 1)
    assert (found.input_tokens, found.cache_read_tokens, found.cache_write_tokens, found.output_tokens) == (
        *(100, 20, 0, 30),
    )
    assert (found.cost_pico_usd, found.bound_pico_usd, found.price_id, found.price_source) == (
        *(COST, BOUND, "openai/m", "settings"),
    )
    assert found.cost_usd == Decimal(COST) / 10**12
    assert (found.latency_ms, found.request_id, found.finish_reason, found.refused) == (1_500, "req_1", "stop", False)
    assert (found.to_store, found.error, found.error_types, found.status) == (True, "", [], None)
    assert (found.schema, found.ttl_seconds) == (started().facts["schema"], 600.0)
    assert str(found) == "Ticket by openai/m: answered"


@pytest.mark.parametrize(
    ("told", "kept"), [(None, None), (0, 0.0), (True, None), ("1", None), (-1, None), (1e300, None)]
)
def test_a_ttl_that_cannot_be_is_none(told: object, kept: float | None) -> None:
    bring(started(ttl=told), settled())
    assert row().ttl_seconds == kept


DOUBT = {"attempts": 1, "in_doubt": 1, "in_doubt_pico_usd": BOUND}
SPENT = {"attempts": 1, "spent_pico_usd": COST}

SEQUENCES: dict[str, tuple[list[JournalRecord], list[int], str, dict[str, int]]] = {
    "answered": ([started(), settled()], [], "answered", SPENT),
    "answered for nothing": ([started(), settled(cost=0)], [], "answered", {"attempts": 1}),
    "answered, cost unknown": ([started(), settled(cost=None)], [], "answered", {"attempts": 1, "unpriced": 1}),
    "rejected": ([started(), settled(), rejected()], [], "rejected", SPENT),
    "rejected first": ([rejected(), started(), settled()], [], "rejected", SPENT),
    "failed": ([started(), failed()], [], "failed", {"attempts": 1}),
    "failed, cost unknown": ([started(), failed(cost=None)], [], "failed", {"attempts": 1, "unpriced": 1}),
    "failed in doubt": ([started(), failed(cost=None, in_doubt=True)], [], "in_doubt", DOUBT),
    "failed in doubt, no bound": (
        [started(bound=None), failed(cost=None, in_doubt=True)],
        [],
        "in_doubt",
        {"attempts": 1, "in_doubt": 1, "in_doubt_unbounded": 1},
    ),
    "no end, in doubt": ([started()], [1], "in_doubt", DOUBT),
    "no end, in doubt, no bound": (
        [started(bound=None)],
        [1],
        "in_doubt",
        {"attempts": 1, "in_doubt": 1, "in_doubt_unbounded": 1},
    ),
    "no end, under way": ([started()], [], "under_way", {}),
    "said to be in doubt beside its end": ([started(), settled()], [1], "answered", SPENT),
    "rejected, its end lost": ([started(), rejected()], [], "in_doubt", DOUBT),
    "rejected, all else lost": ([rejected()], [], "in_doubt", {"attempts": 1, "in_doubt": 1, "in_doubt_unbounded": 1}),
    "its start lost": ([settled()], [], "answered", SPENT),
    "its start lost, failed": ([failed()], [], "failed", {"attempts": 1}),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_what_a_sequence_of_records_comes_to(case: str) -> None:
    records, in_doubt, outcome, expected = SEQUENCES[case]
    assert bring(*records, in_doubt=in_doubt) == Imported(calls=1)
    assert row().outcome == outcome
    total: Counter[str] = Counter()
    for bucket in UsageBucket.objects.all():
        total.update(sums(bucket))
    assert dict(total) == expected
    assert_sums_match_rows()
    # Again, it changes nothing.
    before = everything()
    assert bring(*records, in_doubt=in_doubt) == Imported(known=1)
    assert everything() == before


def test_an_end_takes_a_doubt_back() -> None:
    bring(started(), in_doubt=[1])
    assert row().outcome == "in_doubt"
    bring(started(), settled())
    assert (row().outcome, sums(UsageBucket.objects.get()), sums(TenantDay.objects.get())) == ("answered", SPENT, SPENT)
    assert_sums_match_rows()


def test_an_end_is_never_undone() -> None:
    bring(started(), settled())
    before = everything()
    for later in (
        [started()],
        [failed()],
        [failed(cost=None, in_doubt=True)],
        [settled(cost=5 * COST)],
        [started(kind="Other", bound=1)],
    ):
        bring(*later, in_doubt=[1])
        assert everything() == before


def test_an_attempt_under_way_is_not_counted_before_its_end() -> None:
    bring(started())
    assert everything()["hours"] == everything()["days"] == {}
    bring(started(), settled())
    assert (row().outcome, sums(UsageBucket.objects.get())) == ("answered", SPENT)


def test_a_lost_start_is_filled_in_when_it_comes() -> None:
    bring(settled())
    assert (row().kind, row().started_at, row().attempt, row().cost_pico_usd) == ("", row().ended_at, 0, COST)
    bring(started(stores=False))
    assert (row().kind, row().started_at.timestamp(), row().attempt, row().to_store) == ("Ticket", AT, 1, False)
    (hour,) = everything()["hours"].keys()
    assert hour == (HOUR, "Ticket", "openai/m", "", "bypass")
    assert_sums_match_rows()


def test_who_is_in_doubt_without_a_line_is_no_row() -> None:
    assert bring(started(1), in_doubt=[1, 2]) == Imported(calls=1)
    assert ProviderCall.objects.count() == 1


# Sums


def test_an_attempt_is_of_the_hour_and_the_day_in_which_it_began() -> None:
    bring(started(1, AT), settled(1, AT + 5), started(2, AT + 1), settled(2, AT + 1.2))
    midnight = datetime(2023, 11, 15, tzinfo=UTC).timestamp()
    bring(started(3, midnight - 1), settled(3, midnight + 9), started(4, midnight), settled(4, midnight + 9))
    hours = {bucket.hour: bucket.attempts for bucket in UsageBucket.objects.all()}
    hour = timedelta(hours=1)
    # The second began in the hour that ends at midnight, as the third did.
    assert hours == {HOUR: 1, HOUR + hour: 2, HOUR + 2 * hour: 1}
    assert {day.day: day.attempts for day in TenantDay.objects.all()} == {DAY: 3, DAY + timedelta(days=1): 1}


def test_attempts_are_summed_by_kind_model_and_whether_they_were_to_store() -> None:
    bring(
        *(started(1), settled(1), started(2, kind="Order"), settled(2), started(3, model="openai/x"), settled(3)),
        *(started(4, stores=False), settled(4), started(5, tenant=None), settled(5)),
    )
    keys = UsageBucket.objects.order_by("kind", "model", "outcome").values_list("kind", "model", "outcome", "attempts")
    assert list(keys) == [
        ("Order", "openai/m", "miss", 1),
        ("Ticket", "openai/m", "bypass", 1),
        ("Ticket", "openai/m", "miss", 2),
        ("Ticket", "openai/x", "miss", 1),
    ]
    days = TenantDay.objects.order_by("tenant", "outcome").values_list("tenant", "outcome", "attempts")
    assert list(days) == [("", "miss", 1), ("acme", "bypass", 1), ("acme", "miss", 3)]


@pytest.mark.parametrize(
    ("latency", "place"),
    [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1_023, 10), (1_024, 11), (2**22, 23), (2**40, LATENCY_PLACES - 1)],
)
def test_a_latency_is_counted_at_its_place(latency: int, place: int) -> None:
    bring(started(), settled(latency_ms=latency))
    (bucket,) = UsageBucket.objects.all()
    assert len(bucket.latencies) == LATENCY_PLACES
    assert [at for at, count in enumerate(bucket.latencies) if count] == [place]
    assert latency < 2**place or place == LATENCY_PLACES - 1
    bring(started(2), settled(2, latency_ms=latency), started(3), failed(3, latency_ms=None))
    bucket.refresh_from_db()
    assert sum(bucket.latencies) == bucket.latencies[place] == 2


def test_a_free_end_after_a_counted_doubt_moves_its_latency_too() -> None:
    bring(started(bound=0), in_doubt=[1])
    bring(failed(cost=0, latency_ms=3))
    (bucket,) = UsageBucket.objects.all()
    assert (sums(bucket), sum(bucket.latencies)) == ({"attempts": 1}, 1)


def test_sums_that_somebody_deleted_do_not_hold_up_an_import() -> None:
    bring(started(), failed(cost=None, latency_ms=None, in_doubt=True))
    bring(started(2), in_doubt=[2])
    UsageBucket.objects.all().delete()
    TenantDay.objects.all().delete()
    bring(settled(2))
    assert row(2).outcome == "answered"


# Entries


def entry(key: str = KEY) -> CacheEntry:
    return CacheEntry.objects.get(namespace=NAMESPACE, key=key)


def test_an_entry_is_a_row_with_all_that_was_told() -> None:
    bring(started(), settled(), stored())
    found = entry()
    assert (found.kind, found.response_type, found.model, found.answered_model) == (
        *("Ticket", "Ticket", "openai/m", "m-2026"),
    )
    assert (found.tenant, found.subject_hash, found.tags, found.source) == ("acme", "ef" * 32, ["inbox"], "provider")
    assert (found.written_at.timestamp(), found.expires_at and found.expires_at.timestamp()) == (AT + 2, AT + 602)
    assert (found.size_bytes, found.latency_ms, found.attempts, str(found.call_id)) == (512, 1_500, 1, call(1))
    assert (found.cost_pico_usd, found.output_tokens, found.hits, found.last_hit_at) == (COST, 30, 0, None)


def test_the_newer_entry_wins_and_its_hits_stay() -> None:
    bring(stored(1, written=AT, kind="first"))
    add_counts(hits_of(KEY, 7), using="default", namespace=NAMESPACE, at=AT + 3)
    bring(stored(2, written=AT + 10, kind="newer"))
    assert (entry().kind, entry().hits, str(entry().call_id)) == ("newer", 7, call(2))
    assert entry().last_hit_at == datetime.fromtimestamp(AT + 3, UTC)
    bring(stored(3, written=AT + 5, kind="older"))
    assert entry().kind == "newer"


@pytest.mark.parametrize("order", [1, -1])
def test_the_newer_of_two_in_one_import_wins(order: int) -> None:
    bring(*[stored(1, written=AT, kind="older"), stored(2, written=AT + 1, kind="newer")][::order])
    assert entry().kind == "newer"


def test_entries_of_two_name_spaces_are_two() -> None:
    bring(stored())
    import_records([stored(kind="other")], using="default", namespace="other", in_doubt=[])
    assert [each.kind for each in CacheEntry.objects.order_by("namespace")] == ["other", "Ticket"]


def test_hits_of_an_entry_that_is_not_known_are_in_the_sums_only() -> None:
    bring(stored())
    made = hits_of(KEY, 3)
    made.merge(hits_of("99" * 32, 4))
    add_counts(made, using="default", namespace=NAMESPACE, at=AT)
    assert (entry().hits, CacheEntry.objects.count()) == (3, 1)
    expected = {"count": 7, "avoided_pico_usd": 7 * COST, "saved_ms": 7 * 1_500}
    (bucket,), (day,) = UsageBucket.objects.all(), TenantDay.objects.all()
    assert (bucket.hour, bucket.tier, bucket.outcome, sums(bucket)) == (HOUR, "memory", "hit", expected)
    assert (day.day, day.tenant, sums(day)) == (DAY, "acme", expected)


def test_more_hits_than_one_statement_takes() -> None:
    keys = [f"{number:064x}" for number in range(250)]
    bring(*(stored(number + 1, key=key) for number, key in enumerate(keys)))
    made = Collected()
    for number, key in enumerate(keys):
        made.merge(hits_of(key, number + 1))
    add_counts(made, using="default", namespace=NAMESPACE, at=AT)
    assert dict(CacheEntry.objects.values_list("key", "hits")) == {key: at + 1 for at, key in enumerate(keys)}


def test_counts_of_what_cannot_be_are_written_all_the_same() -> None:
    made = hits_of(KEY, 3, cost=2**63 - 1)
    odd = Tally("k" * 500 + "\0", "m\ud800", "t" * 500, "x" * 500, "hit")
    made.add(odd, 1, int(HOUR.timestamp()))
    add_counts(made, using="default", namespace=NAMESPACE, at=AT)
    assert sum(bucket.count for bucket in UsageBucket.objects.all()) == 4


def test_costs_that_cannot_be_add_up_to_what_is_written_all_the_same(ledger: str) -> None:
    """Each one fits into the database's integers; together they would not."""
    import_records([started(1), settled(1), stored(1)], using=ledger, namespace=NAMESPACE)
    for _ in range(4):
        made = Collected()
        for tier in ("memory", "disk", "shared"):
            tally = Tally("Ticket", "openai/m", "acme", tier, "hit", bytes.fromhex(KEY), 2**62, 1)
            made.add(tally, 3, int(HOUR.timestamp()))
        assert add_counts(made, using=ledger, namespace=NAMESPACE, at=AT) == {}
    day = TenantDay.objects.using(ledger).get(tenant="acme", outcome="hit")
    hours = UsageBucket.objects.using(ledger).filter(outcome="hit")
    assert (day.count, [hour.count for hour in hours], day.avoided_pico_usd) == (36, [12] * 3, 10**18)
    assert [hour.avoided_pico_usd for hour in hours] == [10**18] * 3
    (entry,) = CacheEntry.objects.using(ledger).all()
    assert (entry.hits, 10**18 <= entry.saved_pico_usd <= 2 * 10**18) == (36, True)


# Any order, any pieces, any repetitions

TIMES = (AT - 3_600, AT, AT + 0.4, AT + 1)


@st.composite
def lives(draw: st.DrawFn, number: int) -> list[JournalRecord]:
    """The records of one call."""
    at = draw(st.sampled_from(TIMES))
    bound = draw(st.sampled_from([None, 0, BOUND]))
    first = started(
        number, at, kind=draw(st.sampled_from("AB")), bound=bound, stores=draw(st.booleans()),
        tenant=draw(st.sampled_from([None, "acme"])),
    )  # fmt: skip
    cost = draw(st.sampled_from([None, 0, COST * number]))
    latency = draw(st.sampled_from([None, 0, 5, 70_000]))
    answered = settled(number, at + 2, cost=cost, latency_ms=latency)
    key = draw(st.sampled_from([KEY, "12" * 32]))
    life = draw(
        st.sampled_from(
            [
                [first],
                [first, answered],
                [first, answered, rejected(number, at + 2.1)],
                [first, answered, stored(number, at + 2.2, key=key, written=at + number, kind=str(number))],
                [first, failed(number, at + 2, latency_ms=latency)],
                [first, failed(number, at + 2, cost=None, in_doubt=True)],
                [answered],
                [answered, rejected(number, at + 2.1)],
                [rejected(number, at + 2.1)],
                [first, rejected(number, at + 2.1)],
            ]
        )
    )
    return list(life)


@st.composite
def importable(draw: st.DrawFn) -> tuple[list[JournalRecord], list[list[JournalRecord]]]:
    """The records of some calls in order, and the same in any order, in pieces, some of them several times."""
    ordered = [each for number in range(1, draw(st.integers(2, 6))) for each in draw(lives(number))]
    repeated = draw(st.lists(st.sampled_from(ordered), max_size=6))
    shuffled = draw(st.permutations([*ordered, *repeated]))
    cuts = sorted(draw(st.lists(st.integers(0, len(shuffled)), max_size=4)))
    edges = [0, *cuts, len(shuffled)]
    return ordered, [shuffled[a:b] for a, b in itertools.pairwise(edges)]


@contextlib.contextmanager
def taken_back() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(importable())
def test_every_order_split_and_repetition_gives_the_same_rows_and_sums(
    made: tuple[list[JournalRecord], list[list[JournalRecord]]],
) -> None:
    ordered, pieces = made
    with taken_back():
        import_records(ordered, using="default", namespace=NAMESPACE, in_doubt=endless(ordered))
        assert_sums_match_rows()
        expected = everything()
    with taken_back():
        for piece in pieces:
            import_records(piece, using="default", namespace=NAMESPACE, in_doubt=endless(piece))
            assert_sums_match_rows()
        assert everything() == expected


# What lines can claim with a right checksum


def line(event: Any, call_id: Any, at: Any, facts: dict[str, Any]) -> bytes:
    """Return a journal's line with a right checksum, whatever it says."""
    import json

    text = json.dumps({**facts, "e": event, "id": call_id, "t": at}).encode()
    return b"%b %08x %b\n" % (NAMESPACE.encode(), zlib.crc32(f"{NAMESPACE} ".encode() + text), text)


@pytest.mark.parametrize("name", FIELDS)
def test_hostile_facts_hold_up_nothing(name: str) -> None:
    good = [started(1), settled(1), stored(1)]
    with taken_back():
        bring(*good)
        expected = everything()["calls"]
    bad = [
        make(number, **{name: value})
        for number, (make, value) in enumerate(itertools.product((started, settled, failed, rejected, stored), HOSTILE))
        if number > 1
    ]
    lines = [line(each.event, each.call_id, each.at, each.facts) for each in bad]
    read = read_lines(lines, NAMESPACE)
    assert (len(read.records), read.damaged) == (len(bad), 0)
    imported = bring(*read.records, *good, in_doubt=range(len(bad)))
    attempts = {each.call_id for each in bad if each.event != "stored"}
    assert ProviderCall.objects.count() == imported.calls == 1 + len(attempts)
    assert imported.unusable == 0 if name not in ("key", "written", "expires") else imported.unusable < len(HOSTILE)
    made = everything()["calls"]
    assert {key: made[key] for key in expected} == expected
    assert_sums_match_rows()
    assert_shown()


def assert_shown() -> None:
    """Fail unless all rows can be read and shown, and hold what every database would take."""
    for model in (ProviderCall, CacheEntry, UsageBucket, TenantDay):
        texts = [field for field in model._meta.concrete_fields if isinstance(field, models.CharField)]
        for each in model._default_manager.all():
            for text, most in [(str(each), 1_000), *((getattr(each, one.name), one.max_length or 0) for one in texts)]:
                assert len(text) <= most
                assert "\0" not in text
                text.encode()


IDS = [
    *("", "x", "1", call(2)[:-1], "g" * 32, "\0", "\ud800", "x" * 10_000, "{", "urn:uuid:", "ef" * 17, "-" * 36),
    "१" * 32,
]
STAMPS = [-1, -1e300, 1e300, 1e18, 253_402_300_800, -62_135_596_801, 2**63, 0.5 - 1, float("1e17")]


@pytest.mark.parametrize("event", ["started", "settled", "failed", "rejected", "stored"])
def test_ids_and_times_that_are_none_are_counted_as_unusable(event: Event) -> None:
    lines = [line(event, call_id, AT, stored().facts) for call_id in IDS]
    lines += [line(event, call(3), at, {**stored().facts, "written": at}) for at in STAMPS]
    read = read_lines(lines, NAMESPACE)
    assert (len(read.records), read.damaged) == (len(lines), 0)
    with taken_back():
        found = import_records(
            [*read.records, started(1), settled(1)], using="default", namespace=NAMESPACE, in_doubt=IDS
        )
        assert found.unusable + found.calls >= len(lines)
        assert found.unusable >= len(lines) - len([at for at in STAMPS if at >= 0])
        assert row(1).outcome == "answered"
        assert_shown()


@pytest.mark.parametrize(
    "facts",
    [
        {"key": None},
        {"key": "short"},
        {"key": ["ab" * 32]},
        {"key": 5},
        {"written": None},
        {"written": True},
        {"written": "now"},
        {"written": 1e300},
        {"written": -5},
        {"expires": "never"},
        {"expires": 1e300},
        {"expires": -1},
        {"expires": []},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_is_counted_as_unusable(facts: dict[str, Any]) -> None:
    assert bring(stored(1, **facts), stored(2, key="12" * 32)) == Imported(unusable=1)
    assert [each.key for each in CacheEntry.objects.all()] == ["12" * 32]


def test_a_cost_that_cannot_be_is_not_known() -> None:
    for number, cost in enumerate([-1, True, 1.5, "5", 2**62, 2**63, 10**16 + 1, [5], None], start=1):
        bring(started(number, bound=cost), settled(number, cost=cost))
    assert set(ProviderCall.objects.values_list("cost_pico_usd", "bound_pico_usd")) == {(None, None)}
    # So sums stay within what a database's integers hold.
    bring(started(10), settled(10, cost=10**15))
    assert UsageBucket.objects.aggregate(spent=models.Sum("spent_pico_usd")) == {"spent": 10**15}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.sampled_from(["started", "settled", "failed", "rejected", "stored"])
ANY_RECORDS = st.lists(
    st.builds(
        lambda event, call_id, at, facts: JournalRecord(event, call_id, at, facts),
        EVENTS,
        st.sampled_from([call(1), call(2), call(2).upper(), f"{{{call(2)}}}", "none"]) | st.text(max_size=40),
        st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(TIMES),
        st.dictionaries(st.sampled_from(FIELDS), ANY | st.sampled_from(HOSTILE), max_size=12),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_RECORDS, st.booleans())
def test_whatever_lines_say_the_sums_are_those_of_the_rows(records: list[JournalRecord], doubtful: bool) -> None:
    with taken_back():
        in_doubt = [each.call_id for each in records] if doubtful else []
        import_records([*records, started(9), settled(9)], using="default", namespace=NAMESPACE, in_doubt=in_doubt)
        assert row(9).outcome == "answered"
        assert_sums_match_rows()
        assert_shown()


def test_what_only_the_database_finds_bad_holds_up_nothing_else() -> None:
    """A trigger stands for whatever a check here does not know; two entries of one call are two rows."""
    refuse = (
        "CREATE TEMP TRIGGER refuse BEFORE INSERT ON main.{} WHEN NEW.kind = 'bad' "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    with connection.cursor() as cursor:
        cursor.execute(refuse.format("llmcache_providercall"))
        cursor.execute(refuse.format("llmcache_cacheentry").replace("TRIGGER refuse", "TRIGGER refuse_entry"))
    try:
        found = bring(
            *(started(1), settled(1), started(2, kind="bad"), settled(2), started(3), settled(3)),
            *(stored(3, key="12" * 32), stored(3, kind="bad")),
        )
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse")
            cursor.execute("DROP TRIGGER refuse_entry")
    assert found == Imported(calls=2, unusable=3)
    assert [row(1).outcome, row(3).outcome, entry("12" * 32).kind] == ["answered", "answered", "Ticket"]
    assert_sums_match_rows()


# A project without time zones


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_a_project_whose_database_keeps_naive_times(zone: str) -> None:
    fall_back = datetime(2023, 11, 5, 5, 30, tzinfo=UTC).timestamp()  # 01:30 in New York, for the first of two times
    with override_settings(USE_TZ=False, TIME_ZONE=zone):
        for number, at in enumerate([AT, fall_back, fall_back + 3_600], start=1):
            bring(started(number, at), in_doubt=[number])
            bring(settled(number, at + 2), stored(number, at + 2))
            assert_sums_match_rows()
        add_counts(hits_of(KEY, 2), using="default", namespace=NAMESPACE, at=AT)
        assert min(each.attempts for each in UsageBucket.objects.all()) >= 0
        assert {bucket.hour.minute for bucket in UsageBucket.objects.all()} == {30 if zone == "Asia/Kolkata" else 0}
        ticket = UsageBucket.objects.get(tier="memory")
        assert UsageBucket.objects.filter(hour=ticket.hour, tier="").count() == 1
        assert llmcache.stats(since=HOUR).calls == 1
        assert llmcache.stats(since=HOUR + timedelta(hours=1)).calls == 0
        assert llmcache.stats().calls == 3
