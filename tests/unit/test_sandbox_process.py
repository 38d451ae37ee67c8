"""The sandbox as a process: its line, its controls, and that it always ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from llmcache.testing.sandbox import SandboxProcess, read_charges, start_sandbox_process
from tests.unit.test_sandbox import GOLD, TEXT, asking

ROOT = Path(__file__).parents[2]


def connect(process: SandboxProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=process.base_url, api_key="sandbox", max_retries=0, timeout=20)


def wait_until_refused(base_url: str) -> None:
    """Return when nothing listens there any more."""
    host, port = base_url.removeprefix("http://").removesuffix("/v1").split(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=20).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # it was about to close just then
        time.sleep(0.01)
    raise AssertionError(f"something still listens at {base_url}")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    lines = [{"id": "1", "text": TEXT, "gold": GOLD}, {"id": "2", "text": "seven", "gold": "7"}]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_answers_known_texts_and_writes_its_charges(texts: Path, tmp_path: Path):
    charges = tmp_path / "charges.jsonl"
    with start_sandbox_process(texts=texts, charges=charges, seed=5, latency_ms=1) as process:
        with connect(process) as client:
            reply = client.chat.completions.create(**asking())
            string = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}
            seven = client.chat.completions.create(**asking("seven", string))
        assert json.loads(reply.choices[0].message.content or "") == GOLD
        assert json.loads(seven.choices[0].message.content or "") == {"value": "7"}
        assert process.calls() == 2
        assert [charge["id"] for charge in read_charges(process.charges_path)] == [reply.id, seven.id]
    assert charges.exists()
    wait_until_refused(process.base_url)


def test_takes_faults_over_http():
    with start_sandbox_process() as process, connect(process) as client:
        process.fail("rate_limited", args={"retry_after": 2}, times=1)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**asking())
        assert caught.value.response.headers["retry-after"] == "2"
        process.fail("server_error", times=None)
        process.heal()
        client.chat.completions.create(**asking())
        assert process.calls() == 1
        with pytest.raises(ValueError, match="rate_limited, server_error"):
            process.fail("no such fault")
        with pytest.raises(ValueError, match="retry_before"):
            process.fail("rate_limited", args={"retry_before": 2})
        folder = process.charges_path.parent
    assert not folder.exists()


def run(*options: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmcache.testing.sandbox", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_cleanly_on_a_signal(number: signal.Signals):
    with run() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("llmcache sandbox (no model) on http://127.0.0.1:")
        process.send_signal(number)
        out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (0, "", "")


def test_ends_when_its_input_does():
    with run("--until-stdin-closes") as process:
        assert process.stdout is not None
        process.stdout.readline()
        out, errors = process.communicate(timeout=20)  # closes its input
    assert (process.returncode, out, errors) == (0, "", "")


def test_does_not_outlive_a_killed_parent():
    program = (
        "import sys, time; from llmcache.testing.sandbox import start_sandbox_process;"
        "process = start_sandbox_process(charges=sys.argv[1]);"
        "print(process.base_url, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, os.devnull], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        base_url = parent.stdout.readline().strip()
        parent.kill()
    assert base_url
    wait_until_refused(base_url)


def test_a_process_that_does_not_start_is_an_error(tmp_path: Path):
    with pytest.raises(RuntimeError, match="did not start"):
        start_sandbox_process(texts=tmp_path / "missing.jsonl", charges=tmp_path / "charges.jsonl")


def test_needs_neither_the_sdk_nor_django_nor_the_rest_of_the_package():
    program = (
        "import sys; before = set(sys.modules); import llmcache; package = set(sys.modules);"
        "import llmcache.testing.sandbox.__main__; new = set(sys.modules) - package;"
        "print(sorted(n for n in new if n.split('.')[0] in ('openai', 'django', 'pydantic')"
        " or n.startswith('llmcache.') and not n.startswith('llmcache.testing')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
