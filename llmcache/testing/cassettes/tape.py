"""A cassette while it is in use, as the engine sees it: each request is answered from it, recorded, or refused."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache.engine import departures
from llmcache.engine.call import Call
from llmcache.exceptions import LLMCacheError
from llmcache.providers.base import Body, Failure
from llmcache.testing.cassettes import cleaning, differences, replies, requests
from llmcache.testing.cassettes.attempts import Played, Recording
from llmcache.testing.cassettes.cleaning import Clean
from llmcache.testing.cassettes.errors import NotRecorded
from llmcache.testing.cassettes.interactions import Interaction
from llmcache.testing.cassettes.modes import Mode
from llmcache.testing.cassettes.places import shown

if TYPE_CHECKING:
    from llmcache.conf import Settings

_END_SECONDS: Final = 60.0
"""How long the end of a recording waits for attempts that are being paid for."""
_HOW_TO_RECORD: Final = (
    "Record what is missing with --llmcache-record=new, or all of it anew with --llmcache-record=all (without pytest: "
    "the variable LLMCACHE_RECORD)."
)


class Tape:
    """What stands in the providers' place. Requests of any number of threads and tasks may come at once."""

    def __init__(self, path: Path, mode: Mode, loaded: Sequence[Interaction], redact: Clean | None) -> None:
        self.loaded = loaded
        """What was in the file."""
        self.complaints: list[str] = []
        """What went wrong, oldest first: the code under test may have caught it."""
        self._path, self._mode, self._redact = path, mode, redact
        # One request's replies are played in their order; between requests there is no order.
        self._left: defaultdict[str, deque[Interaction]] = defaultdict(deque)
        for each in loaded:
            self._left[each.identity].append(each)
        self._recorded: dict[int, Interaction] = {}
        self._departures = 0
        self._under_way = 0
        self._unrecorded: dict[str, Failure] = {}
        self._changed = threading.Condition()

    # -- for the engine ----------------------------------------------------------------------------------------

    def make_ready(self, call: Call, settings: Settings, *, for_acall: bool | None) -> None:
        """Raise what keeps a call from being recorded; what is played needs no key and no permission."""
        if self._mode == "all":
            self._require_leave(call, settings, for_acall)

    @sensitive_variables()
    def transport(self, call: Call, body: Body, settings: Settings) -> departures.Transport:
        """Return what answers an attempt with this body. Raises ``NotRecorded`` where that is nothing."""
        clean = cleaning.cleaner(settings, self._redact)
        request = requests.recorded(call.plan.model, body, clean, call.variant, unkeyed=call.unkeyed)
        identity = requests.identity(request)
        with self._changed:
            left = self._left[identity]
            if self._mode != "all" and left:
                return Played(left.popleft(), call)
        if self._mode == "none":
            raise NotRecorded(self._complain(self._missing(call, request, identity)))
        if self._mode == "new":
            self._require_leave(call, settings, None)
        return Recording(call, request, clean, self._begin)

    def pause(self, seconds: float) -> float:
        """Wait before an attempt is made again only where a provider may be asked."""
        return 0.0 if self._mode == "none" else seconds

    def _require_leave(self, call: Call, settings: Settings, for_acall: bool | None) -> None:
        try:
            # Who records has said that providers may be called; unless the project's settings forbid it.
            if settings.allow_provider_calls is not None:
                departures.require_permission(call, settings)
            if for_acall is None:
                call.plan.provider.require_key()
            else:
                call.plan.provider.make_ready(for_acall=for_acall)
        except LLMCacheError as error:
            self._complain(f"A request could not be recorded in {shown(self._path)}: {error.message}")
            raise

    def _missing(self, call: Call, request: dict[str, Any], identity: str) -> str:
        what, place = f"A request (kind {call.plan.kind!r}, model {call.plan.model!r})", shown(self._path)
        times = sum(each.identity == identity for each in self.loaded)
        if times:
            return (
                f"{what} is {times} times in the cassette {place}, and was asked for once more. What is asked for "
                "again without the cache (bypass, refresh, ttl=0), or after a failure, is recorded again. "
                f"{_HOW_TO_RECORD}"
            )
        if not self.loaded:
            return f"{what} is not recorded: there is nothing in the cassette {place}. {_HOW_TO_RECORD}"
        nearest = differences.told(request, self.loaded)
        return f"{what} is not in the cassette {place}.\n{nearest}\n{_HOW_TO_RECORD}"

    def _complain(self, message: str) -> str:
        with self._changed:
            self.complaints.append(message)
        return message

    def _begin(self) -> Callable[[Interaction | None], None]:
        with self._changed:
            self._departures += 1
            self._under_way += 1
            return partial(self._note, self._departures)

    def _note(self, number: int, made: Interaction | None) -> None:
        with self._changed:
            if made is not None:
                if isinstance(made.reply, Failure) and not replies.is_worth_recording(made.reply):
                    self._unrecorded[made.identity] = made.reply
                else:
                    self._recorded[number] = made
                    self._unrecorded.pop(made.identity, None)
            self._under_way -= 1
            self._changed.notify_all()

    # -- for the cassette --------------------------------------------------------------------------------------

    def recorded(self) -> list[Interaction]:
        """Return what was recorded, in the order in which it left, when nothing is under way any more."""
        until = time.monotonic() + _END_SECONDS
        with self._changed:
            while self._under_way and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            lost = self._under_way
            unrecorded = list(self._unrecorded.values())
            made = [each for _, each in sorted(self._recorded.items())]
        if lost:
            self._complain(
                f"Of what is asked for, {lost} could not be recorded in {shown(self._path)}: no answer had come "
                f"{_END_SECONDS:g} seconds after the end. Have the test wait for what it asks for, or record it again."
            )
        for failure in unrecorded:
            self._complain(
                f"A request could not be recorded in {shown(self._path)}, for its last attempt says nothing about it: "
                f"{failure.error.message} Record it when that has passed. A failure that the test is about can be "
                "written into the cassette by hand, or be taught to llmcache_fake."
            )
        return made

    def unused(self) -> list[int]:
        """Return which of the loaded interactions nothing has asked for, counted from 1."""
        with self._changed:
            unused = {id(each) for left in self._left.values() for each in left}
        return [number for number, each in enumerate(self.loaded, 1) if id(each) in unused]
