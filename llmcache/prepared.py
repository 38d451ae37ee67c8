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
from llmcache.request import NONE_GIVEN, NotGiven

if TYPE_CHECKING:
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

    __slots__ = ("_below", "max_age", "memory", "plan", "state", "tenant", "validate")

    def __init__(self, plan: Plan, scope: bytes, max_age: float, tenant: str | None, memory: str | None) -> None:
        self.plan = plan
        self.state: HashState = plan.state.copy()
        self.state.update(scope)
        self.max_age = max_age
        self.validate = plan.validate
        self.tenant = tenant
        self.memory = memory
        self._below: dict[tuple[bytes, float, str], Tally] = {}

    def tally(self, held: Held) -> Tally:
        """Return what a hit of this entry is counted as, made at the first."""
        made = held.tally = tally_of(self.plan.kind, self.plan.model, self.tenant, self.memory, "hit", held.entry)
        return made

    def tally_below(self, found: Found) -> Tally:
        """Return what a hit in another tier is counted as."""
        entry = found.entry
        known = entry.key, entry.written_at, found.tier
        tally = self._below.get(known)
        if tally is None:
            tally = tally_of(self.plan.kind, self.plan.model, self.tenant, found.tier, "hit", entry)
            if len(self._below) >= MAX_TALLIES_BELOW:
                self._below.clear()
            self._below[known] = tally
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
            # The system prompt is by far the largest of what is kept.
            self._size += len(prepared.plan.system or "")
            if len(self._found) >= MAX_PREPARED or self._size > MAX_PREPARED_CHARACTERS:
                self._found.clear()
                self._size = len(prepared.plan.system or "")
            self._found[lookup] = prepared

    def reset_after_fork(self) -> None:
        """Take a new lock: the old one may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()


def lookup_of(response_model: Any, options: tuple[Any, ...], params: dict[str, Any]) -> Hashable:
    """Return what a call with these arguments is found by; None when it cannot be found.

    Only arguments of the plain types are looked up: a subclass may call different values equal, and what lies in a
    tuple is not tagged with its type.
    """
    # A class stands for itself by its identity, which what is kept keeps alive; another type by its structure.
    annotation = id(response_model) if isinstance(response_model, type) else _structure(response_model)
    if not params and options == NONE_GIVEN:
        return annotation
    types = (*map(type, options), *map(type, params.values()))
    if not _PLAIN.issuperset(types):
        return None
    # 0.0 and -0.0 are equal and of one type, but not one number to a model. A list: a generator takes twice the time.
    values = [repr(value) if type(value) is float else value for value in params.values()]
    return (annotation, options, types, *params, *values)


def _structure(annotation: Any) -> Hashable:
    from llmcache.response_types import structure

    return structure(annotation)
