"""Django's report of an error, as it is mailed: no frame of the way of a miss shows the text."""

import io
import sys
from pathlib import Path

import pytest
from django.test import RequestFactory
from django.views.debug import ExceptionReporter
from pydantic import BaseModel

import llmcache
from llmcache.testing.sandbox import Sandbox, faults


class Person(BaseModel):
    """A person."""

    name: str


@pytest.mark.parametrize("fault", [faults.wrong_json, faults.server_error, faults.garbage, faults.refusal])
def test_the_text_is_not_on_the_page(fault: object, sandbox: Sandbox) -> None:
    sandbox.fail(fault(), times=None)  # type: ignore[operator]
    try:
        llmcache.extract("".join(["Can", "ary"]), Person, max_retries=0, max_reasks=0)
    except llmcache.LLMCacheError:
        reporter = ExceptionReporter(RequestFactory().get("/"), *sys.exc_info())
    frames = reporter.get_traceback_frames()
    shown = {frame["function"]: repr(frame["vars"]) for frame in frames}
    assert len(shown) > 4
    # The front door's own frame is on the way of every hit, where the mark would cost: the docs say so.
    assert [name for name, variables in shown.items() if "Canary" in variables] == ["extract"]


IMAGE = b"\x89PNG\r\n\x1a\n"
CONTENTS = {
    "a part": ["Canary", None],
    "a surrogate": ["Canary\ud800"],
    "a message": [{"role": "user", "content": ["Canary", {"type": "Canary"}]}],
    "an address": [llmcache.Image("http://Canary")],
    "a data URL": [llmcache.Image("data:Canary")],
    "a path": [llmcache.Image(Path("Canary"))],
    "a file": [llmcache.File(io.StringIO("Canary"))],
    "bytes": [llmcache.Image(b"Canary")],
    "a type": [llmcache.Image(IMAGE + b"Canary", media_type="image/gif")],
    "what was sent": ["Canary", llmcache.File(b"Canary", name="Canary", media_type="text/plain")],
}


@pytest.mark.parametrize("name", CONTENTS)
def test_nor_are_parts_and_messages(name: str, sandbox: Sandbox) -> None:
    sandbox.fail(faults.garbage(), times=None)
    try:
        llmcache.extract(CONTENTS[name], Person, max_retries=0, max_reasks=0)
    except llmcache.LLMCacheError:
        reporter = ExceptionReporter(RequestFactory().get("/"), *sys.exc_info())
    shown = {frame["function"]: repr(frame["vars"]) for frame in reporter.get_traceback_frames()}
    assert "encoded" in shown or "fly" in shown
    assert {name for name, variables in shown.items() if "Canary" in variables} <= {"extract"}
