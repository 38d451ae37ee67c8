"""Calls, invalidations, lost stores and time, in any order: what is served is what a model of it all says.

The model knows each answer by its number: the provider, a real one on loopback, gives each number once. It knows which
of them a call may get, so that a stale, foreign or void one is seen, and which call has to be paid for.

``LLMCACHE_TEST_STATE_MACHINE=2000`` runs that many programs at random. What is found is printed, with how to run it
again.
"""

import asyncio
import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from pydantic import BaseModel

import llmcache
from llmcache.engine import isolation, process
from llmcache.exceptions import NotCached, ProviderError
from llmcache.invalidation import Invalidated
from llmcache.testing import finish_refreshes
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import MovedClock

pytestmark = pytest.mark.django_db(transaction=True)

FOREVER: Final = float("inf")
LONG: Final = os.environ.get("LLMCACHE_TEST_STATE_MACHINE")
TAGS: Final = {"Ada": ("vip",), "Eve": ()}


class Person(BaseModel):
    """A person."""

    number: int


class Place(BaseModel):
    """A place."""

    number: int


@dataclass(frozen=True)
class Asked:
    """What is asked for: whatever differs in one of these is another's."""

    text: str
    tenant: str | None
    type: type[BaseModel]


@dataclass(frozen=True)
class Answer:
    """One answer of the provider's."""

    number: int
    asked: Asked
    step: int
    """When it was asked for, in steps of the program."""
    at: float
    fresh_until: float
    stale_until: float


@dataclass
class Made:
    """An invalidation."""

    told: Invalidated
    step: int
    conditions: dict[str, Any]
    is_active: bool = True

    def matches(self, asked: Asked, key: str) -> bool:
        """Return whether it is about what is asked for."""
        facts = {"tenant": asked.tenant, "kind": asked.type.__name__, "response_model": asked.type, "key": key}
        return all(
            value in TAGS[asked.text] if name == "tag" else name == "everything" or facts[name] == value
            for name, value in self.conditions.items()
        )


EVE: Final = Asked("Eve", "one", Person)
# Few, and one of them most often, or nothing would happen to the same one twice.
ADA: Final = Asked("Ada", None, Person)
things = st.sampled_from(
    (ADA, ADA, ADA, Asked("Ada", "one", Person), Asked("Ada", "other", Person), Asked("Ada", None, Place), EVE)
)
# Ages are sums of tens, and limits end in five: no test takes that long.
lives = st.sampled_from((None, None, 105, 1_005))
stale_lives = st.sampled_from((0, 0, 55, 2_005))


class Machine(RuleBasedStateMachine):
    """The real code, and beside it what it should do."""

    sandbox: Sandbox
    clock: MovedClock
    tier: Path

    def __init__(self) -> None:
        super().__init__()
        # Another name space for each program, as for each test.
        isolation.begin_test()
        self.clock.ahead = 0.0
        self.restart()
        self.step = 0
        self.number = 0
        self.paid = self.calls = self.sandbox.calls
        self.memory: dict[Asked, Answer] = {}
        self.disk: dict[Asked, Answer] = {}
        self.keys: dict[Asked, str] = {}
        self.made: list[Made] = []

    # -- what happens

    @rule(
        asked=things,
        ttl=lives,
        stale_ttl=stale_lives,
        cache=st.sampled_from(("use", "use", "use", "use", "only", "refresh", "bypass")),
        awaited=st.booleans(),
        fails=st.sampled_from((False, False, False, False, True)),
    )
    def extract(
        self, asked: Asked, ttl: float | None, stale_ttl: float, cache: str, awaited: bool, fails: bool
    ) -> None:
        """Ask for something."""
        self.ask_and_judge(asked, ttl, stale_ttl, cache, awaited, fails)

    def ask_and_judge(
        self, asked: Asked, ttl: float | None, stale_ttl: float, cache: str, awaited: bool, fails: bool
    ) -> None:
        """Make a call, and compare what it gets with what it has to get."""
        self.step += 1
        self.number += 1
        self.sandbox.answers[asked.text] = {"number": self.number}
        due, outcome = self.due(asked, ttl, stale_ttl, cache)
        if fails and outcome in ("miss", "bypass"):
            self.sandbox.fail(faults.unauthorized())
            with pytest.raises(ProviderError):
                self.ask(asked, ttl, stale_ttl, cache, awaited=awaited)
            return
        if outcome == "none":
            with pytest.raises(NotCached):
                self.ask(asked, ttl, stale_ttl, cache, awaited=awaited)
            return
        found = self.ask(asked, ttl, stale_ttl, cache, awaited=awaited)
        self.keys[asked] = found.key
        number = self.number if due is None else due.number
        assert (found.value.number, found.outcome) == (number, outcome), asked
        assert type(found.value) is asked.type
        self.note(asked, due, ttl, stale_ttl, outcome, cache)

    @rule(asked=things, awaited=st.booleans())
    def extract_as_ever(self, asked: Asked, awaited: bool) -> None:
        """Ask for something that stays good."""
        self.ask_and_judge(asked, None, 0, "use", awaited, False)

    @rule(asked=things, awaited=st.booleans())
    def extract_with_a_limit(self, asked: Asked, awaited: bool) -> None:
        """Ask for something that grows old."""
        self.ask_and_judge(asked, 105, 2_005, "use", awaited, False)

    def ask(
        self, asked: Asked, ttl: float | None, stale_ttl: float, cache: str, *, awaited: bool
    ) -> "llmcache.Extraction[Any]":
        """Make a call, and let what it has begun in the background come to its end."""
        options: dict[str, Any] = {"ttl": ttl, "stale_ttl": stale_ttl, "cache": cache, "tags": TAGS[asked.text]}
        if asked.tenant is not None:
            options["tenant"] = asked.tenant
        try:
            if awaited:
                return asyncio.run(llmcache.aextract_with_info(asked.text, asked.type, **options))
            return llmcache.extract_with_info(asked.text, asked.type, **options)
        finally:
            assert finish_refreshes()

    def note(
        self, asked: Asked, due: Answer | None, ttl: float | None, stale_ttl: float, outcome: str, cache: str
    ) -> None:
        """Note what has been paid for, and what lies where now."""
        if outcome == "hit":
            assert due is not None
            self.memory[asked] = due
            return
        if outcome == "stale" and cache == "only":
            return
        self.paid += 1
        if outcome == "bypass":
            return
        fresh = FOREVER if ttl is None else self.clock.ahead + ttl
        answer = Answer(self.number, asked, self.step, self.clock.ahead, fresh, fresh + stale_ttl)
        self.memory[asked] = self.disk[asked] = answer

    @rule(
        what=st.sampled_from(("everything", "tag", "tenant", "kind", "response_model", "key", "key and tag")),
        asked=things,
        rolled_back=st.sampled_from((False, False, False, True)),
        awaited=st.booleans(),
    )
    def invalidate(self, what: str, asked: Asked, rolled_back: bool, awaited: bool) -> None:
        """Make void what was asked for, by one thing or another, and ask for it."""
        self.make_void(what, asked, rolled_back=rolled_back)
        self.ask_and_judge(asked, None, 0, "use", awaited, False)

    def make_void(self, what: str, asked: Asked, *, rolled_back: bool) -> None:
        """Invalidate by one thing or another, or begin to."""
        conditions: dict[str, Any] = {
            "everything": {"everything": True},
            "tag": {"tag": "vip"},
            "tenant": {"tenant": asked.tenant or "one"},
            "kind": {"kind": asked.type.__name__},
            "response_model": {"response_model": asked.type},
            "key": {"key": self.keys.get(asked, "0" * 64)},
            "key and tag": {"key": self.keys.get(asked, "0" * 64), "tag": "vip"},
        }[what]
        self.step += 1
        if not rolled_back:
            self.made.append(Made(llmcache.invalidate(**conditions), self.step, conditions))
            return
        with contextlib.suppress(InterruptedError), transaction.atomic():
            llmcache.invalidate(**conditions)
            raise InterruptedError

    @precondition(lambda self: any(each.is_active for each in self.made))
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        """Take an invalidation back, and ask for what it may have been about."""
        made = data.draw(st.sampled_from([each for each in self.made if each.is_active]))
        assert llmcache.undo(made.told)
        made.is_active = False
        for asked in sorted(self.keys, key=repr)[:2]:
            self.ask_and_judge(asked, None, 0, "use", False, False)

    @rule(seconds=st.sampled_from((30, 60, 130, 1_100)), asked=things, stale_ttl=stale_lives, awaited=st.booleans())
    def let_time_pass(self, seconds: int, asked: Asked, stale_ttl: float, awaited: bool) -> None:
        """Let answers grow old, and ask for one of them."""
        self.clock.move(seconds)
        self.ask_and_judge(asked, 105, stale_ttl, "use", awaited, False)

    @rule()
    def restart(self) -> None:
        """End the process, as far as entries in memory and the log's copy go."""
        process.install(None)
        self.clock.install()
        self.memory = {}

    @rule()
    def lose_the_tier(self) -> None:
        """Lose all that lies below memory."""
        with contextlib.closing(sqlite3.connect(self.tier, isolation_level=None)) as file:
            file.execute("PRAGMA busy_timeout = 5000")
            with contextlib.suppress(sqlite3.OperationalError):
                # Before the first entry there is no table.
                file.execute("DELETE FROM entries")
        self.disk.clear()

    # -- what should be

    def due(self, asked: Asked, ttl: float | None, stale_ttl: float, cache: str) -> tuple[Answer | None, str]:
        """Return the answer that a call has to get, None for a new one, and the outcome; ``none``: it gets none."""
        if cache == "bypass":
            return None, "bypass"
        if cache == "refresh":
            return None, "miss"
        most = FOREVER if ttl is None else ttl
        lie = [
            tier[asked] for tier in (self.memory, self.disk) if asked in tier and not self.is_void(tier[asked], asked)
        ]
        for answer in lie:
            if self.clock.ahead < answer.fresh_until and self.clock.ahead - answer.at < most:
                return answer, "hit"
        old = [
            answer
            for answer in lie
            if stale_ttl and self.clock.ahead < answer.stale_until and self.clock.ahead - answer.at < most + stale_ttl
        ]
        if old:
            return max(old, key=lambda answer: answer.number), "stale"
        return None, "none" if cache == "only" else "miss"

    def is_void(self, answer: Answer, asked: Asked) -> bool:
        """Return whether an invalidation in force was made after an answer was asked for."""
        key = self.keys[asked]
        return any(each.is_active and each.step > answer.step and each.matches(asked, key) for each in self.made)

    @invariant()
    def each_call_is_counted(self) -> None:
        assert self.sandbox.calls == self.paid

    @invariant()
    def keys_differ(self) -> None:
        assert len(set(self.keys.values())) == len(self.keys)


def test_what_is_served_is_what_a_model_says(sandbox: Sandbox, clock: MovedClock, tmp_path: Path) -> None:
    Machine.sandbox, Machine.clock, Machine.tier = sandbox, clock, tmp_path / "tier" / "entries.sqlite3"
    (tmp_path / "tier").mkdir(mode=0o700, exist_ok=True)
    profile = settings(
        max_examples=int(LONG or 40),
        stateful_step_count=25,
        derandomize=LONG is None,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=profile)
