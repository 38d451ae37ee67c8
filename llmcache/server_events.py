"""Server-sent events: a stream of values on its way to a browser, which reads it with ``EventSource``.

The status is sent before the first value is there. So what goes wrong afterwards is an event of its own, and the last
event says that the stream is over: without it a browser would ask again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping
from typing import Any, Final

from django.http import StreamingHttpResponse
from django.views.decorators.debug import sensitive_variables
from pydantic import BaseModel, TypeAdapter

from llmcache.exceptions import InvalidRequest, LLMCacheError

_ANY: Final = TypeAdapter[Any](Any)


def event_stream(values: Iterable[Any] | AsyncIterable[Any]) -> StreamingHttpResponse:
    """Return a response that sends each value as it comes.

    ``values``: what ``llmcache.extract_partial`` or ``extract_iterable`` returns; under ASGI what their awaited twins
    do, for Django reads a plain iterator to its end there before it sends anything. Each value is an event ``value``
    with its JSON, by the names in the answer; one that has none yet is left out, which the last one cannot be. An
    error is an event ``error`` with ``code`` and ``message``, and no user text; of an error that is none of llmcache's
    own the code is ``error``, and it is raised again for the server's log. The last event is ``end``, after an error
    too. Who closes the page ends the call, see ``extract_partial``. Raises ``InvalidRequest`` for what is no stream.
    """
    _require_stream(values)
    content = _asent(values) if isinstance(values, AsyncIterable) else _sent(values)
    response = StreamingHttpResponse(content, content_type="text/event-stream; charset=utf-8")
    response["Cache-Control"] = "no-cache"
    # Proxies of the nginx family would collect the events, and send them together.
    response["X-Accel-Buffering"] = "no"
    return response


def _require_stream(values: object) -> None:
    # These can be gone through too: letter by letter, field by field, name by name.
    is_one_value = isinstance(values, (str, bytes, BaseModel, Mapping))
    if is_one_value or not isinstance(values, (Iterable, AsyncIterable)):
        raise InvalidRequest(
            "event_stream() takes what llmcache.extract_partial() or extract_iterable() returns, or any other iterable "
            f"of values; not {type(values).__name__}."
        )


@sensitive_variables()
def _sent(values: Iterable[Any]) -> Generator[bytes, None, None]:
    written = _Written()
    try:
        for value in values:
            if event := written.event(value):
                yield event
        written.require_last()
    except LLMCacheError as error:
        yield _error(error.code, str(error))
    except Exception:
        # Together: a browser that hears of no end asks again, and again.
        yield _error("error", "The answer could not be read.") + _END
        raise
    finally:
        close = getattr(values, "close", None)
        if close is not None:
            close()
    yield _END


@sensitive_variables()
async def _asent(values: AsyncIterable[Any]) -> AsyncGenerator[bytes, None]:
    written = _Written()
    try:
        async for value in values:
            if event := written.event(value):
                yield event
        written.require_last()
    except LLMCacheError as error:
        yield _error(error.code, str(error))
    except Exception:
        yield _error("error", "The answer could not be read.") + _END
        raise
    finally:
        close = getattr(values, "aclose", None)
        if close is not None:
            await close()
    yield _END


class _Written:
    """The values of a stream, written one after the other."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        """Why the last one could not be written."""

    @sensitive_variables()
    def event(self, value: Any) -> bytes:
        """Return a value's event; nothing for one that cannot be written."""
        # A partial value has None where its type has something else: that is no reason for a warning, or for an error.
        self._error = None
        try:
            return _event("value", _ANY.dump_json(value, by_alias=True, warnings=False).decode())
        except Exception as error:  # noqa: BLE001  # of a serializer of the project's own
            self._error = error
            return b""

    def require_last(self) -> None:
        """Raise what kept the last value from being written: it is whole, and what was to be shown."""
        if self._error is not None:
            raise self._error


def _error(code: str, message: str) -> bytes:
    return _event("error", json.dumps({"code": code, "message": message}))


def _event(name: str, data: str) -> bytes:
    # JSON has no line ends, which would end the event.
    return f"event: {name}\ndata: {data}\n\n".encode()


_END: Final = _event("end", "{}")
