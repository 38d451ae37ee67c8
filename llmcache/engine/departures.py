"""Departures: whether an attempt may leave for its provider, what carries it there, and who is told that it left.

Tests put something else in the providers' place, and count. Both hold for the whole process, because a test's threads,
tasks and changed settings are the test's too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from llmcache import keys
from llmcache.engine import isolation
from llmcache.exceptions import ProviderCallsForbidden

if TYPE_CHECKING:
    from llmcache.conf import Settings
    from llmcache.engine.call import Call
    from llmcache.providers.base import Body, Transport
    from llmcache.setting_values import Allowance

_HOW_TO_FAKE: Final = (
    "In a test, let the fixture llmcache_fake answer, or llmcache.testing.fake() where there is no pytest, or record a "
    "cassette"
)


class StandIn(Protocol):
    """What answers in the place of all providers."""

    def make_ready(self, call: Call, settings: Settings, *, for_acall: bool | None) -> None:
        """Raise when there is nothing to answer the call with; ``for_acall`` None: no client is to be made yet."""
        ...

    def transport(self, call: Call, body: Body, settings: Settings) -> Transport:
        """Return what makes an attempt with this body; raises when there is nothing to answer it with."""
        ...

    def pause(self, seconds: float) -> float:
        """Return how long to wait, of so many seconds, before an attempt is made again."""
        ...


@dataclass(frozen=True, slots=True)
class Departure:
    """An attempt that has left."""

    kind: str
    model: str
    why: str
    attempt: int


_lock = threading.Lock()
_stand_ins: tuple[StandIn, ...] = ()
_listeners: tuple[Callable[[Departure], None], ...] = ()


def make_ready(call: Call, settings: Settings, *, for_acall: bool = False) -> None:
    """Raise what keeps a call from leaving, before anything is noted: ``ProviderCallsForbidden``, or a missing key.

    ``for_acall``: as for ``Provider.make_ready``.
    """
    stand_ins = _stand_ins
    if stand_ins:
        stand_ins[-1].make_ready(call, settings, for_acall=for_acall)
    else:
        require_permission(call, settings)
        call.plan.provider.make_ready(for_acall=for_acall)


def require_leave(call: Call, settings: Settings) -> None:
    """Raise what ``make_ready`` does, as far as that is known without a client, which takes long to load."""
    stand_ins = _stand_ins
    if stand_ins:
        stand_ins[-1].make_ready(call, settings, for_acall=None)
    else:
        require_permission(call, settings)
        call.plan.provider.require_key()


def transport(call: Call, body: Body, settings: Settings) -> Transport:
    """Return what makes the call's next attempt, which sends this body."""
    stand_ins = _stand_ins
    if stand_ins:
        return stand_ins[-1].transport(call, body, settings)
    # Again, for the stand-in that was there when the call was made ready may be gone.
    require_permission(call, settings)
    return call.plan.provider.transport(call)


def require_permission(call: Call, settings: Settings) -> None:
    """Raise ``ProviderCallsForbidden`` for a provider that ``ALLOW_PROVIDER_CALLS`` does not let be called."""
    told = settings.allow_provider_calls
    allowed = _allowed(told)
    if allowed is True:
        return
    provider = call.plan.provider
    host = urlsplit(provider.base_url).hostname or ""
    if allowed == "loopback" and keys.is_loopback(host):
        return
    because = f"is {allowed!r}" if told is not None else "is 'loopback' in tests unless the project sets it"
    at, add = f" at {host}", ""
    if not host:
        at, add = (
            ", a function,",
            " Where it calls nothing outside this machine, give it the 'base_url' http://localhost.",
        )
    raise ProviderCallsForbidden(
        f"The provider {provider.alias!r}{at} must not be called: LLMCACHE['ALLOW_PROVIDER_CALLS'] {because}.{add} "
        f"{_HOW_TO_FAKE}; or set ALLOW_PROVIDER_CALLS to True.",
        kind=call.plan.kind,
        model=call.plan.model,
        key=call.key.hex(),
    )


def _allowed(told: Allowance | None) -> Allowance:
    if told is not None:
        return told
    return "loopback" if isolation.in_tests() else True


def departed(call: Call, why: str, attempt: int) -> None:
    """Tell who counts that an attempt has left; called where the journal has it as started."""
    for listen in _listeners:
        listen(Departure(call.plan.kind, call.plan.model, why, attempt))


def pause_before_retry(seconds: float) -> float:
    """Return how long to wait before an attempt is made again: not at all where nobody is asked."""
    stand_ins = _stand_ins
    return stand_ins[-1].pause(seconds) if stand_ins else seconds


@contextlib.contextmanager
def replaced_by(stand_in: StandIn) -> Generator[None]:
    """Let ``stand_in`` answer in the place of all providers; the innermost one does."""
    global _stand_ins
    with _lock:
        _stand_ins = (*_stand_ins, stand_in)
    try:
        yield
    finally:
        with _lock:
            _stand_ins = tuple(each for each in _stand_ins if each is not stand_in)


@contextlib.contextmanager
def told_to(listen: Callable[[Departure], None]) -> Generator[None]:
    """Call ``listen`` with each attempt that leaves from any thread of this process."""
    global _listeners
    with _lock:
        _listeners = (*_listeners, listen)
    try:
        yield
    finally:
        with _lock:
            _listeners = tuple(each for each in _listeners if each is not listen)
