"""The sandbox itself: what happens to a request between its arrival and its answer."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, Final, Self

from llmcache.testing.sandbox import completions, delivery, faults, responses
from llmcache.testing.sandbox.charges import ChargeFile, tokens_of_call
from llmcache.testing.sandbox.completions import Completion, Question
from llmcache.testing.sandbox.faults import Fault, error_reply
from llmcache.testing.sandbox.server import Reply, Request, Server, reset

_KEPT_REQUESTS: Final = 1_000
_SECRET_HEADERS: Final = frozenset({"authorization", "api-key", "x-api-key"})
_ABOUT: Final = b"""This is the llmcache sandbox provider. It is not a language model.

It speaks OpenAI's chat completions (POST /v1/chat/completions) and its Responses API (POST /v1/responses). It answers
with data that it was given, or with a mechanical filling of the JSON schema it is asked for. Its tokens and prices are
invented.
"""

_QUESTIONS: Final = {"/chat/completions": completions.question, "/responses": responses.question}
"""What reads the requests, by their paths."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request for a completion as it arrived."""

    body: dict[str, Any]
    headers: dict[str, str]
    """By names in lower case, without those that hold an API key."""


class Sandbox:
    """A provider in a thread of this process, from ``start()`` or the start of a ``with`` block to its end.

    `answers` maps a text to its answer: JSON data, a pydantic model, or a string that is already JSON and goes out byte
    for byte. It is put into ``{"value": ...}`` where the schema is an object with that one property. An answer that
    lacks what the schema requires at its top belongs to another question: the schema is filled instead.

    `charges` is the path of the charge file, which is appended to; without it the file lies in a folder that ends with
    the sandbox. `seed` decides the tokens of the n-th charged call, `latency` and `pace` are in seconds, `port` 0 is
    any free one.
    """

    def __init__(
        self,
        answers: Mapping[str, Any] | None = None,
        *,
        charges: str | Path | None = None,
        seed: int = 1,
        latency: float = 0.0,
        pace: float = 0.0,
        port: int = 0,
    ) -> None:
        self.answers: dict[str, Any] = dict(answers or {})
        """May be changed at any time."""
        self.latency = latency
        """Seconds that each answer waits, faults included. A call is charged before the wait."""
        self.pace = pace
        """Seconds from one piece of a stream to the next."""
        self.calls = 0
        """How many calls were charged."""
        self.received = 0
        """How many requests for a completion arrived, whatever became of them."""
        self._seed = seed
        self._charges_path = charges
        self._charge_file: ChargeFile | None = None
        self._run_id = os.urandom(4).hex()
        self._server = Server(self._answer, port)
        self._rules = faults.Rules()
        self._requests: deque[RecordedRequest] = deque(maxlen=_KEPT_REQUESTS)
        self._arrival = threading.Condition()
        self._gate = asyncio.Event()
        self._gate.set()
        self._healing = asyncio.Event()

    # -- from outside -----------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen, and return when requests can be made. A sandbox starts once."""
        if self._charge_file is not None:
            raise RuntimeError("a sandbox starts once; make another one")
        self._charge_file = ChargeFile(self._charges_path)
        try:
            self._server.start()
        except OSError:
            self._charge_file.close()
            raise
        return self

    def stop(self) -> None:
        """Close every connection and the charge file. What was counted and charged can still be read."""
        self._server.stop()
        if self._charge_file is not None:
            self._charge_file.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """What a client takes for its ``base_url``."""
        return f"http://127.0.0.1:{self._server.port}/v1"

    @property
    def charges_path(self) -> Path:
        """Where the charge file is."""
        return self._charged_file().path

    def charges(self) -> list[dict[str, Any]]:
        """Return the calls that this sandbox charged, read from its file; see ``read_charges``."""
        return self._charged_file().read()

    @property
    def bill_pico_usd(self) -> int:
        """What all charged calls cost, in 10⁻¹² US dollars."""
        return sum(charge["price_pico_usd"] for charge in self.charges())

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last 1,000 requests for a completion, oldest first."""
        return self._server.call(lambda: list(self._requests))

    def fail(
        self,
        fault: Fault,
        times: int | EllipsisType | None = ...,
        *,
        text: str | None = None,
        every: int | None = None,
    ) -> None:
        """Let the next calls meet a fault.

        `times` is how many of them: 1 unless said otherwise, None for all until ``heal()``. `text` leaves out calls in
        which no message of the user is this text. With `every`, each `every`-th call is one, without end unless `times`
        says otherwise. Where several apply to one call, the one that was told first has it.
        """
        self._server.call(lambda: self._rules.add(fault, times, text, every))

    def heal(self) -> None:
        """Forget all faults; calls that hang lose their connection."""
        self._server.call(self._heal)

    def hold(self) -> None:
        """Let requests arrive and wait until ``release()``; then they go on in the order of their arrival."""
        self._server.call(self._gate.clear)

    def release(self) -> None:
        """Let all requests go on, those that wait and those to come."""
        self._server.call(self._gate.set)

    def wait_until_received(self, count: int, timeout: float = 10.0) -> None:
        """Wait until `count` requests in all have arrived; TimeoutError after `timeout` seconds.

        Unless they are held, they have then been charged too, as far as they ever will be.
        """
        with self._arrival:
            if not self._arrival.wait_for(lambda: self.received >= count, timeout):
                raise TimeoutError(f"{self.received} of {count} requests arrived at the sandbox within {timeout} s")
        # From arrival to charge the server's thread does nothing else: it takes this once it is through with that.
        self._server.call(lambda: None)

    def _charged_file(self) -> ChargeFile:
        if self._charge_file is None:
            raise RuntimeError("the sandbox has not been started")
        return self._charge_file

    # -- in the server's thread -------------------------------------------------------------------------------

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path.removeprefix("/v1") not in _QUESTIONS:
            writer.write(self._page(request).as_bytes("none"))
        elif request.method != "POST":
            writer.write(Reply(405, headers=(("Allow", "POST"),)).as_bytes("none"))
        else:
            await self._complete(request, writer)
        await writer.drain()

    async def _complete(self, request: Request, writer: asyncio.StreamWriter) -> None:
        body, request_id = _read_json(request.body), self._arrived()
        if isinstance(body, dict):
            kept = {name: content for name, content in request.headers.items() if name not in _SECRET_HEADERS}
            self._requests.append(RecordedRequest(body, kept))
        await self._gate.wait()
        try:
            asked = _QUESTIONS[request.path.removeprefix("/v1")](body)
        except ValueError as error:
            writer.write(error_reply(400, "invalid_request_error", None, str(error)).as_bytes(request_id))
            return
        fault = self._rules.take(asked.texts)
        if fault.delivery == "never":
            await self._healing.wait()
            reset(writer)
            return
        completion = self._charged(request, asked) if fault.charged else None
        if self.latency or fault.seconds:
            await asyncio.sleep(self.latency + fault.seconds)
        if fault.delivery == "reset":
            reset(writer)
        elif fault.reply is not None:
            writer.write(fault.reply.as_bytes(request_id))
        elif completion is not None:
            await delivery.deliver(completion, asked, fault, request_id, self.pace, writer)

    def _arrived(self) -> str:
        with self._arrival:
            self.received += 1
            self._arrival.notify_all()
        return f"req_sandbox_{self._run_id}_{self.received}"

    def _charged(self, request: Request, asked: Question) -> Completion:
        """Charge a call and return the right answer to it."""
        tokens = tokens_of_call(self._seed, self.calls + 1)
        completion_id = f"chatcmpl-sandbox-{self._run_id}-{self.calls + 1}"
        charge = {
            "n": self.calls + 1,
            "id": completion_id,
            "client_request_id": request.headers.get("x-client-request-id"),
            "model": asked.model + completions.MODEL_SUFFIX,
            "input_tokens": tokens.input_tokens,
            "cache_read_tokens": tokens.cache_read_tokens,
            "output_tokens": tokens.output_tokens,
            "price_pico_usd": tokens.price_pico_usd,
            "t": time.time(),
        }
        content = completions.content(asked, self.answers)
        self._charged_file().append(charge)
        self.calls += 1
        return completions.completion(asked, completion_id, tokens.as_usage(), content)

    def _heal(self) -> None:
        self._rules.clear()
        self._healing.set()
        self._healing = asyncio.Event()

    def _page(self, request: Request) -> Reply:
        """Answer what is no completion: the pages to look at and the controls for other processes."""
        match request.method, request.path:
            case "GET", "/":
                return Reply(200, _ABOUT, "text/plain; charset=utf-8")
            case "GET", "/v1/models":
                model = {"id": "sandbox", "object": "model", "created": 0, "owned_by": "llmcache-sandbox"}
                return _json_reply({"object": "list", "data": [model]})
            case "GET", "/sandbox/state":
                return _json_reply({"calls": self.calls, "received": self.received})
            case "POST", "/sandbox/fail":
                return self._told_to_fail(_read_json(request.body))
            case "POST", "/sandbox/heal":
                self._heal()
                return _json_reply({"rules": 0})
            case _:
                return error_reply(404, "invalid_request_error", "unknown_url", "The sandbox has no such page.")

    def _told_to_fail(self, told: Any) -> Reply:
        try:
            fault = faults.FACTORIES[told["fault"]](**told.get("args") or {})
            self._rules.add(fault, told.get("times", ...), told.get("text"), told.get("every"))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            known = ", ".join(faults.FACTORIES)
            return error_reply(400, "invalid_request_error", None, f"{error!r}; the faults are: {known}")
        return _json_reply({"fault": fault.name})


def _read_json(body: bytes) -> Any:
    """Return a body's data; None when it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _json_reply(value: Any) -> Reply:
    return Reply(200, completions.encode(value))
