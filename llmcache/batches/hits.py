"""Hits of many calls at once: one look into memory for each, and one read of each other tier for all that is left.

What is found is judged as a single hit is: by the envelope, its time, the log of invalidations and the type's own
validation. What is unusual in any way is no hit here, and goes the way of a single call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.views.decorators.debug import sensitive_variables
from pydantic import ValidationError

from llmcache import envelope, request
from llmcache.answering import checked
from llmcache.content.reading import Again, encoded
from llmcache.engine.call import Outcome, Reason, Spent
from llmcache.engine.counts import CountedHit, Tally, tally_of
from llmcache.engine.log_copy import Judge
from llmcache.envelope import Entry
from llmcache.exceptions import LLMCacheError, ValidationFailed
from llmcache.prepared import Prepared
from llmcache.request import NOT_GIVEN
from llmcache.response_types import error_facts

if TYPE_CHECKING:
    from llmcache.batches.items import Asked
    from llmcache.content.messages import Content
    from llmcache.engine.runtime import Runtime

_NO_KEY: Final = b""


class Sort(NamedTuple):
    """What calls with the same options have in common."""

    prepared: Prepared
    max_age: float
    reads: bool
    """Whether an entry may answer them."""
    shares: bool
    """Whether one answer may be that of several."""
    is_final: bool
    """Whether it need not be looked for again where no tier has had anything under its key."""


@dataclass(slots=True)
class Answering:
    """How values came about: alike for all that one look has found in one tier."""

    sort: Sort
    tier: str | None
    at: float = 0.0
    """When it was over, in seconds since the epoch."""
    seconds: float = 0.0
    """How long it took."""
    outcome: Outcome = "hit"
    reason: Reason | None = None
    spent: Spent | None = None


class Source(NamedTuple):
    """Where a value came from: an entry, and how that was made or found."""

    answering: Answering
    key: bytes
    kept: Entry | bytes
    """The entry, or its bytes as they lay in their tier."""

    def entry(self) -> Entry:
        """Return the entry."""
        if isinstance(self.kept, Entry):
            return self.kept
        entry = envelope.decode(self.kept, self.key, secret=self.answering.sort.prepared.plan.seal.mac)
        if entry is None:
            raise AssertionError("These bytes have been read before.")
        return entry


class Hits:
    """The values that tiers had, side by side: a batch may have very many."""

    __slots__ = ("items", "sources", "values")

    def __init__(self) -> None:
        self.items: list[Asked] = []
        self.values: list[Any] = []
        self.sources: list[Source] = []


class Left(NamedTuple):
    """An item that no tier answers."""

    asked: Asked
    key: bytes
    """Empty where the answer is nobody else's."""
    looked: bool
    """Whether all tiers were asked, and none had anything."""
    sort: Sort


class Failed(NamedTuple):
    """An item that cannot be asked."""

    asked: Asked
    error: LLMCacheError


class _Group:
    """The items of a window that have the same options, by their keys."""

    __slots__ = ("alike", "answering", "begin", "firsts", "found", "looked", "rest", "shares", "sort")

    def __init__(self, sort: Sort) -> None:
        self.sort = sort
        self.shares = sort.shares
        self.begin = sort.prepared.state.copy
        """Begins the hash of a key."""
        self.answering: dict[str | None, Answering] = {}
        """By tier."""
        self.firsts: dict[bytes, Asked] = {}
        self.alike: dict[bytes, list[Asked]] = {}
        """The others of a key, where there are any."""
        self.found: list[tuple[bytes, int, int, str | None, Entry | bytes] | None] = []
        """What there is of each key."""
        self.rest: tuple[list[bytes], list[int]] = [], []
        """The keys that the tiers below memory are read for, and their places."""
        self.looked = False


_UNUSUAL: Final[Any] = object()
"""What memory has and cannot be given as it is."""
_source: Final[Callable[[tuple[Any, ...]], Source]] = partial(tuple.__new__, Source)  # in half the time


class BulkHits:
    """Looks for the calls of one batch."""

    def __init__(self, now: Runtime, response_model: Any, params: dict[str, Any]) -> None:
        self._now = now
        self._model = response_model
        self._params = params
        self._sorts: dict[int, tuple[tuple[Any, ...], Sort]] = {}

    @sensitive_variables()
    def sort(self, options: tuple[Any, ...]) -> Sort:
        """Return what calls with these options have in common; raises what is wrong with them."""
        known = self._sorts.get(id(options))
        if known is not None:
            return known[1]
        given = {name: value for name, value in zip(request.OPTIONS, options, strict=True) if value is not NOT_GIVEN}
        call = checked(self._now, "any", self._model, given, self._params, needs_completion=False)
        prepared = Prepared(call.plan, call.scope, call.oldest, call.facts, self._now.memory_name)
        reads = call.stores and call.cache in ("use", "only")
        # Who asks looks again, under older secrets too; who only looks does not.
        is_final = call.cache == "use" or self._now.older_entries is None
        made = Sort(prepared, call.max_age, reads, call.stores, is_final)
        # Found by identity, so that what is found keeps it alive. Options that differ from item to item are many.
        if len(self._sorts) >= 1_000:
            self._sorts.clear()
        self._sorts[id(options)] = options, made
        return made

    @sensitive_variables()
    def look(self, window: Sequence[Asked]) -> tuple[Hits, list[Left], list[Failed]]:
        """Return of these items which are answered, which are left to be asked, and which cannot be."""
        began = self._now.monotonic()
        hits, left, failed = Hits(), list[Left](), list[Failed]()
        groups: dict[int, _Group] = {}
        last, group, encoded = None, None, self._encoded
        for asked in window:
            _, _, content, options, wrong = asked
            try:
                if wrong is not None:
                    raise wrong
                if group is None or options is not last:
                    sort, last = self.sort(options), options
                    group = groups.get(id(sort)) or groups.setdefault(id(sort), _Group(sort))
                data = encoded(content)
            except LLMCacheError as error:
                failed.append(Failed(asked, error))
                continue
            if not group.shares:
                left.append(Left(asked, _NO_KEY, False, group.sort))
                continue
            if not isinstance(data, bytes):
                asked, data = asked._replace(content=Again(content, data)), data.key_bytes
            state = group.begin()
            state.update(data)
            key = state.digest()
            first = group.firsts.setdefault(key, asked)
            if first is not asked:
                group.alike.setdefault(key, []).append(asked)
        is_current = self._is_current() if groups else False
        for group in groups.values():
            self._remember(group, is_current=is_current)
        self._read_below(groups.values())
        for group in groups.values():
            self._sort_out(group, hits, left)
        at, seconds = self._now.clock.wall(), self._now.monotonic() - began
        for group in groups.values():
            for answering in group.answering.values():
                answering.at, answering.seconds = at, seconds
        return hits, left, failed

    def _is_current(self) -> bool:
        """Return whether what all know of invalidations may be gone by; what is this context's own, a call looks at."""
        now, log = self._now, self._now.log
        return now.monotonic() < log.good_until or (log.confirm() and not log.has_own)

    def _encoded(self, content: Any) -> bytes | Content:
        most = self._now.max_text_bytes
        try:
            data = content.encode() if type(content) is str and len(content) <= most else b""
        except UnicodeEncodeError:
            data = b""
        # What is wrong with it, if anything, is said as for a single call.
        return data if 0 < len(data) <= most else encoded(content, most, self._now.settings.max_file_bytes)

    def _remember(self, group: _Group, *, is_current: bool) -> None:
        """Note what memory has, and what the tiers below it are to be read for."""
        keys, prepared = list(group.firsts), group.sort.prepared
        group.found = [None] * len(keys)
        if not (group.sort.reads and is_current and prepared.current()):
            return
        rest = list(range(len(keys)))
        if self._now.memory is not None:
            rest = [place for place in rest if not self._in_memory(keys[place], prepared, group.found, place)]
        group.rest = [keys[place] for place in rest], rest
        group.looked = group.sort.is_final

    def _sort_out(self, group: _Group, hits: Hits, left: list[Left]) -> None:
        """Give each of the keys' items what was found, or leave it to be asked."""
        sort, keys, found, looked = group.sort, group.firsts, group.found, group.looked
        counted: dict[str | None, list[CountedHit]] = {}
        validate, alike = sort.prepared.validate, group.alike
        add_item, add_value, add_source = hits.items.append, hits.values.append, hits.sources.append
        answering, told = None, list[CountedHit]()
        for key, there, asked in zip(keys, found, group.firsts.values(), strict=True):
            others = alike.get(key, ()) if alike else ()
            if there is None or there is _UNUSUAL:
                left.append(Left(asked, key, looked and there is None, sort))
                left.extend(Left(other, key, looked and there is None, sort) for other in others)
                continue
            answer, cost, milliseconds, tier, kept = there
            if answering is None or tier is not answering.tier:
                answering = group.answering.setdefault(tier, Answering(sort, tier))
                told = counted.setdefault(tier, [])
            source = _source((answering, key, kept))
            count = 0
            for each in (asked, *others):
                # A value of its own for each: what somebody does to one of them is not seen by another.
                try:
                    value = validate(answer)
                except ValidationError:
                    left.append(Left(each, key, False, sort))
                    continue
                count += 1
                add_item(each)
                add_value(value)
                add_source(source)
            if count:
                told.append((key, count, cost, milliseconds))
        plan = sort.prepared.plan
        for tier, told in counted.items():
            if told:
                self._now.counts.count_hits(Tally(plan.kind, plan.model, sort.prepared.tenant, tier, "hit"), told)

    def _in_memory(self, key: bytes, prepared: Prepared, found: list[Any], place: int) -> bool:
        """Note what memory has; return whether nothing below it is to be looked at."""
        now, memory = self._now, self._now.memory
        held = None if memory is None else memory.get(key)
        if held is None:
            return False
        if held.epoch != now.log.epoch:
            epoch = now.log.epoch
            if not prepared.view(now.log, key).admits(held.entry.seen):
                return False
            held.epoch = epoch
        clock = now.monotonic()
        is_fresh = clock < held.expires and clock - held.written < prepared.max_age
        # What is past its time here may be a stale answer, or there may be a fresh one below: a call finds out.
        entry = held.entry
        found[place] = (entry.answer, entry.cost, entry.latency_ms, now.memory_name, entry) if is_fresh else _UNUSUAL
        return True

    def _read_below(self, groups: Iterable[_Group]) -> None:
        """Read each tier once, also where each item has options of its own."""
        by_age: dict[float, list[_Group]] = {}
        for group in groups:
            if group.rest[0] and self._now.tiers.below:
                by_age.setdefault(group.sort.max_age, []).append(group)
        for max_age, some in by_age.items():
            wanted = [key for group in some for key in group.rest[0]]
            judges = [judge for group in some for judge in self._judges(group.sort.prepared, group.rest[0])]
            opened = iter(self._now.tiers.open_many(wanted, max_age, judges))
            for group in some:
                # The places first: what is taken of the others for nothing is lost to the next group.
                for place, there in zip(group.rest[1], opened, strict=False):
                    group.found[place] = there

    def _judges(self, prepared: Prepared, keys: Sequence[bytes]) -> list[Judge | None]:
        log = self._now.log
        # Nearly always nothing is void, and the first of them tells.
        prepared.view(log, keys[0])
        if prepared.free_at == log.epoch:
            return [None] * len(keys)
        views = [prepared.view(log, key) for key in keys]
        return [None if view.is_free else Judge(view) for view in views]

    def count_shared(self, left: Left, entry: Entry, outcome: Outcome, tier: str | None) -> None:
        """Count an item that was answered together with another one."""
        plan, tenant = left.sort.prepared.plan, left.sort.prepared.tenant
        self._now.counts.count(tally_of(plan.kind, plan.model, tenant, tier, outcome, entry))

    def invalid(self, left: Left, error: ValidationError) -> ValidationFailed:
        """Return what is raised for an answer that does not pass a validation which it has passed before."""
        response = left.sort.prepared.plan.response
        return ValidationFailed(
            f"The answer to an equal item does not pass the validation of {response.name} again; see .errors.",
            errors=error_facts(error, response.schema.schema),
            key=left.key.hex(),
        )
