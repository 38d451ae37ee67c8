"""The invalidation log as one process knows it, indexed; it does no I/O.

A row says that the answers it matches are void, but for those whose makers had seen it before they asked. An entry
holds the ids that its maker had seen. It is valid when no active row that matches it is missing there.

A row supersedes those that are equal and were there when it was made, so that a tag that changes each minute is one row
to look at. Who has seen the newer has seen the older. When the newer one is undone, the older one holds again.

A row may say that a human's answer stands in place of what it has made void. Then no answer of the provider's is valid,
whenever it was asked for: what is made of the human's answer holds a mark beside the ids, and is valid as long as that
row is in force, and no longer.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from llmcache.engine.predicates import Facts, Predicate, matches
from llmcache.envelope import MAX_SEEN, SEEN_ID_BYTES

_epochs = itertools.count(1)
"""Of the whole process: what is kept with an epoch may outlive the copy that it is of."""

_NO_ID: Final = b"\0" * SEEN_ID_BYTES
"""Begins a list that would be too long: a digest of all the ids comes after it."""


class Row(NamedTuple):
    """One invalidation; and the group of it alone, for most have a predicate that no other has."""

    number: int
    """Its primary key. Rows are committed in any order."""
    id: bytes
    """Sixteen bytes at random."""
    predicate: Predicate
    active: bool
    """False once it was undone."""
    supersedes: tuple[bytes, ...] = ()
    """The ids of rows that are equal, and were there when this one was made."""
    corrects: bool = False
    """Whether a human's answer stands in place of what it has made void; its predicate is the key alone."""

    @property
    def heads(self) -> tuple[bytes, ...]:
        """The ids that nobody has superseded."""
        return (self.id,)

    def own(self) -> Row:
        """Return one that may be changed: itself, for it never changes."""
        return self

    def with_row(self, row: Row) -> Row | _Group:
        """Return the group that has another row too, or what has become of this one."""
        return row if row.id == self.id else _Group(self, row)

    def valid(self) -> tuple[Valid, ...]:
        """Return the rows in force."""
        return (Valid(self.id, frozenset((self.id,))),) if self.active else ()


class State(NamedTuple):
    """What tells whether two copies of the log are alike: no change leaves all three as they were."""

    rows: int
    active: int
    highest: int
    """The highest number; 0 without rows."""


class Valid(NamedTuple):
    """One row in force, and the ids of which an entry must hold one to be valid for it."""

    id: bytes
    any_of: frozenset[bytes]


class View(NamedTuple):
    """The rows that are in force for one call, at one moment."""

    rows: tuple[Valid, ...]
    seen: bytes
    """The list for an entry that is made from now on."""
    is_confirmed: bool = True
    """Whether it is known to be up to date; no entry is valid by a view that is not."""
    correction: bytes | None = None
    """The id of the row by which a human's answer stands; None where the provider's is wanted."""
    gone: frozenset[bytes] = frozenset()
    """The marks of human's answers that do not stand any more."""

    @property
    def is_free(self) -> bool:
        """Whether any entry is valid."""
        return self.is_confirmed and not self.rows and self.correction is None and not self.gone

    @property
    def seen_corrected(self) -> bytes:
        """The list for an entry that is made of the human's answer from now on."""
        if self.correction is None:
            return self.seen
        mark = mark_of(self.correction)
        if self.seen.startswith(_NO_ID) or len(self.seen) >= MAX_SEEN * SEEN_ID_BYTES:
            return _digest(self.seen + mark)
        return self.seen + mark

    def admits(self, seen: bytes) -> bool:
        """Return whether an entry with this list is valid."""
        if not self.is_confirmed:
            return False
        if self.is_free:
            return True
        if seen.startswith(_NO_ID):
            return seen == self.seen_corrected
        ids = {seen[start : start + SEEN_ID_BYTES] for start in range(0, len(seen), SEEN_ID_BYTES)}
        if not self.gone.isdisjoint(ids) or (self.correction is not None and mark_of(self.correction) not in ids):
            return False
        return all(not row.any_of.isdisjoint(ids) for row in self.rows)

    def may_keep(self, seen: bytes) -> bool:
        """Return whether an entry with this list is worth keeping: valid, as far as is known."""
        return self._replace(is_confirmed=True).admits(seen)


def mark_of(row_id: bytes) -> bytes:
    """Return what an entry holds that was made of a human's answer, and no other entry."""
    return hashlib.blake2b(row_id, digest_size=SEEN_ID_BYTES, person=b"correction").digest()


def _digest(ids: bytes) -> bytes:
    return _NO_ID + hashlib.blake2b(ids, digest_size=SEEN_ID_BYTES).digest()


NOTHING: Final = View((), b"")


class Judge:
    """One look into the tiers, by views of the log that all have to admit what is found."""

    __slots__ = ("_views", "refused")

    def __init__(self, *views: View) -> None:
        self._views = views
        self.refused = False
        """Whether there was an entry, and it was void."""

    def admits(self, seen: bytes) -> bool:
        """Return whether an entry with this list is valid, and remember one that is not."""
        if all(view.admits(seen) for view in self._views):
            return True
        self.refused = True
        return False


class _Group:
    """The rows with one predicate."""

    __slots__ = ("_by", "_changes", "_heads", "_rows", "_valid")

    def __init__(self, *rows: Row) -> None:
        self._rows: dict[bytes, Row] = {}
        self._by: dict[bytes, list[bytes]] = {}
        """By the id of a row, those that have superseded it."""
        self._heads: dict[bytes, None] = {}
        """The ids that nobody has superseded."""
        self._changes = 0
        self._valid: tuple[int, tuple[Valid, ...]] = (0, ())
        for row in rows:
            self.with_row(row)

    @property
    def heads(self) -> tuple[bytes, ...]:
        return tuple(self._heads)

    def own(self) -> _Group:
        return _Group(*list(self._rows.values()))

    def with_row(self, row: Row) -> _Group:
        """Take in a row, and return the group that has it: itself."""
        is_new = row.id not in self._rows
        # In this order: whoever reads meanwhile finds the old rows in force, or the new one too, and never neither.
        self._rows[row.id] = row
        if is_new:
            if row.id not in self._by:
                self._heads[row.id] = None
            for older in row.supersedes:
                self._by.setdefault(older, []).append(row.id)
                self._heads.pop(older, None)
        self._changes += 1
        return self

    def valid(self) -> tuple[Valid, ...]:
        """Return the rows in force: active, and not superseded by one that is."""
        changes = self._changes
        known, found = self._valid
        if known != changes:
            found = tuple(self._found())
            # With the number read before: what has changed meanwhile is looked at again.
            self._valid = changes, found
        return found

    def _found(self) -> Iterator[Valid]:
        looked, left = set[bytes](), list(self._heads)
        while left:
            row = self._rows.get(left.pop())
            # A row that was superseded in the very transaction that has undone it is not there.
            if row is None or row.id in looked:
                continue
            looked.add(row.id)
            if not row.active:
                left.extend(row.supersedes)
                continue
            later = self._later(row.id)
            if not any(self._rows[each].active for each in later):
                yield Valid(row.id, frozenset((row.id, *later)))

    def _later(self, row_id: bytes) -> set[bytes]:
        """Return the ids of all that have superseded a row, and those that have superseded these."""
        found, left = set[bytes](), [*self._by.get(row_id, ())]
        while left:
            each = left.pop()
            if each not in found:
                found.add(each)
                left.extend(self._by.get(each, ()))
        return found


_Pattern = tuple[bool, ...]


class LogCopy:
    """The rows that a process knows of.

    Any number of threads may read while one writes. Who keeps what it has read compares ``epoch``, read before.
    """

    def __init__(self) -> None:
        self.epoch = next(_epochs)
        """Changes with each change of a row."""
        self._rows: dict[bytes, Row] = {}
        self._active = 0
        self._highest = 0
        self._groups: dict[Predicate, Row | _Group] = {}
        self._by_key: dict[str, tuple[Predicate, ...]] = {}
        self._corrections: dict[str, tuple[Row, ...]] = {}
        """By a key, the rows by which a human's answer stands or has stood."""
        self._patterns: tuple[_Pattern, ...] = ()

    @property
    def state(self) -> State:
        """What it knows, in short."""
        return State(len(self._rows), self._active, self._highest)

    def knows(self, row: Row) -> bool:
        """Return whether it has a row, and in force or not as that is."""
        known = self._rows.get(row.id)
        return known is not None and known.active == row.active

    def put(self, rows: Iterable[Row]) -> None:
        """Take in rows that are new, or that have changed."""
        changed = False
        for row in rows:
            known = self._rows.get(row.id)
            # What was undone stays undone, whoever has read it before that and tells it only now.
            if known is not None and (known == row or not known.active):
                continue
            changed = True
            self._rows[row.id] = row
            self._active += row.active - (known is not None and known.active)
            self._highest = max(self._highest, row.number)
            if row.corrects and row.predicate.key is not None:
                # First: who reads meanwhile must not ask the provider for what a human has answered.
                others = [each for each in self._corrections.get(row.predicate.key, ()) if each.id != row.id]
                self._corrections[row.predicate.key] = (*others, row)
            self._index(row)
        if changed:
            self.epoch = next(_epochs)

    def replace(self, rows: Iterable[Row]) -> None:
        """Know these rows and no others."""
        fresh = LogCopy()
        fresh.put(rows)
        if fresh._rows == self._rows:
            return
        self._rows, self._active, self._highest = fresh._rows, fresh._active, fresh._highest
        self._corrections = fresh._corrections
        self._groups, self._by_key, self._patterns = fresh._groups, fresh._by_key, fresh._patterns
        self.epoch = next(_epochs)

    def overlaid(self, rows: Iterable[Row]) -> LogCopy:
        """Return a copy that knows these rows too, and leaves this one as it is."""
        made = LogCopy()
        made.epoch = self.epoch
        made._rows, made._active, made._highest = dict(self._rows), self._active, self._highest
        made._groups, made._by_key, made._patterns = dict(self._groups), dict(self._by_key), self._patterns
        made._corrections = dict(self._corrections)
        changed = tuple(rows)
        for predicate in {row.predicate for row in changed} & self._groups.keys():
            made._groups[predicate] = self._groups[predicate].own()
        made.put(changed)
        return made

    def _index(self, row: Row) -> None:
        predicate = row.predicate
        group = self._groups.get(predicate)
        if group is not None:
            self._groups[predicate] = group.with_row(row)
            return
        self._groups[predicate] = row
        if predicate.key is not None:
            self._by_key[predicate.key] = (*self._by_key.get(predicate.key, ()), predicate)
            return
        pattern = tuple(value is not None for value in predicate[1:])
        if pattern not in self._patterns:
            self._patterns = (*self._patterns, pattern)

    @property
    def names_keys(self) -> bool:
        """Whether any row names a key."""
        return bool(self._by_key)

    def heads(self, predicate: Predicate, more: Iterable[Row] = ()) -> tuple[bytes, ...]:
        """Return the ids that a new row with this predicate supersedes, where ``more`` of them are known."""
        group = self._groups.get(predicate)
        rows = tuple(more)
        if rows and group is not None:
            group = group.own()
        for row in rows:
            group = row if group is None else group.with_row(row)
        return () if group is None else group.heads

    def about(self, facts: Facts) -> tuple[Valid, ...]:
        """Return the rows in force that match all calls with these facts, whatever their keys."""
        groups, found = self._groups, list[Valid]()
        choices = (
            (facts.tenant,),
            facts.subjects,
            (facts.response_type,),
            (facts.model,),
            facts.tags,
            (facts.kind,),
        )
        for pattern in self._patterns:
            # A condition of no matter is None, and what the call does not have at all meets no condition.
            for values in itertools.product(
                *(choice if wanted else (None,) for wanted, choice in zip(pattern, choices, strict=True))
            ):
                if None in (value for value, wanted in zip(values, pattern, strict=True) if wanted):
                    continue
                group = groups.get(Predicate(None, *values))
                if group is not None:
                    found.extend(group.valid())
        return tuple(found)

    def with_key(self, rows: tuple[Valid, ...], key: bytes, facts: Facts) -> View:
        """Return what ``view`` does, where ``rows`` are those that ``about`` gives."""
        if not self._by_key:
            return view_of(rows)
        name = key.hex()
        # Rows that were pruned may be gone from the one since they were found in the other.
        groups = (self._groups.get(each) for each in self._by_key.get(name, ()) if matches(each, name, facts))
        keyed = [valid for group in groups if group is not None for valid in group.valid()]
        return view_of((*rows, *keyed), self._corrections.get(name, ()))

    def view(self, key: bytes, facts: Facts) -> View:
        """Return the rows that are in force for a call."""
        return self.with_key(self.about(facts), key, facts)

    def correction(self, key: bytes) -> bytes | None:
        """Return the id of the row by which a human's answer stands for a key."""
        return view_of((), self._corrections.get(key.hex(), ())).correction


def view_of(rows: tuple[Valid, ...], corrections: tuple[Row, ...] = ()) -> View:
    """Return the view of these rows in force; ``corrections``: those of its key, in force or not."""
    if not rows and not corrections:
        return NOTHING
    # The newest, and when that is withdrawn, the one before: everywhere the same, in whatever order they are known.
    stands = max((row for row in corrections if row.active), key=lambda row: (row.number, row.id), default=None)
    correction = None if stands is None else stands.id
    gone = frozenset(mark_of(row.id) for row in corrections if row.id != correction)
    ids = sorted(row.id for row in rows)
    # With one row more or less another digest: an answer too much is asked for, and none too few.
    seen = _digest(b"".join(ids)) if len(ids) > MAX_SEEN else b"".join(ids)
    return View(rows, seen, correction=correction, gone=gone)
