"""What the engine asks of a provider, and what it gets back."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

from llmcache.exceptions import ProviderError
from llmcache.money.usage import Usage
from llmcache.providers.schema import ResponseSchema

if TYPE_CHECKING:
    from llmcache.engine.call import Call

Body = dict[str, Any]
"""A request's body as JSON data."""

# Sent and obeyed by the transport or the provider's own books; they do not change what a model answers.
TRANSPORT_FIELDS: Final = frozenset(
    {"stream", "stream_options", "user", "safety_identifier", "metadata", "prompt_cache_key", "store"}
)
RESERVED_FIELDS: Final = frozenset(
    {"messages", "response_format", "stream", "tools", "n", "extra_body", "extra_headers", "extra_query"}
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion that arrived whole."""

    answer: str | None
    """The text the model gave; None when there is none."""
    finish_reason: str | None
    refused: bool
    model: str | None
    """The model that really answered."""
    usage: Usage | None
    """None when the reply does not say, or says what cannot be."""
    request_id: str | None
    rest: bytes
    """The completion as JSON, with a hole where the answer was."""
    service_tier: str | None = None
    """How it was served, where the provider says so: prices differ."""
    cost_usd: Decimal | None = None
    """What it cost, where that is told beside the usage: no price book is asked then."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a stream that broke off had told of its own cost by then, for all of it that had arrived."""

    usage: Usage
    model: str | None
    """The model that really answered."""
    service_tier: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that brought no completion."""

    error: ProviderError
    """Never raised yet, so that it carries no traceback with the user's text."""
    cost_usd: Decimal | None
    """What it cost, where that is told itself: zero when it is known that nothing was charged. None when it is not."""
    in_doubt: bool
    """Whether the provider may have charged for it without our hearing of it."""
    retry: bool
    """Whether the same request may succeed in a moment."""
    retry_after: float | None = None
    """Seconds that the provider asked to wait."""
    told: Told | None = None
    """What it consumed all the same, where that was told: then it is not in doubt."""


class BrokenOff(CancelledError):
    """A stream's reader has gone, and by then it had told what it cost."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self.told = told


class Transport(Protocol):
    """What makes attempts: a provider, or what stands in its place."""

    def call(self, body: Body, *, call_id: str, timeout: float, max_bytes: int) -> Reply | Failure:
        """Make one attempt and return what became of it; ``timeout`` bounds the whole of it, in seconds."""
        ...

    async def acall(
        self,
        body: Body,
        *,
        call_id: str,
        timeout: float,
        max_bytes: int,
        told: Callable[[str], object] | None = None,
    ) -> Reply | Failure:
        """Do as ``call``, in the background loop.

        ``told`` is given the answer's text piece by piece as it is written: the attempt is streamed then. What fails
        after some of it was told is no failure to retry.
        """
        ...


class Provider(Protocol):
    """A language model behind an API. All methods may be called from many threads at once."""

    @property
    def alias(self) -> str:
        """Name of the provider in settings."""
        ...

    @property
    def identity(self) -> str:
        """What names the provider in keys."""
        ...

    @property
    def base_url(self) -> str:
        """Address of the API; empty for a function that does not tell whom it asks."""
        ...

    def make_ready(self, *, for_acall: bool = False) -> None:
        """Raise ``ConfigurationError`` when a call could not be made, for want of a key say.

        May take a second the first time. ``for_acall``: for an awaited attempt.
        """
        ...

    def require_key(self) -> None:
        """Raise ``ConfigurationError`` where there is nothing to call it with; no client is made for that."""
        ...

    def require_unkeyed(self, names: Iterable[str]) -> None:
        """Raise ``InvalidRequest`` for the name of a parameter that must not be sent without being in the key.

        Those that are, ``body`` refuses where it sets them itself.
        """
        ...

    def body(self, model: str, system: str | None, schema: ResponseSchema, params: Mapping[str, Any]) -> Body:
        """Return the body without the user's content, in the order in which it is hashed."""
        ...

    def prepare(self, body: Body, content: str | list[dict[str, Any]], unkeyed: Mapping[str, Any]) -> Body:
        """Return the body that is sent: a copy with the content in its place.

        A str is one message of the user; a list has messages, in the form of chat completions.
        """
        ...

    def ask_again(self, body: Body, answer: str, errors: tuple[dict[str, Any], ...]) -> Body:
        """Return a body that shows the model its answer and what did not pass."""
        ...

    def transport(self, call: Call) -> Transport:
        """Return what makes the attempts of a call."""
        ...

    def load(self) -> None:
        """Import what ``completion`` needs, where that may take its time."""
        ...

    def rest(
        self, body: Body, at: float, *, reply_id: str = "", usage: Usage | Mapping[str, Any] | None = None
    ) -> bytes:
        """Return what ``Reply.rest`` would be of an answer that no model has just given, at a Unix time.

        ``usage``: what it tells of tokens; a mapping is told as it is.
        """
        ...

    def completion(self, rest: bytes, answer: bytes) -> Any:
        """Return the provider's own completion object, made of its parts; None when they are none."""
        ...

    def reset_after_fork(self) -> None:
        """Take new locks, in a child: the old ones may have been held by a thread that it does not have."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
