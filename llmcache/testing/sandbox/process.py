"""The sandbox as a process of its own, for tests and demonstrations that need it outside of theirs."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final, Self

_PACKAGE_ROOT: Final = Path(__file__).parents[3]
_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0


class SandboxProcess:
    """A running sandbox process, made by `start_sandbox_process`; it ends with ``stop()`` or its ``with`` block."""

    def __init__(self, command: list[str], charges_path: Path, own_folder: Path | None) -> None:
        self.charges_path = charges_path
        """Where the charge file is."""
        self._own_folder = own_folder
        path = os.pathsep.join(filter(None, (str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(  # noqa: S603 - our own module, run by this very interpreter
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        line = self._first_line()
        if " on http://" not in line:
            self.stop()
            raise RuntimeError(f"the sandbox process did not start (it ended with {self._process.returncode})")
        self.base_url = line.rpartition(" on ")[2]
        """What a client takes for its ``base_url``."""

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def calls(self) -> int:
        """Return how many calls this process has charged."""
        return self._ask("GET", "/sandbox/state")["calls"]

    def fail(self, fault: str, **rule: Any) -> None:
        """Let calls meet the fault of this name; `rule` may hold ``args``, ``times``, ``text`` and ``every``."""
        self._ask("POST", "/sandbox/fail", {"fault": fault, **rule})

    def heal(self) -> None:
        """Forget all faults; calls that hang lose their connection."""
        self._ask("POST", "/sandbox/heal")

    def stop(self) -> None:
        """End the process, by force where it must be, and remove a charge file that nobody asked for."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)

    def _first_line(self) -> str:
        # A process that neither speaks nor ends is ended: the pipe then does.
        watchdog = threading.Timer(_START_SECONDS, self._process.kill)
        watchdog.start()
        try:
            return (self._process.stdout.readline() if self._process.stdout else "").strip()
        finally:
            watchdog.cancel()
            watchdog.join()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        host = self.base_url.removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(host, timeout=_START_SECONDS)
        try:
            connection.request(method, path, json.dumps(body or {}), {"Connection": "close"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer["error"]["message"])
        return answer


def start_sandbox_process(
    *,
    texts: str | Path | None = None,
    charges: str | Path | None = None,
    seed: int = 1,
    latency_ms: float = 0.0,
    pace_ms: float = 0.0,
    port: int = 0,
) -> SandboxProcess:
    """Start ``python -m llmcache.testing.sandbox`` and return when requests can be made.

    `texts` is a JSONL file of objects with ``text`` and ``gold``. Without `charges`, the charge file lies in a folder
    that ends with the process. It ends when this process does, killed or not. RuntimeError when it does not start.
    """
    own_folder = Path(tempfile.mkdtemp(prefix="llmcache-sandbox-")) if charges is None else None
    charges_path = Path(charges) if charges is not None else Path(f"{own_folder}/charges.jsonl")
    command = [sys.executable, "-m", "llmcache.testing.sandbox", "--until-stdin-closes", "--charges", str(charges_path)]
    command += ["--port", str(port), "--seed", str(seed), "--latency-ms", str(latency_ms)]
    command += ["--pace-ms", str(pace_ms)]
    command += ["--texts", str(texts)] if texts is not None else []
    return SandboxProcess(command, charges_path, own_folder)
