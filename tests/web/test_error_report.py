"""Django's report of an error, as it is mailed: no frame of the way of a miss shows the text."""

import sys

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
