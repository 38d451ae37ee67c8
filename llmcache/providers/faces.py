"""Faces: an API that a provider has, and how it is made to answer in JSON. The transport knows neither.

``PROVIDERS[alias]["api"]`` names the API, ``["output"]`` what makes the answer JSON; each pair makes bodies of its own,
and so keys of its own. Whatever the face, an answer is a text, and the rest of the reply has a hole where it was.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from llmcache.exceptions import InvalidRequest
from llmcache.money.usage import Usage, told_usage
from llmcache.providers.base import TRANSPORT_FIELDS, Body, Failure, Reply, Told
from llmcache.setting_values import Api, Output

if TYPE_CHECKING:
    from llmcache.providers.schema import ResponseSchema

_MAX_TIER: Final = 50


class Written(Protocol):
    """What has arrived of a stream."""

    @property
    def has_told(self) -> bool:
        """Whether a piece of the answer has been told: that cannot be taken back."""
        ...

    def add(self, event: Any) -> None:
        """Take in what the SDK makes of a piece of the stream; whatever a server has put there: it checks nothing."""
        ...

    def whole(self) -> bytes | None:
        """Return the reply as its body would have been; None where its end has not arrived."""
        ...

    def told(self) -> Told | None:
        """Return what all of it that has arrived cost, by the provider's own word; None where it has not said that."""
        ...


class Face(Protocol):
    """One way to ask. It holds nothing of a call."""

    @property
    def name(self) -> str:
        """What names it in a provider's identity; empty for the first one there was, whose keys stay as they are."""
        ...

    def require_unkeyed(self, names: Iterable[str]) -> None:
        """See ``Provider.require_unkeyed``."""
        ...

    def body(self, model: str, system: str | None, schema: ResponseSchema, params: Mapping[str, Any]) -> Body:
        """See ``Provider.body``."""
        ...

    def prepare(self, body: Body, content: str | list[dict[str, Any]], unkeyed: Mapping[str, Any]) -> Body:
        """See ``Provider.prepare``."""
        ...

    def ask_again(self, body: Body, answer: str, errors: tuple[dict[str, Any], ...]) -> Body:
        """See ``Provider.ask_again``."""
        ...

    def create(self, client: Any) -> Any:
        """Return what makes an attempt with one of the SDK's clients: its response is read as it comes."""
        ...

    def known(self) -> frozenset[str]:
        """Return the names of the body that the SDK knows; others go beside them."""
        ...

    def streamed(self, body: Body) -> dict[str, Any]:
        """Return what is sent beside a body to have its answer streamed."""
        ...

    def written(self, body: Body, told: Callable[[str], object]) -> Written:
        """Return what takes in a stream; ``told`` is given the answer's pieces."""
        ...

    def reply(self, data: bytes, body: Body, request_id: str | None, status: int) -> Reply | Failure:
        """Take a whole reply apart: the answer on one side, all the rest on the other."""
        ...

    def load(self) -> None:
        """See ``Provider.load``."""
        ...

    def rest(
        self, body: Body, at: float, *, reply_id: str = "", usage: Usage | Mapping[str, Any] | None = None
    ) -> bytes:
        """See ``Provider.rest``."""
        ...

    def completion(self, rest: bytes, answer: bytes) -> Any:
        """See ``Provider.completion``."""
        ...


def face_of(api: Api, output: Output) -> Face:
    """Return the face that the settings name."""
    if api == "responses":
        from llmcache.providers.responses import ResponsesFace

        return ResponsesFace(output)
    from llmcache.providers.chat import ChatFace

    return ChatFace(output)


def require_free(names: Iterable[str], sets: frozenset[str], face: str) -> None:
    """Raise ``InvalidRequest`` for a name among those that a face sets itself."""
    for name in names:
        if name in sets:
            raise InvalidRequest(
                f"{name}= cannot be passed to a provider that is asked by {face}: llmcache sets it, or its answer "
                "could not be cached as one value. See LLMCACHE['PROVIDERS'], 'api' and 'output'."
            )


@cache
def parameters_of(create: Callable[..., Any]) -> frozenset[str]:
    """Return the fields of a body that one of the SDK's methods takes as arguments."""
    own = {"self", "timeout", "stream", "extra_body", "extra_headers", "extra_query"}
    return frozenset(inspect.signature(create).parameters) - own


def service_tier(facts: dict[str, Any]) -> str | None:
    """Return how a request was served: OpenAI tells it beside the usage, others in it."""
    usage: Any = facts.get("usage")
    in_usage: Any = cast("dict[str, Any]", usage).get("service_tier") if isinstance(usage, dict) else None
    for told in (facts.get("service_tier"), in_usage):
        if isinstance(told, str) and 0 < len(told) <= _MAX_TIER:
            return told
    return None


def told_by(facts: dict[str, Any], *, has_output: bool) -> Told | None:
    """Return what a reply says of its cost so far; None for nothing, and for no output where some has arrived."""
    usage = told_usage(facts.get("usage"))
    if usage is None or (has_output and not usage.output_tokens):
        return None
    return Told(usage, text_of(facts.get("model")) or None, service_tier(facts))


def text_of(value: Any) -> str | None:
    """Return a str, and None for anything else."""
    return value if isinstance(value, str) else None


def packed(facts: dict[str, Any]) -> bytes:
    """Return the rest of a reply as it is kept: without what it repeats of who asked, for others are told it too."""
    return json.dumps(without_echo(facts), separators=(",", ":")).encode()


def unpacked(rest: bytes) -> dict[str, Any]:
    """Return the facts of a rest, as they are fit for the SDK's maker. Raises what bytes that are none bring about."""
    # Kept by an older version, it may still have them; and the last is a parameter of the maker.
    return {name: value for name, value in without_echo(json.loads(rest)).items() if name != "_fields_set"}


def without_echo(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts without the fields of a request that are no part of its key, which some APIs repeat."""
    return {name: value for name, value in facts.items() if name not in TRANSPORT_FIELDS}
