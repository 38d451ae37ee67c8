"""Rows for pages, written by the app itself: a month of calls on a clock that is moved, to the sandbox.

Nothing is put into tables by hand, so that calls, entries, sums, schema versions and the bytes in the tiers belong
together. ``hostile`` then overwrites what is stored as text.
"""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.apps import apps
from django.db import models
from django.utils import timezone
from pydantic import BaseModel, Field, create_model

import llmcache
from llmcache import conf, corrections
from llmcache.clock import Clock
from llmcache.engine import isolation, process
from llmcache.engine.runtime import Runtime
from llmcache.models import (
    CacheEntry,
    Correction,
    EntryTag,
    Invalidation,
    Lease,
    PlannedInvalidation,
    ProviderCall,
    SchemaVersion,
    TenantDay,
    UsageBucket,
    WarmingItem,
    WarmingPlan,
    WarmingRun,
)
from llmcache.testing.sandbox import Sandbox, faults
from llmcache.warming import runs

DAYS = 31
_DAY = 86_400.0
# A call to the sandbox takes some milliseconds; one to a model, half a second.
_PACE = 100.0
_PATIENCE = 6_000.0


class MonthClock:
    """A clock that begins in the past, is moved forward, and passes faster than the real one."""

    def __init__(self, start: float, *, simulated: bool) -> None:
        self._start = start
        self._began = time.monotonic()
        self._ahead = 0.0
        self.clock = Clock(
            wall=lambda: self._start + self._passed(),
            monotonic=self._passed,
            sleep=self._sleep,
            simulated=simulated,
        )

    def go_to(self, at: float) -> None:
        """Move to a Unix time, unless it has passed."""
        self._ahead += max(at - self.clock.wall(), 0.0)

    def _passed(self) -> float:
        return (time.monotonic() - self._began) * _PACE + self._ahead

    def _sleep(self, seconds: float) -> None:
        self._ahead += seconds


@contextmanager
def moved(start: float, *, simulated: bool) -> Iterator[MonthClock]:
    """Let this process's calls be made on a clock that begins at a Unix time; brings them into the database."""
    clock = MonthClock(start, simulated=simulated)
    test = isolation.current_test() if isolation.in_tests() else None
    process.install(Runtime(conf.current(), clock=clock.clock, test=test))
    try:
        yield clock
        assert llmcache.flush()
    finally:
        memory = process.current().memory
        if memory is not None:
            # Its entries expire by this clock.
            memory.clear()
        process.install(None)


class Invoice(BaseModel):
    """An invoice."""

    number: str = Field(description="As printed.")
    customer: str
    total: float = Field(description="With taxes.")
    currency: Literal["EUR", "USD", "CHF"]


class Ingredient(BaseModel):
    """One line of a recipe."""

    name: str
    quantity: float | None
    unit: str | None


def ticket_type(version: int) -> type[BaseModel]:
    """Return the response type ``Ticket`` as it was in one of its two versions."""
    priorities: Any = Literal["low", "high"] if version == 1 else Literal["low", "normal", "high", "urgent"]
    more: dict[str, Any] = {} if version == 1 else {"language": (str, Field(description="ISO 639-1."))}
    return create_model("Ticket", subject=(str, ...), priority=(priorities, ...), customer=(str | None, ...), **more)


_MAILS = tuple(
    f"{name} writes: {about}"
    for name in ("Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Ken", "Radia", "Tony", "Margaret")
    for about in ("my invoice is wrong", "I cannot sign in", "where is my parcel?", "please cancel my order")
)
_INVOICES = tuple(f"Invoice R-{2_000 + number}, total {37 * number + 19}.90" for number in range(60))
_LINES = ("2 stalks celery", "1 cup sugar", "3 eggs, beaten", "a pinch of salt", "250 g flour", "2 tbsp olive oil")


@dataclass
class Month:
    """The calls of a month, in their order."""

    sandbox: Sandbox
    clock: MonthClock
    start: float
    dice: random.Random = field(default_factory=lambda: random.Random(31))

    def run(self) -> None:
        """Make them all."""
        self._teach()
        for day in range(DAYS):
            at = self.start + day * _DAY
            weekend = datetime.fromtimestamp(at, UTC).weekday() > 4
            count = (9 if weekend else 24) + day // 2 + self.dice.randrange(8)
            # What is counted is of the hour in which it was last collected.
            self.clock.go_to(at + 0.3 * _DAY)
            assert llmcache.flush()
            for second in sorted(self.dice.uniform(0.3, 0.8) * _DAY for _ in range(count)):
                self.clock.go_to(at + second)
                self._call(day)
            with suppress(llmcache.LLMCacheError):
                self._oddity(day)

    def _teach(self) -> None:
        answers = self.sandbox.answers
        for number, text in enumerate(_MAILS):
            name, about = text.split(" writes: ")
            answers[text] = {
                "subject": about,
                "priority": ("low", "high")[number % 2],
                "customer": name,
                "language": "en",
            }
        for number, text in enumerate(_INVOICES):
            sold = {"number": f"R-{2_000 + number}", "customer": "Müller & Söhne", "total": 37 * number + 19.9}
            answers[text] = {**sold, "currency": "EUR"}
        for number, text in enumerate(_LINES):
            answers[text] = {"name": text.split()[-1], "quantity": float(number + 1), "unit": None}

    def _call(self, day: int) -> None:
        drawn = self.dice.random()
        # A few texts come often and most of them seldom.
        place = int(self.dice.paretovariate(0.7)) - 1
        if drawn < 0.55:
            self._mail(_MAILS[place % len(_MAILS)], day, tenant=("acme", "globex", None)[place % 3])
        elif drawn < 0.85:
            text = _INVOICES[place % len(_INVOICES)]
            options: dict[str, Any] = {
                "model": "openai/gpt-5",
                "ttl": None,
                "tags": ["accounting", f"month-{day // 16}"],
            }
            llmcache.extract(text, Invoice, tenant="acme", timeout=_PATIENCE, **options)
        else:
            model = "openai/house-7b" if day > 24 else "openai/gpt-5-mini"
            llmcache.extract(_LINES[place % len(_LINES)], Ingredient, model=model, timeout=_PATIENCE)

    def _mail(self, text: str, day: int, **options: Any) -> None:
        made = ticket_type(1 if day < 24 else 2)
        given: dict[str, Any] = {"kind": "inbox", "ttl": 12 * _DAY, "tags": ["mail"], "timeout": _PATIENCE, **options}
        llmcache.extract(text, made, **given)

    def _oddity(self, day: int) -> None:
        """Let something happen that is not everyday; it may raise."""
        text = f"Nobody writes: day {day}"
        if day in (4, 19):
            self.sandbox.fail(faults.server_error(503))
            self._mail(text, day, max_retries=0)
        elif day == 9:
            self.sandbox.fail(faults.wrong_json())
            self._mail(text, day)
        elif day == 12:
            self.sandbox.fail(faults.reset_after_charge())
            self._mail(text, day, max_retries=0)
        elif day == 17:
            self.sandbox.fail(faults.refusal())
            self._mail(text, day)
        elif day == 21:
            self._mail(text, day, cache="bypass")
        elif day == 26:
            self._together(text, day)

    def _together(self, text: str, day: int) -> None:
        """Ask the same three times at once."""
        received = self.sandbox.received
        self.sandbox.hold()
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(self._mail, text, day) for _ in range(3)]
            self.sandbox.wait_until_received(received + 1)
            try:
                deadline = time.monotonic() + 20.0
                while _followers() < 2 and time.monotonic() < deadline:
                    time.sleep(0.002)
            finally:
                self.sandbox.release()
            for each in asked:
                each.result()


def _followers() -> int:
    """Return how many threads wait for another's call."""
    # The event's condition keeps one entry for each waiter.
    flights: Any = [*process.current().flights._flights.values()]
    return sum(len(flight.landed._cond._waiters) for flight in flights)


def _last_hour() -> float:
    """Return when the hour before this one began: what is called and counted there stays within it."""
    return time.time() // 3_600 * 3_600 - 3_600


def month(sandbox: Sandbox, *, simulated: bool = False) -> None:
    """Let the app be used for the 31 days up to now."""
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    with moved(start.timestamp(), simulated=simulated) as clock:
        Month(sandbox, clock, start.timestamp()).run()


def one_call(sandbox: Sandbox) -> None:
    """Let one call be made, which is a miss."""
    with moved(_last_hour(), simulated=False):
        sandbox.answers[_LINES[0]] = {"name": "celery", "quantity": 2.0, "unit": "stalk"}
        llmcache.extract(_LINES[0], Ingredient, tags=["soup"], tenant="acme", timeout=_PATIENCE)


# What looks for a hole: out of an attribute, out of text, as a template, and as an address.
PAYLOAD = "\"'><img src=x onerror=window.__xss=1><script>window.__xss=1</script>{{ 7|add:7 }}javascript:alert(1)"
TABLES: tuple[type[models.Model], ...] = (
    *(ProviderCall, CacheEntry, EntryTag, SchemaVersion, UsageBucket, TenantDay),
    *(Invalidation, PlannedInvalidation, Correction, Lease),
    *(WarmingPlan, WarmingRun, WarmingItem),
)
# The app's own words, or what an entry in the tiers or a line of the log is found by.
_KEPT = {"outcome", "namespace", "uid", "supersedes"}


def hostile(sandbox: Sandbox) -> None:
    """Make calls whose text, tenant, tag and answer are the payload, and put it into every text of every table.

    The first entry keeps its key, so that what the tiers hold of it is found; the second's key is the payload too.
    """
    for text in (PAYLOAD, f"{PAYLOAD} again"):
        sandbox.answers[text] = {"name": PAYLOAD, "quantity": 1.0, "unit": PAYLOAD}
        with moved(_last_hour(), simulated=False):
            for _ in range(2):
                llmcache.extract(text, Ingredient, tags=[PAYLOAD], tenant=PAYLOAD, timeout=_PATIENCE)
    llmcache.flush()
    plan = WarmingPlan.objects.create(name=PAYLOAD[:100], source=PAYLOAD, kind=PAYLOAD[:100])
    runs.prepare([PAYLOAD], response_model=Ingredient, plan=plan)
    corrections.pin(CacheEntry.objects.earliest("pk").key, user=PAYLOAD[:200], note=PAYLOAD)
    llmcache.undo(llmcache.invalidate(tenant=PAYLOAD, subject=PAYLOAD, reason=PAYLOAD), user=PAYLOAD[:200])
    llmcache.invalidate(kind=PAYLOAD[:100], tag=PAYLOAD, subject=PAYLOAD, user=PAYLOAD[:200])
    llmcache.invalidate(kind=PAYLOAD[:100], at=timezone.now() + timedelta(days=1), reason=PAYLOAD, user=PAYLOAD[:200])
    assert {model for model in apps.get_app_config("llmcache").get_models() if not model._meta.proxy} == set(TABLES)
    for table in TABLES:
        for number, row in enumerate(table._default_manager.order_by("pk")):
            for column in table._meta.concrete_fields:
                if column.attname not in _KEPT and (number or column.attname != "key"):
                    _spoil(row, column)
            row.save()


def _spoil(row: models.Model, column: "models.Field[Any, Any]") -> None:
    if isinstance(column, models.JSONField):
        setattr(row, column.attname, _spoilt(column.attname))
    elif isinstance(column, models.CharField | models.TextField):
        setattr(row, column.attname, PAYLOAD[: column.max_length])


def _spoilt(name: str) -> Any:
    if name == "latencies":
        return [1] * 24
    if name == "changes":
        return [dict.fromkeys(("path", "change", "before", "after"), PAYLOAD)]
    return [PAYLOAD]
