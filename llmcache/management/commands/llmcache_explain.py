"""``manage.py llmcache_explain``: why a text is answered from the cache, or is not."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import CommandParser
from django.views.decorators.debug import sensitive_variables

from llmcache.engine import process
from llmcache.exceptions import InvalidRequest
from llmcache.explaining.door import explain
from llmcache.kinds import registered_type
from llmcache.management.output import SpokenCommand, unusable
from llmcache.warming.lines import decoded, opened

_WORDS: Final = {
    "model": ", as provider/model",
    "tenant": "",
    "subject": "; other users of this machine can read it among the process's arguments",
    "call_version": "; --version is Django's",
    "variant": "",
}


class Command(SpokenCommand):
    """Tells, asks no provider, and changes nothing."""

    help = (
        "Show what a call with a text would come to now, and why. The text comes from a file or from standard input, "
        "never from an argument, which everybody on this machine can read. The response type is the one that "
        "LLMCACHE['KINDS'] registers for the kind. Exit status: 0, whatever the answer; 1 when it cannot be found out; "
        "2 for arguments that cannot be used."
    )

    def add_own_arguments(self, parser: CommandParser) -> None:
        """Add the command's own arguments."""
        parser.add_argument("text", metavar="FILE", help="the file that holds the text; - for standard input")
        parser.add_argument("--kind", required=True, help="the call's kind, which has a type in LLMCACHE['KINDS']")
        parser.add_argument("--system", metavar="FILE", help="the file that holds the system prompt")
        for name, more in _WORDS.items():
            noun = name.removeprefix("call_")
            parser.add_argument(f"--{name.replace('_', '-')}", metavar=noun.upper(), help=f"the call's {noun}{more}")
        parser.add_argument("--tag", action="append", dest="tags", help="a tag of the call; may be given several times")
        parser.add_argument(
            "--params", metavar="FILE", help="a file with the call's parameters for the provider, as a JSON object"
        )
        parser.add_argument(
            "--exact", action="store_true", help="the text ends where the file ends: its last end of line belongs to it"
        )

    @sensitive_variables()
    def work(self, **options: Any) -> None:
        """Say what the call would come to."""
        now = process.current()
        annotation = registered_type(now.settings, options["kind"])
        if annotation is None:
            known = ", ".join(kind for kind in now.settings.kinds if registered_type(now.settings, kind)) or "none"
            raise unusable(
                f"LLMCACHE['KINDS'] names no type for the kind {options['kind']!r} (kinds that have one: {known})."
            )
        if options["text"] == options["system"] == "-":
            raise unusable("The text and the system prompt cannot both come from standard input.")
        most = now.settings.max_text_bytes
        named = {name.removeprefix("call_"): options[name] for name in (*_WORDS, "tags")}
        given = {name: value for name, value in named.items() if value is not None}
        if options["system"] is not None:
            given["system"] = _text(options["system"], most, exact=options["exact"])
        params = {} if options["params"] is None else _params(options["params"], most)
        if options["text"] == "-" and sys.stdin.isatty():
            self.note("Type the text, and end it with Ctrl-D.")
        content = _text(options["text"], most, exact=options["exact"])
        told = explain(content, annotation, kind=options["kind"], **given, **params)
        if self.json:
            self.say_json(asdict(told))
        else:
            for line in str(told).splitlines():
                self.say(line)


@sensitive_variables()
def _text(path: str, most: int, *, exact: bool) -> str:
    with opened(path) as source:
        # An end of line more than a text may have, and one byte by which a longer one is known.
        data = source.stream.read(most + 3)
    try:
        text = decoded(data)
    except InvalidRequest as error:
        raise unusable(f"{source.name} {error}") from None
    # Editors end a file with the end of a line, and texts have none.
    return text if exact else text.removesuffix("\n").removesuffix("\r")


def _params(path: str, most: int) -> dict[str, Any]:
    try:
        value = json.loads(_text(path, most, exact=True))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise unusable(f"{path} holds no JSON object of parameters.")
    return value
