"""A fake provider: everything runs as for real but the way to the provider and back.

Bodies, keys, the journal, usage, prices, validation, questions asked again, cache and flights are the real ones. Nobody
needs a key, and nobody waits before an attempt is made again.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from django.utils.functional import Promise

from llmcache import request
from llmcache.engine import departures, isolation
from llmcache.engine.call import Call
from llmcache.exceptions import ConfigurationError, ProviderError, ValidationFailed
from llmcache.money.usage import Usage
from llmcache.providers.base import Body, Failure, Reply
from llmcache.response_types import response_type, type_name
from llmcache.testing.fake_replies import (
    PLAUSIBLE,
    MisfitError,
    answer_text,
    error_to_give,
    failure_of,
    reply_of,
)

if TYPE_CHECKING:
    from llmcache.conf import Settings

_Usage = Usage | Mapping[str, Any] | None
_Sort = tuple[str, str]
"""A response type's name and the fingerprint of its schema: all of it that a provider sees."""


class NoFakeAnswer(AssertionError):
    """A fake provider was asked what it was not taught; nothing has left."""


@dataclass(frozen=True, slots=True)
class FakeCall:
    """One attempt that a fake provider has answered."""

    content: str | list[dict[str, Any]] = field(repr=False)
    """The text of the call; its messages where it was no single text."""
    response_model: Any
    """The response type."""
    kind: str
    """The call's kind."""
    model: str
    """Model that was asked, as ``provider/model``."""
    system: str | None = field(repr=False)
    """The system prompt."""
    params: dict[str, Any]
    """Parameters for the provider."""
    tenant: str | None
    """The call's tenant."""
    call_id: str
    """What names the attempt in the journal."""
    body: Body = field(repr=False)
    """The whole request; asking again adds the answer that did not pass, and why, to its messages."""


class Fake:
    """Answers in the place of all providers of this process, in a ``with`` block.

    It answers what it was taught, by text, by response type, or by both. What is more exact comes first: text and type,
    then text, then type. Teaching the same again replaces the answer. An unknown question is a ``NoFakeAnswer``.
    """

    def __init__(self) -> None:
        self._entered: list[contextlib.AbstractContextManager[None]] = []
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._taught: dict[tuple[str | None, _Sort | None], _Answers] = {}
        self._calls: list[FakeCall] = []

    def answer(
        self,
        text_or_type: Any,
        value: Any,
        *,
        response_model: Any = None,
        usage: _Usage = PLAUSIBLE,
    ) -> None:
        """Give this answer, each time that the provider is asked.

        ``text_or_type``: the whole text of a call (of one with messages or parts: of the user's last message, what of
        it is text), or a response type. ``response_model``: with a text, the type that it has to be asked for.
        ``value``: an instance, JSON data, or the provider's answer as text (bytes; also a str
        where the type is a model, dataclass, TypedDict or dict, so that an answer can be no JSON at all). An error
        (instance or class) is what the provider causes: ``RateLimited``, ``ProviderUnavailable``, ``ProviderTimeout``,
        ``AuthenticationFailed``, ``ProviderError``, ``Refused``, ``Truncated``, ``ValidationFailed``. ``usage``: a
        ``Usage``, a dict as OpenAI tells it, or None for a reply that does not tell.
        """
        self._teach(text_or_type, response_model, _Answers([error_to_give(value)], usage, endless=True))

    def answers(
        self,
        text_or_type: Any,
        values: Iterable[Any],
        *,
        response_model: Any = None,
        usage: _Usage = PLAUSIBLE,
    ) -> None:
        """Give these answers one after the other, one for each attempt: first an invalid one, then a valid one, say.

        Arguments as ``answer``. An attempt beyond the last is a ``NoFakeAnswer``.
        """
        self._teach(text_or_type, response_model, _Answers([error_to_give(each) for each in values], usage))

    @property
    def calls(self) -> list[FakeCall]:
        """The attempts that were answered, oldest first: retries and questions asked again included."""
        return list(self._calls)

    def reset(self) -> None:
        """Forget what was taught and what was asked."""
        with self._lock:
            self._taught.clear()
            self._calls.clear()

    def __enter__(self) -> Self:
        if not isolation.in_tests():
            raise ConfigurationError(
                "A fake provider works under Django's test environment only: elsewhere its answers would be kept in "
                "the project's own cache. Call django.test.utils.setup_test_environment() first."
            )
        replaced = departures.replaced_by(_StandIn(self))
        replaced.__enter__()
        self._entered.append(replaced)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The innermost: a fake may stand in for itself.
        self._entered.pop().__exit__(error_type, error, traceback)

    def _teach(self, text_or_type: Any, response_model: Any, answers: _Answers) -> None:
        text, annotation = (
            (text_or_type, response_model) if isinstance(text_or_type, str | Promise) else (None, text_or_type)
        )
        if text is None and response_model is not None:
            raise TypeError("response_model= goes with a text: a type is named once.")
        found = (None if text is None else request.plain_text(text), None if annotation is None else _sort(annotation))
        with self._lock:
            self._taught[found] = answers

    def _find(self, call: Call) -> _Answers:
        sort = call.plan.response.name, call.plan.response.fingerprint
        with self._lock:
            text = call.content if isinstance(call.content, str) else call.content.text
            for found in ((text, sort), (text, None), (None, sort)):
                if found in self._taught:
                    return self._taught[found]
            known = sorted({sort[0] for text, sort in self._taught if text is None and sort is not None})
            texts = len({text for text, _ in self._taught if text is not None})
        taught = f"It knows the types {', '.join(known) or '(none)'} and, of texts, {texts}; this is none of them."
        raise _no_answer(call, f"was not taught what to answer. {taught}")

    def _note(self, call: Call, body: Body, call_id: str) -> int:
        self._calls.append(
            FakeCall(
                content=call.sent(),
                response_model=call.plan.response.annotation,
                kind=call.plan.kind,
                model=call.plan.model,
                system=call.plan.system,
                params={**call.plan.params, **call.unkeyed},
                tenant=call.tenant,
                call_id=call_id,
                body=body,
            )
        )
        return next(self._numbers)


def fake() -> Fake:
    """Return a fake provider, to be used in a ``with`` block or with ``TestCase.enterContext``."""
    return Fake()


def _sort(annotation: Any) -> _Sort:
    response = response_type(annotation)
    return response.name, response.fingerprint


def _no_answer(call: Call, why: str) -> NoFakeAnswer:
    name = type_name(call.plan.response.annotation)
    return NoFakeAnswer(
        f"The fake provider was asked for {name} (kind {call.plan.kind!r}, model {call.plan.model!r}) and {why} "
        f"Teach it before the call: llmcache_fake.answer({name}, value) for every text, or "
        "llmcache_fake.answer(text, value) for this one; value may be an instance, JSON data or an error."
    )


class _Answers:
    """What was taught for one question."""

    def __init__(self, values: list[Any], usage: _Usage, *, endless: bool = False) -> None:
        self._values = values
        self._usage = usage
        self._endless = endless
        self._given = 0
        self._lock = threading.Lock()
        self._texts: dict[tuple[int, _Sort], str] = {}

    def require_more(self, call: Call) -> None:
        """Raise ``NoFakeAnswer`` when all answers have been given."""
        if not self._endless and self._given >= len(self._values):
            raise _no_answer(call, f"has given all {len(self._values)} answers that it was taught.")

    def take(self, call: Call) -> tuple[Any, str | None, _Usage]:
        """Return the next value, its text (None for an error), and the usage to tell."""
        with self._lock:
            self.require_more(call)
            at = min(self._given, len(self._values) - 1)
            self._given += 1
        value = self._values[at]
        if isinstance(value, BaseException):
            return value, "" if isinstance(value, ValidationFailed) else None, self._usage
        response = call.plan.response
        known = (at, (response.name, response.fingerprint))
        if known not in self._texts:
            try:
                self._texts[known] = answer_text(value, call.plan)
            except MisfitError as misfit:
                raise _no_answer(
                    call, f"was taught what cannot be an answer: {misfit}. Give it JSON data, or the text as bytes."
                ) from None
        return value, self._texts[known], self._usage


class _StandIn:
    """What the engine sees of a fake."""

    def __init__(self, fake: Fake) -> None:
        self._fake = fake

    def make_ready(self, call: Call, settings: Settings, *, for_acall: bool | None) -> None:  # noqa: ARG002
        self._fake._find(call).require_more(call)

    def transport(self, call: Call, body: Body, settings: Settings) -> _Attempt:  # noqa: ARG002
        return _Attempt(self._fake, call, *self._fake._find(call).take(call))

    def pause(self, seconds: float) -> float:  # noqa: ARG002
        return 0.0


class _Attempt:
    """One attempt that a fake answers."""

    def __init__(self, fake: Fake, call: Call, value: Any, text: str | None, usage: _Usage) -> None:
        self._fake = fake
        self._call = call
        self._value = value
        self._text = text
        self._usage = usage

    def call(self, body: Body, *, call_id: str, timeout: float, max_bytes: int) -> Reply | Failure:  # noqa: ARG002
        number = self._fake._note(self._call, body, call_id)
        if isinstance(self._value, ProviderError):
            return failure_of(self._value)
        return reply_of(self._value, self._text, self._usage, self._call.plan.provider, body, number)

    async def acall(
        self,
        body: Body,
        *,
        call_id: str,
        timeout: float,
        max_bytes: int,
        told: Callable[[str], object] | None = None,
    ) -> Reply | Failure:
        reply = self.call(body, call_id=call_id, timeout=timeout, max_bytes=max_bytes)
        if told is not None and isinstance(reply, Reply) and reply.answer:
            told(reply.answer)
        return reply
