"""The copy of the log where humans have answered: which answer stands, and which entries are valid then."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmcache.engine.log_copy import LogCopy, Row, View
from llmcache.engine.predicates import EVERYTHING, Predicate
from llmcache.envelope import MAX_SEEN, SEEN_ID_BYTES
from tests.unit.test_log_copy import FACTS, KEY, a_row, an_id, copy_of

OF_KEY = Predicate(key=KEY.hex())


def a_correction(number: int, *, active: bool = True, supersedes: tuple[int, ...] = ()) -> Row:
    return a_row(number, OF_KEY, active=active, supersedes=supersedes)._replace(corrects=True)


def view(*rows: Row) -> View:
    return copy_of(*rows).view(KEY, FACTS)


def test_no_answer_of_the_providers_is_valid_while_a_humans_stands() -> None:
    found = view(a_correction(1))
    assert found.correction == an_id(1)
    assert not found.is_free
    for seen in (b"", found.seen, an_id(7)):
        assert not found.admits(seen)
        assert not found.may_keep(seen)
    assert found.admits(found.seen_corrected)


def test_other_keys_are_not_concerned() -> None:
    copy = copy_of(a_correction(1))
    assert copy.view(bytes(32), FACTS).is_free
    assert copy.correction(bytes(32)) is None
    assert copy.correction(KEY) == an_id(1)


def test_a_later_invalidation_voids_what_was_made_of_it_and_not_itself() -> None:
    before = view(a_correction(1)).seen_corrected
    for predicate in (EVERYTHING, OF_KEY):
        found = view(a_correction(1), a_row(2, predicate, supersedes=(1,) if predicate == OF_KEY else ()))
        assert found.correction == an_id(1)
        assert not found.admits(before)
        assert not found.admits(found.seen)
        assert found.admits(found.seen_corrected)
    undone = view(a_correction(1), a_row(2, OF_KEY, supersedes=(1,), active=False))
    assert undone.admits(before)


def test_withdrawn_what_was_made_of_it_is_void_for_ever() -> None:
    made = view(a_correction(1)).seen_corrected
    found = view(a_correction(1, active=False))
    assert found.correction is None
    assert not found.rows
    assert not found.is_free
    assert not found.admits(made)
    assert found.admits(b"")
    assert found.admits(found.seen)


def test_the_newest_in_force_stands_in_whatever_order_they_are_known() -> None:
    rows = [a_correction(1), a_correction(2, supersedes=(1,)), a_correction(3, active=False, supersedes=(2,))]
    for order in itertools.permutations(rows):
        found = view(*order)
        assert found.correction == an_id(2)
        assert not found.admits(view(rows[0]).seen_corrected)
        assert found.admits(found.seen_corrected)


def test_one_that_is_seen_by_its_own_context_alone() -> None:
    shared = copy_of(a_row(1))
    own = shared.overlaid([a_correction(2)])
    assert own.view(KEY, FACTS).correction == an_id(2)
    assert (shared.view(KEY, FACTS).correction, shared.correction(KEY)) == (None, None)
    shared.put([a_correction(2)])
    gone = shared.overlaid([a_correction(2, active=False)])
    assert (gone.view(KEY, FACTS).correction, shared.correction(KEY)) == (None, an_id(2))


def test_known_anew_from_the_beginning_they_are_the_same() -> None:
    copy = copy_of(a_correction(1))
    copy.replace([a_correction(1, active=False), a_correction(2)])
    assert copy.view(KEY, FACTS) == view(a_correction(1, active=False), a_correction(2))


def test_beside_more_rows_than_an_entry_can_list() -> None:
    for count in (MAX_SEEN - 2, MAX_SEEN - 1, MAX_SEEN, MAX_SEEN + 6):
        others = [a_row(number, Predicate(tag=tag)) for number, tag in enumerate(map(str, range(count)), 2)]
        copy = LogCopy()
        copy.put([a_correction(1), *others])
        facts = FACTS._replace(tags=tuple(map(str, range(count))))
        found = copy.view(KEY, facts)
        assert len(found.seen_corrected) <= MAX_SEEN * SEEN_ID_BYTES
        assert found.admits(found.seen_corrected)
        assert not found.admits(found.seen)
        copy.put([a_correction(1, active=False)])
        withdrawn = copy.view(KEY, facts)
        assert not withdrawn.admits(found.seen_corrected)
        assert withdrawn.admits(withdrawn.seen)


steps = st.lists(st.tuples(st.sampled_from(["plain", "correct", "undo", "provider", "human"]), st.integers(0, 30)))


@given(steps)
def test_whatever_happens_what_is_valid_was_made_of_what_stands(given_steps: Any) -> None:
    """Entries are made by who knows all; a row that supersedes knows what was there."""
    copy, rows = LogCopy(), list[Row]()
    entries = list[tuple[bytes | None, set[int], bytes]]()
    for what, number in given_steps:
        now = copy.view(KEY, FACTS)
        if what in ("plain", "correct"):
            row = a_row(len(rows) + 1, OF_KEY)._replace(supersedes=copy.heads(OF_KEY), corrects=what == "correct")
            rows.append(row)
            copy.put([row])
        elif what == "undo" and rows:
            rows[number % len(rows)] = undone = rows[number % len(rows)]._replace(active=False)
            copy.put([undone])
        elif what == "provider":
            entries.append((None, {row.number for row in rows}, now.seen))
        elif what == "human" and now.correction is not None:
            entries.append((now.correction, {row.number for row in rows}, now.seen_corrected))
    now = copy.view(KEY, FACTS)
    stands = max((row.number for row in rows if row.active and row.corrects), default=None)
    assert now.correction == (None if stands is None else an_id(stands))
    for made_of, known, seen in entries:
        after = any(row.active and row.number not in known for row in rows)
        if made_of != now.correction or after:
            assert not now.admits(seen)
        else:
            # Nothing that is in force has come since. What was undone meanwhile may cost an entry, and no more.
            assert now.admits(seen) or any(not row.active for row in rows)
