"""``manage.py llmcache_sandbox``: a provider on this machine, for development: no model, no key, no money."""

from __future__ import annotations

import errno
import signal
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from django.core.management.base import CommandParser

from llmcache.management.arguments import whole
from llmcache.management.output import SpokenCommand, failed, unusable
from llmcache.testing.sandbox import Sandbox
from llmcache.testing.sandbox.__main__ import read_answers

_PORT: Final = 8090
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Command(SpokenCommand):
    """Serves until Ctrl-C or SIGTERM."""

    help = (
        "Serve a provider on 127.0.0.1 that speaks OpenAI's chat completions and is no model: it fills the schema that "
        "it is asked for, always in the same way, or answers with what a file says. Prints the settings to paste. Ends "
        "with Ctrl-C. Exit status: 0; 1 when it cannot listen; 2 for arguments that cannot be used."
    )
    # It serves also where the project's settings are not right yet: it is what they are to name.
    requires_system_checks = ()

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument(
            "--port", type=whole(0, 65_535), default=_PORT, help=f"on 127.0.0.1; 0 is any free one (default: {_PORT})"
        )
        parser.add_argument(
            "--texts", type=Path, metavar="FILE", help="JSON lines of texts that are known: objects with text and gold"
        )
        parser.add_argument("--charges", type=Path, metavar="FILE", help="file that each charged call is appended to")
        parser.add_argument(
            "--latency-ms", type=whole(0, 600_000), default=0, help="milliseconds that each answer waits (default: 0)"
        )
        parser.add_argument(
            "--pace-ms", type=whole(0, 60_000), default=0, help="from one piece of a stream to the next (default: 0)"
        )

    def work(self, **options: Any) -> None:
        """Serve until somebody wants an end."""
        try:
            answers = {} if options["texts"] is None else read_answers(options["texts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unusable(
                f"{options['texts']} cannot be read ({type(error).__name__}): it takes JSON lines, objects with 'text' "
                "and 'gold'."
            ) from None
        latency, pace, charges = options["latency_ms"] / 1_000, options["pace_ms"] / 1_000, options["charges"]
        try:
            sandbox = Sandbox(answers, charges=charges, latency=latency, pace=pace, port=options["port"]).start()
        except OSError as error:
            hint = (
                " Another program listens there: name another --port, or 0." if error.errno == errno.EADDRINUSE else ""
            )
            raise failed(f"The sandbox cannot start: {error.strerror}.{hint}") from None
        try:
            ends: SimpleQueue[None] = SimpleQueue()
            before = _on_signals(lambda *_: ends.put(None))
            try:
                self._tell(sandbox)
                ends.get()
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
        finally:
            sandbox.stop()
        self.note(f"The sandbox has ended after {sandbox.calls} calls.")

    def _tell(self, sandbox: Sandbox) -> None:
        if self.json:
            self.say_json({"base_url": sandbox.base_url, "charges": str(sandbox.charges_path)})
        else:
            self.say(f"The sandbox provider listens on {sandbox.base_url}. It is no model. Ctrl-C ends it.")
            self.say("In the settings:")
            self.say()
            self.say("LLMCACHE = {")
            self.say(f'    "PROVIDERS": {{"openai": {{"base_url": "{sandbox.base_url}", "api_key": "sandbox"}}}},')
            self.say('    "ALLOW_PROVIDER_CALLS": "loopback",')
            self.say("}")
        self.stdout.flush()


def _on_signals(handler: Any) -> dict[signal.Signals, Any]:
    """Handle Ctrl-C and SIGTERM so, and return what handled them before; other threads than the main one get none."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in _SIGNALS}
