"""``python -m llmcache.testing.sandbox``: a sandbox provider until it is told to end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path
from queue import SimpleQueue

from llmcache.testing.sandbox.provider import Sandbox


def main() -> int:
    """Serve until SIGTERM, SIGINT or, if that was asked for, the end of standard input; return the exit status."""
    options = _options()
    # A SimpleQueue may be written to by a signal handler; an Event may not.
    ends: SimpleQueue[str] = SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.put("signal"))
    answers = {} if options.texts is None else read_answers(options.texts)
    with Sandbox(
        answers,
        charges=options.charges,
        seed=options.seed,
        latency=options.latency_ms / 1_000,
        pace=options.pace_ms / 1_000,
        port=options.port,
    ) as sandbox:
        sys.stdout.write(f"llmcache sandbox (no model) on {sandbox.base_url}\n")
        sys.stdout.flush()
        if options.until_stdin_closes:
            threading.Thread(target=_wait_for_end_of_input, args=(ends,), daemon=True).start()
        ends.get()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m llmcache.testing.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 is any free one (default)")
    parser.add_argument("--texts", type=Path, help="JSONL file of known texts: objects with 'text' and 'gold'")
    parser.add_argument("--charges", type=Path, help="file that each charged call is appended to")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="milliseconds that each answer waits")
    parser.add_argument(
        "--pace-ms", type=float, default=0.0, help="milliseconds from one piece of a stream to the next"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides the tokens of the n-th call")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input does")
    return parser.parse_args()


def read_answers(path: Path) -> dict[str, str]:
    """Read known texts; their gold is kept as JSON text, so that a gold string is not taken for JSON itself."""
    with path.open(encoding="utf-8") as lines:
        known = [json.loads(line) for line in lines if line.strip()]
    return {item["text"]: json.dumps(item["gold"], ensure_ascii=False) for item in known}


def _wait_for_end_of_input(ends: SimpleQueue[str]) -> None:
    while os.read(sys.stdin.fileno(), 4_096):
        pass
    ends.put("input")


if __name__ == "__main__":
    sys.exit(main())
