"""What is known of a call before its content: found by the very arguments of the call, checked and compiled once.

An argument is looked up together with its type, because ``1``, ``1.0`` and ``True`` are one key of a dict. What cannot
be looked up (a list among the parameters, say) is checked anew each time. The table is bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from llmcache.engine.counts import Tally, tally_of
from llmcache.engine.log_copy import NOTHING, Valid, View
from llmcache.envelope import UNKNOWN_COST
from llmcache.request import NONE_GIVEN, NotGiven

if TYPE_CHECKING:
    from llmcache.engine.log import Log
    from llmcache.engine.predicates import Facts
    from llmcache.envelope import Opened
    from llmcache.keys import HashState
    from llmcache.plans import Plan
    from llmcache.tiers.stack import Found, Held

MAX_PREPARED: Final = 1_024
MAX_PREPARED_CHARACTERS: Final = 4 * 2**20
MAX_TALLIES_BELOW: Final = 64
"""Of one prepared call. What memory does not hold is hit seldom, or is all that is hit: then it is worth keeping."""

_PLAIN: Final = frozenset({str, int, float, bool, type(None), timedelta, NotGiven})


class Prepared:
    """A plan under a scope, with the age that an answer may have."""

    __slots__ = (
        "_below",
        "_facts",
        "_void",
        "current",
        "free_at",
        "max_age",
        "memory",
        "plan",
        "state",
        "tenant",
        "validate",
    )

    def __init__(self, plan: Plan, scope: bytes, max_age: float, facts: Facts, memory: str | None) -> None:
        self.plan = plan
        self.state: HashState = plan.state.copy()
        self.state.update(scope)
        self.max_age = max_age
        self.validate = plan.validate
        self.current = plan.response.current
        self.tenant = facts.tenant
        self.memory = memory
        self._facts = facts
        self._void: tuple[int, tuple[Valid, ...]] = (-1, ())
        self.free_at = -1
        """The epoch of the log at which no row was about any of these calls."""
        self._below: dict[bytes, tuple[float, str, Tally]] = {}

    def view(self, log: Log, key: bytes) -> View:
        """Return the rows of the invalidation log that are in force for one of these calls."""
        epoch, rows = self._void
        if epoch != log.epoch:
            # Read before the rows are: what changes meanwhile is looked at again.
            epoch = log.epoch
            rows = log.shared.about(self._facts)
            self._void = epoch, rows
        shared = log.shared
        if not rows and not shared.names_keys:
            self.free_at = epoch
            return NOTHING
        return shared.with_key(rows, key, self._facts)

    def tally(self, held: Held) -> Tally:
        """Return what a hit of this entry is counted as, made at the first."""
        made = held.tally = tally_of(self.plan.kind, self.plan.model, self.tenant, self.memory, "hit", held.entry)
        return made

    def tally_below(self, found: Found) -> Tally:
        """Return what a hit in another tier is counted as."""
        return self.tally_opened(found.entry.key, found.entry.opened(), found.tier)

    def tally_opened(self, key: bytes, opened: Opened, tier: str) -> Tally:
        """Do as ``tally_below`` for what was opened under a key."""
        _, written_at, _, _, cost, latency_ms, _ = opened
        known = self._below.get(key)
        if known is not None and known[0] == written_at and known[1] == tier:
            return known[2]
        known_cost = None if cost == UNKNOWN_COST else cost
        tally = Tally(self.plan.kind, self.plan.model, self.tenant, tier, "hit", key, known_cost, latency_ms)
        if len(self._below) >= MAX_TALLIES_BELOW:
            self._below.clear()
        self._below[key] = written_at, tier, tally
        return tally


class PreparedCalls:
    """The prepared calls of one runtime; finding one takes no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[Hashable, Prepared] = {}
        self._size = 0
        self.get = self._found.get

    def keep(self, lookup: Hashable, prepared: Prepared) -> None:
        """Let ``get`` find it from now on."""
        with self._lock:
            size = _characters(prepared.plan)
            self._size += size
            if len(self._found) >= MAX_PREPARED or self._size > MAX_PREPARED_CHARACTERS:
                self._found.clear()
                self._size = size
            self._found[lookup] = prepared

    def reset_after_fork(self) -> None:
        """Take a new lock: the old one may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()


def _characters(plan: Plan) -> int:
    """Return how long its texts are: its system prompt, and what else a project says to a model in a parameter."""
    return len(plan.system or "") + sum(len(value) for value in plan.params.values() if isinstance(value, str))


def lookup_of(response_model: Any, options: tuple[Any, ...], params: dict[str, Any]) -> Hashable:
    """Return what a call with these arguments is kept under; None when it must not be kept.

    Only arguments of the plain types are looked up: a subclass may call different values equal, and what lies in a
    tuple is not tagged with its type.
    """
    if not _PLAIN.issuperset((*map(type, options), *map(type, params.values()))):
        return None
    return tagged(response_model, options, params)


def tagged(response_model: Any, options: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """Return these arguments as a call is looked for: what it is kept under, where it may have been kept.

    Arguments of other types than the plain ones are not equal to any that are kept, and perhaps cannot be hashed.
    """
    # A class stands for itself by its identity, which what is kept keeps alive; another type by its structure.
    annotation = id(response_model) if isinstance(response_model, type) else _structure(response_model)
    if not params and options == NONE_GIVEN:
        return annotation
    types = (*map(type, options), *map(type, params.values()))
    # 0.0 and -0.0 are equal and of one type, but not one number to a model. A list: a generator takes twice the time.
    values = [repr(value) if type(value) is float else value for value in params.values()]
    # The types first: values of other types than those that are kept are not even compared.
    return (annotation, types, options, *params, *values)


def _structure(annotation: Any) -> Hashable:
    from llmcache.response_types import structure

    return structure(annotation)
