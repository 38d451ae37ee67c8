"""A provider to test against: a real HTTP server on loopback that speaks OpenAI's two APIs. It is no model.

The real ``openai`` SDK talks to it unchanged. Texts it was given are answered with their own data, every other text
with a filling of the requested schema that is always the same. What each call cost is in a file, before its answer
leaves, so that a test can compare what was charged with what the caller knows.

    with Sandbox(answers={"2 stalks celery": {"name": "celery", "quantity": 2.0}}) as sandbox:
        sandbox.fail(faults.rate_limited(retry_after=1))
        client = openai.OpenAI(base_url=sandbox.base_url, api_key="sandbox")

A request passes ``server`` (HTTP), ``provider`` (what happens to it), ``faults`` (whether it goes wrong), ``charges``
(tokens, price, file), ``completions`` (the answer), ``responses`` (the same in the other API), ``schemas`` and
``filling`` (values that fit a JSON schema).
As a program: ``python -m llmcache.testing.sandbox``; from another program: `start_sandbox_process`.
"""

from llmcache.testing.sandbox import faults
from llmcache.testing.sandbox.charges import (
    CACHED_INPUT_PICO_USD,
    INPUT_PICO_USD,
    OUTPUT_PICO_USD,
    read_charges,
)
from llmcache.testing.sandbox.faults import Fault
from llmcache.testing.sandbox.process import SandboxProcess, start_sandbox_process
from llmcache.testing.sandbox.provider import RecordedRequest, Sandbox

__all__ = [
    "CACHED_INPUT_PICO_USD",
    "INPUT_PICO_USD",
    "OUTPUT_PICO_USD",
    "Fault",
    "RecordedRequest",
    "Sandbox",
    "SandboxProcess",
    "faults",
    "read_charges",
    "start_sandbox_process",
]
