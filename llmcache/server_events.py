"""Server-sent events: a stream of values on its way to a browser, which reads it with ``EventSource``.

The status is sent before the first value is there. So what goes wrong afterwards is an event of its own, and the last
event says that the stream is over: without it a browser would ask again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, Final

from django.http import StreamingHttpResponse
from django.views.decorators.debug import sensitive_variables
from pydantic import TypeAdapter

from llmcache.exceptions import LLMCacheError

_ANY: Final = TypeAdapter[Any](Any)


def event_stream(values: Iterator[Any] | AsyncIterator[Any]) -> StreamingHttpResponse:
    """Return a response that sends each value as it comes.

    ``values``: what ``llmcache.extract_partial`` or ``extract_iterable`` returns; under ASGI what their awaited twins
    do, for Django reads a plain iterator to its end there before it sends anything. Each value is an event ``value``
    with its JSON, by the names in the answer. An error is an event ``error`` with ``code`` and ``message``, and no user
    text; of an error that is none of llmcache's own the code is ``error``, and it is raised again for the server's log.
    The last event is ``end``. Who closes the page ends the call, see ``extract_partial``.
    """
    awaited = isinstance(values, AsyncIterator)
    content = _asent(values) if awaited else _sent(values)
    response = StreamingHttpResponse(content, content_type="text/event-stream; charset=utf-8")
    response["Cache-Control"] = "no-cache"
    # Proxies of the nginx family would collect the events, and send them together.
    response["X-Accel-Buffering"] = "no"
    return response


@sensitive_variables()
def _sent(values: Iterator[Any]) -> Generator[bytes, None, None]:
    try:
        for value in values:
            yield _value(value)
    except LLMCacheError as error:
        yield _error(error.code, str(error))
    except Exception:
        yield _error("error", "The answer could not be read.")
        raise
    finally:
        close = getattr(values, "close", None)
        if close is not None:
            close()
    yield _event("end", "{}")


@sensitive_variables()
async def _asent(values: AsyncIterator[Any]) -> AsyncGenerator[bytes, None]:
    try:
        async for value in values:
            yield _value(value)
    except LLMCacheError as error:
        yield _error(error.code, str(error))
    except Exception:
        yield _error("error", "The answer could not be read.")
        raise
    finally:
        close = getattr(values, "aclose", None)
        if close is not None:
            await close()
    yield _event("end", "{}")


@sensitive_variables()
def _value(value: Any) -> bytes:
    # A partial value has None where its type has something else: that is no reason for a warning, or for an error.
    with contextlib.suppress(Exception):
        return _event("value", _ANY.dump_json(value, by_alias=True, warnings=False).decode())
    return b""


def _error(code: str, message: str) -> bytes:
    return _event("error", json.dumps({"code": code, "message": message}))


def _event(name: str, data: str) -> bytes:
    # JSON has no line ends, which would end the event.
    return f"event: {name}\ndata: {data}\n\n".encode()
