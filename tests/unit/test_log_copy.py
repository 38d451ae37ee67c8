"""The copy of the invalidation log: which rows are about a call, which entries they leave valid, in every order."""

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcache.engine.log_copy import NOTHING, LogCopy, Row, State, View
from llmcache.engine.predicates import EVERYTHING, Facts, Predicate, matches
from llmcache.envelope import MAX_SEEN, SEEN_ID_BYTES

KEY = bytes(range(32))
FACTS = Facts("acme", ("ann", "ann-before"), "Ticket", "openai/gpt-5-mini", ("eu", "vip"), "inbox")
NAMED: dict[str, str] = {
    "key": KEY.hex(),
    "tenant": "acme",
    "subject": "ann-before",
    "response_type": "Ticket",
    "model": "openai/gpt-5-mini",
    "tag": "vip",
    "kind": "inbox",
}


def an_id(number: int) -> bytes:
    return number.to_bytes(SEEN_ID_BYTES, "big")


def a_row(
    number: int, predicate: Predicate = EVERYTHING, *, active: bool = True, supersedes: Iterable[int] = ()
) -> Row:
    return Row(number, an_id(number), predicate, active, tuple(map(an_id, supersedes)))


def copy_of(*rows: Row) -> LogCopy:
    copy = LogCopy()
    copy.put(rows)
    return copy


# -- what a row is about


def every_predicate(values: dict[str, str]) -> Iterator[Predicate]:
    for names in itertools.chain.from_iterable(itertools.combinations(values, size) for size in range(len(values) + 1)):
        yield Predicate(**{name: values[name] for name in names})


def test_every_combination_of_conditions_that_hold_matches() -> None:
    predicates = list(every_predicate(NAMED))
    assert len(predicates) == 128
    for number, predicate in enumerate(predicates, 1):
        assert matches(predicate, KEY.hex(), FACTS)
        assert [row.id for row in copy_of(a_row(number, predicate)).view(KEY, FACTS).rows] == [an_id(number)]
    together = copy_of(*(a_row(number, predicate) for number, predicate in enumerate(predicates, 1)))
    assert {row.id for row in together.view(KEY, FACTS).rows} == {an_id(number) for number in range(1, 129)}


@pytest.mark.parametrize("name", NAMED)
def test_one_condition_that_does_not_hold_is_enough(name: str) -> None:
    for predicate in every_predicate({**NAMED, name: "other"}):
        if getattr(predicate, name) is not None:
            assert not matches(predicate, KEY.hex(), FACTS)
            assert copy_of(a_row(1, predicate)).view(KEY, FACTS) == NOTHING


def test_what_a_call_does_not_name_meets_no_condition() -> None:
    bare = Facts(None, (), "Ticket", "openai/gpt-5-mini", (), "inbox")
    for name in ("tenant", "subject", "tag"):
        assert copy_of(a_row(1, Predicate(**{name: NAMED[name]}))).view(KEY, bare) == NOTHING
    assert copy_of(a_row(1)).view(KEY, bare).rows


words = st.sampled_from(["a", "b", "c"])
predicates = st.builds(Predicate, *([st.none() | words] * 7))
facts = st.builds(
    Facts,
    st.none() | words,
    st.lists(words, max_size=2).map(tuple),
    words,
    words,
    st.lists(words, max_size=3, unique=True).map(tuple),
    words,
)


@given(st.lists(predicates, max_size=20), facts, st.sampled_from([b"\xaa", b"\xbb"]))
def test_the_index_finds_what_a_search_through_all_finds(given_predicates: Any, given_facts: Facts, key: bytes) -> None:
    rows = [
        a_row(number, each if each.key is None else each._replace(key={"a": "aa", "b": "bb", "c": "cc"}[each.key]))
        for number, each in enumerate(given_predicates, 1)
    ]
    found = copy_of(*rows).view(key, given_facts)
    assert {row.id for row in found.rows} == {row.id for row in rows if matches(row.predicate, key.hex(), given_facts)}


# -- which entries are valid


def test_an_entry_is_valid_when_it_has_seen_all_rows_in_force() -> None:
    copy = copy_of(a_row(1, Predicate(tag="vip")), a_row(2, Predicate(kind="inbox")), a_row(3, Predicate(kind="other")))
    view = copy.view(KEY, FACTS)
    assert view.seen == an_id(1) + an_id(2)
    assert view.admits(view.seen)
    assert view.admits(an_id(2) + an_id(7) + an_id(1))
    for seen in (b"", an_id(1), an_id(2), an_id(3)):
        assert not view.admits(seen)


def test_undone_it_voids_nothing() -> None:
    copy = copy_of(a_row(1))
    assert not copy.view(KEY, FACTS).admits(b"")
    before = copy.epoch
    copy.put([a_row(1, active=False)])
    after = copy.epoch
    assert after != before
    assert copy.view(KEY, FACTS).admits(b"")
    copy.put([a_row(1, active=False)])
    assert copy.epoch == after


def test_what_was_undone_stays_so() -> None:
    copy = copy_of(a_row(1, active=False))
    before = copy.epoch
    # Of who has committed it, and comes to tell it after somebody has undone it.
    copy.put([a_row(1)])
    assert copy.epoch == before
    assert copy.view(KEY, FACTS) == NOTHING
    assert copy.state == State(1, 0, 1)


def test_a_newer_row_stands_for_the_equal_ones_that_it_knew() -> None:
    copy = copy_of(a_row(1), a_row(2, supersedes=[1]), a_row(3, supersedes=[2]))
    view = copy.view(KEY, FACTS)
    assert view.seen == an_id(3)
    assert [view.admits(an_id(number)) for number in (1, 2, 3)] == [False, False, True]
    assert copy.heads(EVERYTHING) == (an_id(3),)
    # Undone, the one before holds again, and who has seen the newer has seen that.
    copy.put([a_row(3, active=False, supersedes=[2])])
    view = copy.view(KEY, FACTS)
    assert [view.admits(an_id(number)) for number in (1, 2, 3)] == [False, True, True]
    assert not view.admits(b"")
    copy.put([a_row(2, active=False, supersedes=[1])])
    assert [copy.view(KEY, FACTS).admits(an_id(number)) for number in (1, 2, 3)] == [True, True, True]


def test_equal_rows_that_did_not_know_each_other_both_count() -> None:
    both = copy_of(a_row(1), a_row(2, supersedes=[1]), a_row(3, supersedes=[1]))
    assert set(both.heads(EVERYTHING)) == {an_id(2), an_id(3)}
    assert not both.view(KEY, FACTS).admits(an_id(2))
    assert both.view(KEY, FACTS).admits(an_id(2) + an_id(3))
    # The oldest stays superseded while one of the two is in force.
    both.put([a_row(2, active=False, supersedes=[1])])
    assert both.view(KEY, FACTS).seen == an_id(3)
    both.put([a_row(4, supersedes=[2, 3])])
    assert both.view(KEY, FACTS).seen == an_id(4)


def test_a_list_that_would_be_too_long_is_a_digest() -> None:
    many = [a_row(number, Predicate(tag=f"tag-{number}")) for number in range(1, MAX_SEEN + 2)]
    tagged = FACTS._replace(tags=tuple(f"tag-{number}" for number in range(1, MAX_SEEN + 2)))
    just = copy_of(*many[:-1]).view(KEY, tagged)
    assert len(just.seen) == MAX_SEEN * SEEN_ID_BYTES
    view = copy_of(*many).view(KEY, tagged)
    assert len(view.seen) == 2 * SEEN_ID_BYTES
    assert view.admits(view.seen)
    assert not view.admits(just.seen)
    assert not just.admits(view.seen)
    other = copy_of(*many[1:], a_row(1_000, Predicate(tag="tag-1"))).view(KEY, tagged)
    assert not other.admits(view.seen)


# -- how a copy is kept


def test_no_two_copies_have_an_epoch_in_common() -> None:
    copies = [copy_of(a_row(1)), copy_of(a_row(2)), LogCopy()]
    assert len({copy.epoch for copy in copies}) == 3


def test_rows_in_whatever_order_make_one_copy() -> None:
    rows = [
        a_row(1),
        a_row(2, supersedes=[1]),
        a_row(3, Predicate(tag="vip")),
        a_row(4, active=False, supersedes=[2]),
        a_row(5, Predicate(key=KEY.hex(), kind="inbox")),
    ]
    wanted = copy_of(*rows)
    for order in itertools.permutations(rows):
        copy = LogCopy()
        for row in order:
            copy.put([row])
        assert copy.state == wanted.state == State(5, 4, 5)
        assert set(copy.view(KEY, FACTS).rows) == set(wanted.view(KEY, FACTS).rows)
        assert copy.view(KEY, FACTS).seen == wanted.view(KEY, FACTS).seen


def test_a_copy_that_is_replaced_forgets_what_was_pruned() -> None:
    copy = copy_of(a_row(1, Predicate(tag="vip")), a_row(2, Predicate(key=KEY.hex())))
    before = copy.epoch
    copy.replace([a_row(2, Predicate(key=KEY.hex()))])
    after = copy.epoch
    assert (copy.state, after != before) == (State(1, 1, 2), True)
    assert copy.view(KEY, FACTS).seen == an_id(2)
    copy.replace([a_row(2, Predicate(key=KEY.hex()))])
    assert copy.epoch == after
    copy.replace([])
    assert copy.view(KEY, FACTS) == NOTHING


def test_a_row_may_be_pruned_while_it_is_looked_for() -> None:
    class Interrupted(dict[str, Any]):
        def get(self, *given: Any) -> Any:
            found = super().get(*given)
            copy.replace([])
            return found

    copy = copy_of(a_row(1, Predicate(key=KEY.hex())), a_row(2, Predicate(key=KEY.hex(), kind=FACTS.kind)))
    copy._by_key = Interrupted(copy._by_key)
    assert copy.view(KEY, FACTS) == NOTHING


def test_a_tag_that_changes_all_the_time_is_one_row_to_look_at() -> None:
    copy = LogCopy()
    for number in range(1, 20_001):
        copy.put([a_row(number, Predicate(tag="vip"), supersedes=[number - 1] if number > 1 else [])])
    assert copy.view(KEY, FACTS).seen == an_id(20_000)


# -- the rule, against what it is for


class World:
    """A log, a store of one entry, and those who use them; an answer is known by when its making began."""

    def __init__(self) -> None:
        self.committed: list[Row] = []
        self.copies = {"leader": LogCopy(), "other": LogCopy(), "reader": LogCopy()}
        self.seen: bytes | None = None
        self.asked_at = -1
        self.voided: dict[int, int] = {}
        """By the number of an active row, when it was committed."""
        self.at = 0

    def read_log(self, who: str) -> View:
        self.copies[who].replace(self.committed)
        return self.copies[who].view(KEY, FACTS)

    def invalidate(self, number: int, who: str) -> None:
        self.copies[who].replace(self.committed)
        heads = self.copies[who].heads(EVERYTHING)
        self.committed.append(Row(number, an_id(number), EVERYTHING, True, heads))
        self.voided[number] = self.at

    def undo(self, number: int) -> None:
        for index, row in enumerate(self.committed):
            if row.number == number and row.active:
                self.committed[index] = row._replace(active=False)
                del self.voided[number]

    def is_stale(self) -> bool:
        """Return whether the stored answer was asked for before a row that is in force was committed."""
        return any(self.asked_at < at for at in self.voided.values())


Step = tuple[str, str]
ACTORS: dict[str, list[str]] = {
    "leader": ["log", "ask", "store"],
    "second": ["log", "ask", "store"],
    "first invalidator": ["prepare", "commit"],
    "second invalidator": ["commit"],
    "undoer": ["undo"],
    "reader": ["read", "read"],
}


def orders(counts: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Yield every order of the actors' steps that keeps each one's own order."""
    if not any(counts.values()):
        yield ()
        return
    for actor in [actor for actor, left in counts.items() if left]:
        counts[actor] -= 1
        for rest in orders(counts):
            yield (actor, *rest)
        counts[actor] += 1


def stale_reads(order: Iterable[str], *, late: bool = False) -> tuple[int, int]:
    """Return how many reads gave a stale answer, and how many a good one, in an order of steps.

    ``late``: leaders read the log after they have asked, which is what must not be.
    """
    world, done = World(), dict.fromkeys(ACTORS, 0)
    views: dict[str, View] = {}
    began: dict[str, int] = {}
    heads: tuple[bytes, ...] = ()
    stale = good = 0
    for world.at, actor in enumerate(order):
        step = ACTORS[actor][done[actor]]
        done[actor] += 1
        if step == ("ask" if late else "log"):
            views[actor] = world.read_log("leader" if actor == "leader" else "other")
        if step == ("log" if late else "ask"):
            began[actor] = world.at
        if step == "store":
            world.seen, world.asked_at = views[actor].seen, began[actor]
        elif step == "prepare":
            # A row that knows what was there long before it is committed.
            world.copies["other"].replace(world.committed)
            heads = world.copies["other"].heads(EVERYTHING)
        elif step == "commit" and actor == "first invalidator":
            world.committed.append(Row(1, an_id(1), EVERYTHING, True, heads))
            world.voided[1] = world.at
        elif step == "commit":
            world.invalidate(2, "reader")
        elif step == "undo":
            world.undo(2)
        elif step == "read" and world.seen is not None and world.read_log("reader").admits(world.seen):
            stale, good = (stale + 1, good) if world.is_stale() else (stale, good + 1)
    return stale, good


def all_counts() -> dict[str, int]:
    return {actor: len(steps) for actor, steps in ACTORS.items()}


def test_no_order_of_one_leader_gives_a_stale_answer() -> None:
    counts = {**all_counts(), "second": 0}
    found = [stale_reads(order) for order in orders(counts)]
    assert len(found) == 15_120
    assert sum(stale for stale, _ in found) == 0
    assert sum(good for _, good in found) > 1_000


def test_a_log_that_is_read_after_the_question_would() -> None:
    counts = {**all_counts(), "second": 0}
    assert sum(stale_reads(order, late=True)[0] for order in orders(counts)) > 1_000


def test_no_order_of_two_leaders_does() -> None:
    steps = [actor for actor, count in all_counts().items() for _ in range(count)]
    shuffled = random.Random(2_026)
    good = 0
    for _ in range(10_000):
        shuffled.shuffle(steps)
        stale, more = stale_reads(steps)
        assert stale == 0, steps
        good += more
    assert good > 1_000
