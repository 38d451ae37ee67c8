"""A function of the project's own in the place of a provider: it is called in this process, and nothing leaves."""

# ruff: noqa: ARG002  # the arguments are those of a contract
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmcache.money.usage import Usage
from llmcache.providers.base import Body, Transport
from llmcache.providers.schema import ResponseSchema

if TYPE_CHECKING:
    from llmcache.engine.background import Errand
    from llmcache.engine.call import Call
    from llmcache.engine.function_ports import AwaitedFunctionPort
    from llmcache.engine.runtime import Runtime

ALIAS: Final = "function"
RUN: Final = "run"
"""Under this name a call has what calls the function, among what is not in its key."""
NO_REST: Final = b"{}"


class FunctionProvider:
    """The decorated functions. Ports of their own call them, and ask no provider."""

    alias = ALIAS
    identity = ALIAS
    base_url = ""

    def make_ready(self, *, for_acall: bool = False) -> None:
        """Do nothing: there is nobody to reach."""

    def require_key(self) -> None:
        """Do nothing: there is nobody to reach."""

    def load(self) -> None:
        """Do nothing: there is no SDK."""

    def require_unkeyed(self, names: Iterable[str]) -> None:
        """Do nothing: nothing is sent."""

    def body(self, model: str, system: str | None, schema: ResponseSchema, params: Mapping[str, Any]) -> Body:
        """Return what stands for a function in a key: where it is defined, and the schema of its values.

        Two functions of one name are two; a function that moves has no values yet.
        """
        return {"function": model, "schema": schema.schema}

    def prepare(self, body: Body, content: str | list[dict[str, Any]], unkeyed: Mapping[str, Any]) -> Body:
        """Return what calls the function."""
        return {RUN: unkeyed.get(RUN)}

    def ask_again(self, body: Body, answer: str, errors: tuple[dict[str, Any], ...]) -> Body:
        """Return the same: a function is not told what was wrong."""
        return body

    def transport(self, call: Call) -> Transport:
        """Raise: the ports of providers never call a function."""
        raise NotImplementedError

    def rest(
        self, body: Body, at: float, *, reply_id: str = "", usage: Usage | Mapping[str, Any] | None = None
    ) -> bytes:
        """Return what is kept beside a value: nothing."""
        return NO_REST

    def completion(self, rest: bytes, answer: bytes) -> Any:
        """Return None: there is no completion."""
        return None

    def reset_after_fork(self) -> None:
        """Do nothing: there is no lock."""

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def port(self, runtime: Runtime, errand: Errand[Any]) -> AwaitedFunctionPort:
        """Return the port that calls functions in the background, to renew what is stale."""
        from llmcache.engine.function_ports import AwaitedFunctionPort

        return AwaitedFunctionPort(runtime, errand)
