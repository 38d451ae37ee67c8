"""A cassette's file: read with suspicion, for people edit and merge it, and written so that diffs are small.

    {"cassette": 1, "interactions": [{"request": ..., "reply": ...}, ...], "schemas": {...}}

A schema is written once and named where it is asked for: a review is about texts and answers. Nothing in it is of the
moment, but for what the provider put into its completion.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

from llmcache.providers.base import Failure, Reply
from llmcache.testing.cassettes import layout, requests
from llmcache.testing.cassettes.errors import CassetteError
from llmcache.testing.cassettes.places import shown
from llmcache.testing.cassettes.replies import LINES, Misfit, from_json, text_from_json, text_to_json, to_json

VERSION: Final = 1
MAX_BYTES: Final = 32 * 2**20
"""Of a file: one that is longer is none that somebody reviews, and most likely none of ours."""

_REFERENCE: Final = "$ref"
_PLACE: Final = "#/schemas/"
_HOLD_SCHEMAS: Final = ("schema", "parameters")
"""Fields of requests that hold one."""
_NAMES: Final = ("cassette", "interactions", "schemas")
_PARTS: Final = ("request", "reply", "failure", "told")
_CONFLICT: Final = re.compile(r"^(?:<{7}|={7}|>{7})(?: |$)", re.MULTILINE)
_OF_THE_MOMENT: Final = ("id", "created", "system_fingerprint")


@dataclass(frozen=True)
class Interaction:
    """A request and what came of it."""

    request: dict[str, Any]
    """As ``requests.recorded`` makes it."""
    reply: Reply | Failure
    told: str = ""
    """What a stream had told of its answer before it failed."""

    @cached_property
    def identity(self) -> str:
        """What is equal for equal requests."""
        return requests.identity(self.request)

    def is_like(self, other: Interaction) -> bool:
        """Return whether both say the same, but for what names the moment of an answer."""
        return self.identity == other.identity and (_lasting(self.reply), self.told) == (
            _lasting(other.reply),
            other.told,
        )


def _lasting(reply: Reply | Failure) -> Any:
    if isinstance(reply, Failure):
        return to_json(reply)
    rest: dict[str, Any] = json.loads(reply.rest) if reply.rest else {}
    facts = {name: value for name, value in rest.items() if name not in _OF_THE_MOMENT}
    return replace(reply, request_id=None, rest=json.dumps(facts, sort_keys=True).encode())


def read(path: Path) -> list[Interaction]:
    """Return a file's interactions, none where there is no file. Raises ``CassetteError`` for what cannot be one."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _broken(path, f"it cannot be read ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise _broken(path, f"it has more than {MAX_BYTES} bytes. Give each test a cassette of its own")
    try:
        # Editors may have put a mark at its start.
        return parsed(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _broken(path, f"it is not UTF-8 at byte {error.start}") from None
    except Misfit as misfit:
        raise _broken(path, str(misfit)) from None


def _broken(path: Path, why: str) -> CassetteError:
    return CassetteError(
        f"The cassette {shown(path)} cannot be used: {why}. Mend it, or delete it and record it anew with "
        "--llmcache-record=new (without pytest: LLMCACHE_RECORD=new)."
    )


def parsed(text: str) -> list[Interaction]:
    """Return the interactions of a file's text. Raises ``Misfit``."""
    document = _document(text)
    schemas = document.get("schemas", {})
    if not isinstance(schemas, dict):
        raise Misfit("'schemas' has to be an object")
    told: Any = document.get("interactions")
    if not isinstance(told, list):
        raise Misfit("'interactions' has to be a list")
    plain: dict[str, Any] = layout.plain(schemas)
    return [_interaction(each, number, plain) for number, each in enumerate(cast("list[Any]", told), 1)]


def _document(text: str) -> dict[str, Any]:
    try:
        document = layout.read(text)
    except json.JSONDecodeError as error:
        conflict = _CONFLICT.search(text)
        if conflict is not None:
            line = text.count("\n", 0, conflict.start()) + 1
            raise Misfit(f"line {line} is the mark of a merge conflict that is not resolved") from None
        raise Misfit(f"it is no JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except layout.DuplicateName as error:
        raise Misfit(f"an object has the name {str(error)[:100]!r} twice") from None
    except RecursionError:
        raise Misfit("it is nested too deeply") from None
    if not isinstance(document, dict) or "cassette" not in document:
        raise Misfit("it does not begin with 'cassette', which tells the version of its form")
    told = cast("dict[str, Any]", document)
    version: Any = told["cassette"]
    if version != layout.Number(str(VERSION)):
        raise Misfit(f"its form is {layout.written(version)[:20]}, and this llmcache reads {VERSION}")
    _require_known(told, _NAMES, "it")
    return told


def _interaction(told: Any, number: int, schemas: dict[str, Any]) -> Interaction:
    try:
        if not isinstance(told, dict):
            raise Misfit("it has to be an object")
        fields = cast("dict[str, Any]", told)
        _require_known(fields, _PARTS, "it")
        request: Any = fields.get("request")
        if not isinstance(request, dict):
            raise Misfit("'request' has to be an object")
        resolved = {name: _resolved(part, schemas) for name, part in layout.plain(request).items()}
        if not isinstance(resolved.get("model"), str):
            raise Misfit("'request' needs the 'model', as 'provider/model'")
        return Interaction(resolved, from_json(fields), _told(fields))
    except Misfit as misfit:
        raise Misfit(f"interaction {number}: {misfit}") from None


def _told(fields: dict[str, Any]) -> str:
    def refuse(_: str) -> Any:
        raise Misfit(f"'told' has to be a string, or {{\"{LINES}\": [...]}} with a string for each line")

    return text_from_json(fields["told"], refuse) if "told" in fields else ""


def _require_known(fields: dict[str, Any], known: Iterable[str], who: str) -> None:
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise Misfit(f"{who} has {unknown[0]!r}, which is unknown; there may be {', '.join(known)}")


def rendered(interactions: Iterable[Interaction]) -> str:
    """Return the text of a file with these interactions."""
    schemas: dict[str, Any] = {}
    told = [_written(each, schemas) for each in interactions]
    document = {"cassette": VERSION, "interactions": told}
    return layout.for_people(document if not schemas else {**document, "schemas": schemas})


def _written(interaction: Interaction, schemas: dict[str, Any]) -> dict[str, Any]:
    made = {"request": _shortened(interaction.request, schemas), **to_json(interaction.reply)}
    return {**made, "told": text_to_json(interaction.told)} if interaction.told else made


def _shortened(data: Any, schemas: dict[str, Any], name: str = "", beside: Any = None) -> Any:
    """Return a request as it is written: schemas by name, texts of several lines as lists of them."""
    if isinstance(data, str):
        return text_to_json(data)
    if isinstance(data, dict):
        fields = cast("dict[str, Any]", data)
        # What only looks like one of our own forms is put where nothing is looked for.
        if (name in _HOLD_SCHEMAS and fields) or _is_form(fields):
            told: Any = cast("dict[str, Any]", beside).get("name") if isinstance(beside, dict) else None
            return {_REFERENCE: _PLACE + _label(fields, told if isinstance(told, str) else "schema", schemas)}
        return {each: _shortened(part, schemas, each, fields) for each, part in fields.items()}
    return [_shortened(part, schemas) for part in cast("list[Any]", data)] if isinstance(data, list) else data


def _is_form(fields: dict[str, Any]) -> bool:
    if len(fields) != 1:
        return False
    return LINES in fields or str(fields.get(_REFERENCE, "")).startswith(_PLACE)


def _label(schema: dict[str, Any], name: str, schemas: dict[str, Any]) -> str:
    """Return what a schema is called in this file, where it is put."""
    base = re.sub(r"[^\w.-]+", "-", name) or "schema"
    number, label = 1, base
    while label in schemas and requests.identity(schemas[label]) != requests.identity(schema):
        number += 1
        label = f"{base}-{number}"
    schemas[label] = schema
    return label


def _resolved(data: Any, schemas: dict[str, Any]) -> Any:
    if isinstance(data, dict):
        fields = cast("dict[str, Any]", data)
        if not _is_form(fields):
            return {name: _resolved(part, schemas) for name, part in fields.items()}
        if LINES in fields:
            return text_from_json(fields, _refuse_lines)
        label = str(fields[_REFERENCE]).removeprefix(_PLACE)
        if label not in schemas:
            raise Misfit(f"'request' names the schema {label[:100]!r}, which is not in 'schemas'")
        return schemas[label]
    return [_resolved(part, schemas) for part in cast("list[Any]", data)] if isinstance(data, list) else data


def _refuse_lines(_: str) -> Any:
    raise Misfit(f"'request' has a {LINES!r} that is no list of strings")


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Keep other processes from writing cassettes in the same folder, which is made where there is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The folder itself is locked, so that nothing of it lies about afterwards.
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write(path: Path, interactions: list[Interaction]) -> None:
    """Put these interactions in the place of a file's, whole or not at all; without any there is no file."""
    text = rendered(interactions).encode()
    if len(text) > MAX_BYTES:
        raise CassetteError(
            f"The cassette {shown(path)} would have {len(text)} bytes, and {MAX_BYTES} can be read. Let the test ask "
            "for less, or give it several cassettes."
        )
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if not interactions:
            path.unlink(missing_ok=True)
            return
        new.write_bytes(text)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> CassetteError:
    return CassetteError(f"The cassette {shown(path)} cannot be written ({error.strerror}): check its folder.")
