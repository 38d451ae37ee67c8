"""The time that one call has spent on a server that keeps entries.

Each operation has limits of its own. A call makes several, and on a slow server each of them may stay just within.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType


class Spending:
    """One call's account, in force for what runs inside ``with``, also in threads that copy the context."""

    __slots__ = ("_token", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._token: Token[Spending | None] | None = None

    def __enter__(self) -> Spending:
        self._token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        token, self._token = self._token, None
        if token is not None:
            _current.reset(token)


_current: ContextVar[Spending | None] = ContextVar("llmcache_spending", default=None)

of_this_call = _current.get
"""Return the account of the call that is carried out here; None outside of one."""
