"""What travels through the engine: a call on its way in, an answer on its way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from llmcache.engine.predicates import NO_FACTS, Facts

if TYPE_CHECKING:
    from llmcache.content.messages import Content
    from llmcache.envelope import Entry
    from llmcache.keys import Sample
    from llmcache.money.usage import Usage
    from llmcache.plans import Plan
    from llmcache.providers.base import Failure, Reply

Outcome = Literal["hit", "stale", "miss", "collapsed", "bypass"]
"""``stale``: answered with an entry past its time; ``collapsed``: by another call's provider call under way."""

Reason = Literal[
    "not_found",
    "invalid",
    "invalidated",
    "unconfirmed",
    "completion_missing",
    "expired",
    "refresh",
    "bypass",
    "ttl_zero",
]
"""Why the provider was asked: nothing usable in any tier; what was there does not pass the type's validation; it was
invalidated; nobody can tell whether it was; the completion was asked for and is gone; it is past its time, and to be
asked for anew; ``cache="refresh"``;
``cache="bypass"``; ``ttl=0``."""

NO_AGE_LIMIT: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Call:
    """One call, ready to be answered."""

    plan: Plan
    content: str | Content
    scope: bytes
    """What of tenant, subject, tags, version and variant is in the key."""
    key: bytes
    ttl: float | None
    """Seconds; None = any age, 0 = ask and do not store."""
    cache: Literal["use", "refresh", "bypass", "only"]
    timeout: float
    max_retries: int
    max_reasks: int
    needs_completion: bool
    unkeyed: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    tenant: str | None = None
    subject: str | None = None
    facts: Facts = NO_FACTS
    """What invalidations can name of it."""
    horizon: float = NO_AGE_LIMIT
    """How old an answer may be at most, whatever its ttl: of what was invalidated before, nobody knows any more."""
    stale_ttl: float = 0.0
    """Seconds after its TTL in which an answer may still be given, while it is asked for anew."""
    jitter: float = 0.0
    """The most of its TTL that an entry may lack."""
    derive: Callable[[Any], float | None] | None = None
    """Tells the TTL of a value; None where ``ttl`` says it. It raises nothing."""
    waits: bool = False
    """Whether it asks for itself where there is a stale answer, which it gives only when the provider fails."""
    by_task: bool = False
    """Whether somebody else is told to ask anew for a stale answer, and not this process."""
    ahead: str = ""
    """What it is made for where nobody waits for it: ``"refresh"`` or ``"warming"``."""
    version: str | None = None
    variant: str | int | Sample | None = None
    told: Callable[[str], object] | None = None
    """Is given the answer piece by piece as it is written, in the background loop; None where nobody reads it so."""
    older_keys: tuple[bytes, ...] = ()
    """Its keys under the secrets that only read."""

    def sent(self) -> str | list[dict[str, Any]]:
        """Return the content as a provider takes it; images and files are encoded for it, each time."""
        return self.content if isinstance(self.content, str) else self.content.messages()

    def kept(self) -> str | list[dict[str, Any]]:
        """Return the content as it is kept beside the answer."""
        return self.content if isinstance(self.content, str) else self.content.kept()

    def kept_request(self) -> dict[str, Any]:
        """Return the request as it is kept: all but its schema, in the form of chat completions however it is sent."""
        plan, kept = self.plan, self.kept()
        said = [] if plan.system is None else [{"role": "system", "content": plan.system}]
        turns = [{"role": "user", "content": kept}] if isinstance(kept, str) else kept
        params = {name: plan.params[name] for name in sorted(plan.params)}
        return {"model": plan.model.partition("/")[2], "messages": [*said, *turns], **params}

    @property
    def max_age(self) -> float:
        """Seconds that an answer may be old."""
        return NO_AGE_LIMIT if self.ttl is None else self.ttl

    @property
    def oldest(self) -> float:
        """Seconds that an answer may be old which is read from a tier."""
        return min(self.max_age, self.horizon)

    @property
    def stalest(self) -> float:
        """Seconds that an answer may be old which is read from a tier to be given as a stale one; 0: none may."""
        return min(self.max_age + self.stale_ttl, self.horizon) if self.stale_ttl else 0.0

    @property
    def stores(self) -> bool:
        """Whether the answer is looked up, shared and kept."""
        return self.cache != "bypass" and self.ttl != 0


@dataclass(slots=True)
class Spent:
    """What a call's attempts have come to so far."""

    attempts: int = 0
    usage: Usage | None = None
    """Tokens of the replies that told them; None when none did."""
    cost: int | None = 0
    """10**-12 US dollars; None as soon as one attempt's cost is not known."""

    def add(self, usage: Usage | None, cost: int | None) -> None:
        """Add what an attempt that has ended consumed and cost, None for what is not known."""
        if usage is not None:
            self.usage = usage if self.usage is None else self.usage + usage
        self.cost = None if cost is None or self.cost is None else self.cost + cost


@dataclass(frozen=True, slots=True)
class Answered:
    """A call's answer and how it came about."""

    value: Any
    outcome: Outcome
    reason: Reason | None
    """Why the provider was asked; None when it was not."""
    tier: str | None
    entry: Entry
    rest: bytes | None
    """The completion without its answer; None when it was not looked up or is gone."""
    spent: Spent = field(default_factory=Spent)
    """What this very call has come to; nothing on a hit."""


class Done(NamedTuple):
    """A call that was answered."""

    answered: Answered
    call: Call
    seconds: float
    """How long it took."""
    at: float
    """When it was over, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that left for the provider, and what became of it."""

    call_id: str
    reply: Reply | Failure
    cost: int | None
    """10**-12 US dollars; None when it is not known."""
