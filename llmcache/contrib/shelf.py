"""A shelf in the tiers for another library's cache: bytes under that library's key, by the rules of all answers.

Such a library looks for a value, and some time later hands in one that it has made itself. So nobody waits for a flight
of others, nothing of the making is in the journal, and what it has cost is in no row; a hit counts what it has saved.
What the invalidation log said at the look is remembered, in the caller's context, until the value comes: what has been
invalidated meanwhile voids it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from django.core.cache import caches
from django.views.decorators.debug import sensitive_variables

from llmcache import keys, request, workers
from llmcache.bypassing import is_bypassed
from llmcache.contrib.looks import Missed, forget, remember
from llmcache.contrib.waiting import waited_for
from llmcache.engine import process
from llmcache.engine.counts import Tally, tally_of
from llmcache.engine.lifetimes import FOREVER
from llmcache.engine.log_copy import Judge, View
from llmcache.engine.predicates import Facts
from llmcache.envelope import UNKNOWN_COST, Entry
from llmcache.exceptions import ConfigurationError
from llmcache.kinds import lifetime_of, version_of
from llmcache.plans import MAX_KIND
from llmcache.request import NONE_GIVEN, NOT_GIVEN, NotGiven
from llmcache.tiers.configured import configured_tiers

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime
    from llmcache.keys import HashState
    from llmcache.money.usage import Usage
    from llmcache.tiers.stack import Found, TierStack

_T = TypeVar("_T")

_TENANT: Final = request.OPTIONS.index("tenant")
_CLOCKS_DIFFER: Final = 3_600.0
"""As for all calls: a row of the log may be gone some time before another machine's clock says so."""
_MOST_TALLIES: Final = 256
_LONGEST: Final = 1e11
"""Seconds: far more than a life, far less than what overflows a date."""
_MOST_NAME: Final = 200
_DATED: Final = re.compile(r"-\d{4}-?\d{2}-?\d{2}$")
"""The end of a model's name that says which of its snapshots has answered."""


class Made(NamedTuple):
    """A value that a neighbour hands in, with what is known of its making."""

    value: bytes
    model: str | None = None
    """The model that answered, as its provider calls it."""
    usage: Usage | None = None
    """Tokens, of all attempts; None where they are not told."""


@dataclass(frozen=True, slots=True)
class _Home:
    """Where a shelf's values lie, as the settings in force have it."""

    now: Runtime
    tiers: TierStack
    state: HashState
    """Of what is in the key of each of them."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One value that is looked for, or handed in."""

    now: Runtime
    tiers: TierStack
    key: bytes
    facts: Facts

    @property
    def oldest(self) -> float:
        """Seconds that it may be old: of what was invalidated before, nobody knows any more."""
        return self.now.settings.retention["invalidations"] - _CLOCKS_DIFFER

    @property
    def can_be_seen(self) -> bool:
        """Whether what is known of the log is recent, so that looking takes no time."""
        return self.now.monotonic() < self.now.log.good_until

    def view(self) -> View:
        """Return the invalidations in force. It may take time, see ``can_be_seen``."""
        is_confirmed = self.now.log.confirm()
        view = self.now.log.view(self.key, self.facts)
        return view if is_confirmed else view._replace(is_confirmed=False)


class Shelf:
    """The values of one neighbour's cache, for any number of threads and event loops.

    ``neighbour``: the library's name. ``alias``: of ``CACHES``, to keep them there and in no other tier. ``kind``: what
    settings, counts and invalidations call them. ``ttl``: as of ``llmcache.extract``; left out, the kind's. ``tenant``:
    left out, whoever ``LLMCACHE["TENANT"]`` tells. ``provider``: an alias of ``PROVIDERS`` whose prices the calls have.

    Raises ``InvalidRequest`` for an argument of no use, here. Looking and keeping raise ``ConfigurationError`` for
    settings of no use and ``TenantMissing``, and nothing else: a store that fails is a miss.
    """

    def __init__(
        self,
        neighbour: str,
        *,
        alias: str | None,
        kind: str,
        ttl: float | timedelta | NotGiven | None,
        tenant: str | NotGiven | None,
        tags: object,
        provider: str | None,
    ) -> None:
        self.neighbour = neighbour
        self.kind = request.word("kind", kind, most=MAX_KIND)
        self._alias = None if alias is None else request.word("alias", alias)
        self._ttl = ttl if isinstance(ttl, NotGiven) else request.lifetime(ttl)
        self._tenant = tenant if tenant is None or isinstance(tenant, NotGiven) else request.word("tenant", tenant)
        self._tags = request.tag_names(tags)
        self._provider = None if provider is None else request.word("provider", provider)
        self._home: _Home | None = None
        self._tallies: dict[bytes, tuple[float, str, Tally]] = {}

    @sensitive_variables()
    def get(self, content: bytes, read: Callable[[bytes], _T | None]) -> _T | None:
        """Return what ``read`` makes of the value under a neighbour's key; None where there is none that may be served.

        In an event loop too, which waits as long: such a library has it called there. Memory is looked into at once,
        and other tiers by a thread, because a database may not be read in a loop's own.
        """
        asked = self._asked(process.current(), content)
        if asked is None:
            return None
        view = asked.view() if asked.can_be_seen else waited_for(asked.view)
        judge = Judge(view)
        found = asked.tiers.read_memory(asked.key, asked.oldest, judge)
        if found is None and asked.tiers.below:
            found = waited_for(partial(asked.tiers.read_below, asked.key, asked.oldest, judge))
        return self._told(asked, view, found, read)

    @sensitive_variables()
    async def aget(self, content: bytes, read: Callable[[bytes], _T | None]) -> _T | None:
        """Do as ``get``, and hold up no loop."""
        asked = self._asked(await self._ready(), content)
        if asked is None:
            return None
        view = asked.view() if asked.can_be_seen else await workers.files.run(asked.view)
        judge = Judge(view)
        found = asked.tiers.read_memory(asked.key, asked.oldest, judge)
        if found is None and asked.tiers.below:
            found = await asked.tiers.aread_below(asked.key, asked.oldest, judge)
        return self._told(asked, view, found, read)

    @sensitive_variables()
    def put(self, content: bytes, made: Made, ttl: float | NotGiven | None = NOT_GIVEN) -> None:
        """Keep a value under a neighbour's key for ``ttl`` seconds, for the shelf's own time where that is left out."""
        asked = self._asked(process.current(), content)
        if asked is not None:
            entry = self._entry_of(asked, made, ttl)
            self._count_made(asked, made, waited_for(partial(self._keep, asked, made, entry)))

    @sensitive_variables()
    async def aput(self, content: bytes, made: Made, ttl: float | NotGiven | None = NOT_GIVEN) -> None:
        """Do as ``put``, and hold up no loop."""
        asked = self._asked(await self._ready(), content)
        if asked is not None:
            entry = self._entry_of(asked, made, ttl)
            self._count_made(asked, made, await workers.files.run(partial(self._keep, asked, made, entry)))

    def clear(self) -> None:
        """Make all values of this kind void, those of the tenant alone where there is one; nothing else is touched."""
        from llmcache.invalidation import invalidate

        invalidate(**self._all_of(process.current()))

    async def aclear(self) -> None:
        """Do as ``clear``, awaited."""
        from llmcache.invalidation import ainvalidate

        await ainvalidate(**self._all_of(await _runtime()))

    # -- where, and whose

    def _asked(self, now: Runtime, content: bytes) -> _Asked | None:
        """Return what is asked for; None where the cache is to be left alone."""
        if is_bypassed() or not now.settings.enabled:
            return None
        tenant, home = self._tenant_of(now), self._home_of(now)
        state = home.state.copy()
        state.update(keys.scope(tenant, None, self._tags, None, None))
        state.update(content)
        return _Asked(now, home.tiers, state.digest(), Facts(tenant, (), "", "", self._tags, self.kind))

    async def _ready(self) -> Runtime:
        """Return the runtime, with all that takes time at the first call done by a thread: imports, files."""
        now = await _runtime()
        home = self._home
        if (home is None or home.now is not now) and now.settings.enabled and not is_bypassed():
            await workers.files.run(partial(self._home_of, now))
        return now

    def _tenant_of(self, now: Runtime) -> str | None:
        options = (*NONE_GIVEN[:_TENANT], self._tenant, *NONE_GIVEN[_TENANT + 1 :])
        told = (options if now.tenancy is None else now.tenancy.named(options))[_TENANT]
        return None if isinstance(told, NotGiven) else told

    def _home_of(self, now: Runtime) -> _Home:
        home = self._home
        if home is not None and home.now is now:
            return home
        # Without a lock, which a forked child might find taken: of two that are made at once, the later stays.
        made = self._home = self._made_home(now)
        if home is not None and home.tiers is not home.now.tiers:
            home.tiers.close()
        return made

    def _made_home(self, now: Runtime) -> _Home:
        seal = now.seals[0]
        state = keys.plan_state(
            identity=f"neighbour:{self.neighbour}",
            kind=self.kind,
            type_name="",
            version=version_of(now.settings, self.kind),
            head=b"",
            secret=seal.key_hash,
        )
        if self._provider is not None:
            now.provider(self._provider)
        if self._alias is None:
            return _Home(now, now.tiers, state)
        if self._alias not in caches.settings:
            known = ", ".join(sorted(caches.settings))
            raise ConfigurationError(
                f"DjangoCache({self._alias!r}) names an alias that is not in CACHES (there are: {known}). Add it to "
                "CACHES, or leave it out to use the tiers of LLMCACHE."
            )
        settings = replace(now.settings, tiers=(self._alias,))
        tiers = configured_tiers(settings, now.namespace, now.clock, seal=seal, test=now.test is not None)
        return _Home(now, tiers, state)

    def _all_of(self, now: Runtime) -> dict[str, Any]:
        tenant = self._tenant_of(now)
        conditions = {"kind": self.kind, "reason": f"clear() of the cache for {self.neighbour}"}
        return conditions if tenant is None else {**conditions, "tenant": tenant}

    # -- what was found

    @sensitive_variables()
    def _told(self, asked: _Asked, view: View, found: Found | None, read: Callable[[bytes], _T | None]) -> _T | None:
        value = None if found is None else read(found.entry.answer)
        if found is None or value is None:
            remember(asked.key, Missed(view.seen, asked.now.monotonic()))
            return None
        asked.now.counts.count(self._tally(asked, found))
        return value

    def _tally(self, asked: _Asked, found: Found) -> Tally:
        entry = found.entry
        known = self._tallies.get(entry.key)
        if known is not None and known[:2] == (entry.written_at, found.tier):
            return known[2]
        model = self._model(entry.facts().get("model"))
        tally = tally_of(self.kind, model, asked.facts.tenant, found.tier, "hit", entry)
        if len(self._tallies) >= _MOST_TALLIES:
            self._tallies.clear()
        self._tallies[entry.key] = entry.written_at, found.tier, tally
        return tally

    def _model(self, name: object) -> str:
        told = name[:_MOST_NAME] if isinstance(name, str) and name else "unknown"
        return f"{self._provider or self.neighbour}/{told}"

    # -- what is made

    @sensitive_variables()
    def _entry_of(self, asked: _Asked, made: Made, ttl: float | NotGiven | None) -> Entry | None:
        """Return the entry of a value; None for one that is not to be kept."""
        lasts = self._lifetime(asked, ttl)
        missed = forget(asked.key)
        if lasts == 0 or len(made.value) > asked.now.settings.max_value_bytes:
            return None
        now = asked.now.clock.wall()
        until = FOREVER if lasts is None else now + lasts
        return Entry(
            key=asked.key,
            answer=made.value,
            written_at=now,
            fresh_until=until,
            stale_until=until,
            latency_ms=0 if missed is None else max(round((asked.now.monotonic() - missed.at) * 1_000), 0),
            # Handed in without a look: it is as recent as what is known now.
            seen=asked.now.log.view(asked.key, asked.facts).seen if missed is None else missed.seen,
            meta=_meta(made),
        )

    def _lifetime(self, asked: _Asked, ttl: float | NotGiven | None) -> float | None:
        if isinstance(ttl, NotGiven):
            ttl = self._ttl
        if not isinstance(ttl, NotGiven):
            return ttl
        lasts, derive = lifetime_of(asked.now.settings, self.kind)
        # A function of the value: that is the neighbour's, and not here.
        return asked.now.settings.ttl if derive is not None else lasts

    @sensitive_variables()
    def _keep(self, asked: _Asked, made: Made, entry: Entry | None) -> bool:
        """Keep an entry where it is still good; return whether it was to be kept at all. It may take time."""
        if entry is None:
            return False
        entry.cost = self._cost(asked, made, entry.written_at)
        if asked.view().may_keep(entry.seen):
            asked.tiers.write(entry, b"")
        return True

    def _cost(self, asked: _Asked, made: Made, at: float) -> int:
        if self._provider is None or made.model is None:
            return UNKNOWN_COST
        address = str(getattr(asked.now.provider(self._provider), "base_url", ""))
        # What was asked for is the neighbour's: the settings have its price by the name without a date.
        name = _DATED.sub("", made.model)
        cost = asked.now.prices.cost(f"{self._provider}/{name}", made.model, address, made.usage, at)
        return UNKNOWN_COST if cost is None else cost.pico_usd

    def _count_made(self, asked: _Asked, made: Made, stores: bool) -> None:
        outcome = "miss" if stores else "bypass"
        asked.now.counts.count(tally_of(self.kind, self._model(made.model), asked.facts.tenant, None, outcome))


def seconds_of(ttl: object) -> float | NotGiven | None:
    """Return a neighbour's own time limit as a shelf takes it: None is none given, and what is too long is for ever.

    It comes with a value that is paid for, so nothing raises: what cannot be understood is not kept.
    """
    if ttl is None:
        return NOT_GIVEN
    told: Any = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    try:
        number = float(told)
    except OverflowError:
        return None
    except (TypeError, ValueError):
        return 0.0
    if not number > 0:
        return 0.0
    return number if number < _LONGEST else None


def _meta(made: Made) -> bytes:
    usage = made.usage
    names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    facts = {
        "model": None if made.model is None else made.model[:_MOST_NAME],
        "usage": usage and {name: tokens for name in names if (tokens := getattr(usage, name))},
    }
    told = {name: fact for name, fact in facts.items() if fact is not None}
    return json.dumps(told, separators=(",", ":")).encode()


async def _runtime() -> Runtime:
    return process.current_if_made() or await workers.files.run(process.current)
