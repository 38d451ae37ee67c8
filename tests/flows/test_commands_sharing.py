"""A warm cache that is shared: exported by one project, imported by another, and nothing that was forged on the way."""

import base64
import contextlib
import hashlib
import io
import json
import pickle
import signal
import socket
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from pydantic import BaseModel

import llmcache
from llmcache import corrections
from llmcache.engine import process
from llmcache.models import CacheEntry, EntryTag, ProviderCall
from llmcache.rewriting import look
from llmcache.sharing import outgoing
from llmcache.testing.sandbox import Sandbox
from tests.conftest import MovedClock, llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES

pytestmark = pytest.mark.django_db

TEXTS = ("The printer is on fire", "Where is my parcel? \N{SNOWMAN}", "I cannot sign in")


class Ticket(BaseModel):
    """A mail to the support."""

    title: str


def secret(seed: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(seed.encode()).digest()).decode()


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers.update({text: {"title": f"About {number}"} for number, text in enumerate(TEXTS)})
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={"inbox": {"type": Ticket}}):
        yield sandbox


@contextlib.contextmanager
def project(name: str, folder: Path, **changes: Any) -> Iterator[None]:
    """Be in a project of its own: another name space, other tiers and another journal, and the same code."""
    with llmcache_settings(NAMESPACE=name, DISK_PATH=folder / name / "tier", JOURNAL=folder / name / "log", **changes):
        yield


def ask(number: int, **options: Any) -> str:
    """Ask for one of the texts, and return how it was answered."""
    given = {"kind": "inbox", "tenant": "acme", "tags": ["mail", f"text-{number}"], **options}
    info = llmcache.extract_with_info(TEXTS[number], Ticket, **given)
    assert info.value == Ticket(title=f"About {number}")
    return info.outcome


def exported(file: Path, *arguments: str) -> list[dict[str, Any]]:
    call_command("llmcache_export", f"--output={file}", *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def theirs(tmp_path: Path, provider: Sandbox) -> Path:
    """What another project has exported: three answers, one of them under a subject."""
    with project("theirs", tmp_path):
        for number, options in enumerate(({}, {"subject": "Ada"}, {"ttl": None, "system": "Be brief"})):
            assert ask(number, **options) == "miss"
        lines = exported(tmp_path / "theirs.jsonl", "--answers", "--requests")
        assert len(lines) == 5
    return tmp_path / "theirs.jsonl"


def imported(file: Path, *arguments: str, status: int = 0) -> tuple[dict[str, Any], str]:
    """Import a file, and return the figures and what was said beside them."""
    out, beside = io.StringIO(), io.StringIO()
    ended = 0
    try:
        call_command("llmcache_import", str(file), "--json", *arguments, stdout=out, stderr=beside)
    except CommandError as error:
        ended = error.returncode
        beside.write(f"{error}\n")
    assert ended == status, beside.getvalue()
    said = out.getvalue() + beside.getvalue()
    assert not any(text[:12] in said for text in TEXTS)
    return json.loads(out.getvalue() or "{}"), beside.getvalue()


def written(folder: Path, lines: list[Any]) -> Path:
    file = folder / "changed.jsonl"
    file.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_one_project_has_paid_for_is_a_hit_in_another(theirs: Path, tmp_path: Path, provider: Sandbox) -> None:
    paid = Decimal(provider.bill_pico_usd) / 10**12
    calls, before = ProviderCall.objects.count(), llmcache.stats()
    with project("ours", tmp_path):
        # Of a subject only the hash is told, so that its key cannot be made again.
        told, beside = imported(theirs, "--dry-run", status=1)
        assert (told["imported"], told["refused"], told["dry_run"]) == (2, 1, True)
        assert f"{theirs}:3: has a key that cannot be made again here" in beside
        rows = CacheEntry.objects.filter(namespace=process.current().namespace)
        assert (rows.count(), ask_nobody(0)) == (0, "NotCached")
        told, _ = imported(theirs, "--trust")
        assert (told["imported"], told["refused"], told["whole"]) == (3, 0, True)
        assert {row.source for row in rows} == {"import"}
        assert sum(row.cost_usd or 0 for row in rows) == paid
        assert EntryTag.objects.filter(entry__in=rows, tag="mail").count() == 3
        outcomes = [ask(0), ask(1, subject="Ada"), ask(2, ttl=None, system="Be brief")]
        assert (outcomes, provider.calls) == (["hit", "hit", "hit"], 3)
        stats = llmcache.stats()
        assert (stats.saved_usd - before.saved_usd, stats.spent_usd) == (paid, before.spent_usd)
        assert (ProviderCall.objects.count(), {row.hits for row in rows.all()}) == (calls, {1})
        options: dict[str, Any] = {"kind": "inbox", "tenant": "acme", "tags": ["mail", "text-0"]}
        assert llmcache.extract_with_completion(TEXTS[0], Ticket, **options)[1].model == "gpt-5-mini-2026-01-01"
        # What is there is left as it is.
        assert imported(theirs, "--trust")[0]["known"] == 3
        assert rows.count() == 3


def ask_nobody(number: int) -> str:
    """Ask the cache alone, and return what became of that."""
    try:
        return ask(number, cache="only")
    except llmcache.LLMCacheError as error:
        return type(error).__name__


def test_an_export_holds_a_text_only_for_who_says_so(tmp_path: Path) -> None:
    with project("theirs", tmp_path):
        for number in range(3):
            ask(number, tenant=("acme", "globex", "acme")[number])
        facts = exported(tmp_path / "facts.jsonl")
        assert [len(facts), "entry" in facts[1], facts[-1]] == [5, False, {"end": True, "entries": 3}]
        assert "About" not in (tmp_path / "facts.jsonl").read_text()
        answers = exported(tmp_path / "answers.jsonl", "--answers", "--tenant=acme", "--tag=text-2")
        assert [line["entry"]["request"] for line in answers[1:-1]] == [None]
        assert json.loads(answers[1]["entry"]["answer"]) == {"title": "About 2"}
        assert (tmp_path / "answers.jsonl").stat().st_mode & 0o77 == 0
        for wrong in (["--requests"], [f"--output={tmp_path / 'facts.jsonl'}"]):
            with pytest.raises(CommandError) as error:
                call_command("llmcache_export", *wrong, stdout=io.StringIO())
            assert error.value.returncode == 2
        with pytest.raises(CommandError, match="cannot be written"):
            exported(tmp_path / "nowhere" / "file")
    with project("ours", tmp_path):
        assert "Export with --answers" in imported(tmp_path / "facts.jsonl", status=1)[1]


def test_what_is_void_expired_or_a_humans_is_not_exported(tmp_path: Path, clock: MovedClock) -> None:
    def keys() -> list[str]:
        (tmp_path / "some.jsonl").unlink(missing_ok=True)
        return [line["tags"][-1] for line in exported(tmp_path / "some.jsonl", "--answers")[1:-1]]

    for number, ttl in enumerate((3_600, None, None)):
        ask(number, ttl=ttl)
    assert llmcache.flush()
    assert keys() == ["text-0", "text-1", "text-2"]
    llmcache.invalidate(tag="text-1")
    corrections.pin(CacheEntry.objects.get(tag_rows__tag="text-2").key, user="ann")
    # Before its entry lies in a tier, and after.
    assert keys() == ["text-0"]
    ask(2, ttl=None)
    assert keys() == ["text-0"]
    clock.move(3_601)
    assert keys() == []


def test_an_export_that_is_interrupted_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        ask(number)

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return look(*arguments)

    monkeypatch.setattr(outgoing, "look", interrupted)
    with pytest.raises(CommandError, match="Stopped after 1 entries") as error:
        exported(tmp_path / "part.jsonl", "--answers")
    assert error.value.returncode == 130
    assert not [*tmp_path.glob("part.jsonl*")]


def test_this_projects_invalidations_hold_for_what_is_imported(theirs: Path, tmp_path: Path, provider: Sandbox) -> None:
    with project("ours", tmp_path):
        # Made after the answers, or before them: nobody there has seen it.
        llmcache.invalidate(tag="text-0")
        told, _ = imported(theirs, "--trust")
        assert (told["imported"], told["void"]) == (2, 1)
        assert ask(0) == "miss"
        llmcache.invalidate(subject="Ada")
        assert ask(1, subject="Ada") == "miss"
        assert ask(2, ttl=None, system="Be brief") == "hit"


def test_nothing_newer_is_overwritten_and_what_is_older_is(theirs: Path, tmp_path: Path, provider: Sandbox) -> None:
    header, first, *_ = read(theirs)
    with project("ours", tmp_path):
        ask(0)
        assert imported(theirs, "--trust")[0]["newer"] == 1
        later = {**first, "entry": {**first["entry"], "written": time.time(), "answer": '{"title": "Later"}'}}
        later["entry"]["fresh_until"] = later["entry"]["stale_until"] = time.time() + 60
        # The same line twice is one entry.
        told, _ = imported(written(tmp_path, [header, later, later, {"end": True, "entries": 2}]))
        assert (told["imported"], told["known"]) == (1, 1)
        options: dict[str, Any] = {"kind": "inbox", "tenant": "acme", "tags": ["mail", "text-0"]}
        assert llmcache.extract(TEXTS[0], Ticket, **options) == Ticket(title="Later")
        assert CacheEntry.objects.get(namespace=process.current().namespace, key=first["key"]).source == "import"
        first["entry"] |= {"fresh_until": first["entry"]["written"], "stale_until": first["entry"]["written"]}
        assert imported(written(tmp_path, [header, first, {"end": True, "entries": 1}]))[0]["expired"] == 1


def hostile(line: dict[str, Any]) -> dict[str, Any]:
    """Return lines that no project has exported, each with a piece of what is said of it."""

    def changed(**facts: Any) -> dict[str, Any]:
        return {**line, **facts}

    def held(**facts: Any) -> dict[str, Any]:
        return {**line, "entry": {**line["entry"], **facts}}

    def told(**facts: Any) -> dict[str, Any]:
        return held(facts={**line["entry"]["facts"], **facts})

    request = json.loads(line["entry"]["request"])
    request["messages"][-1]["content"] = "Another text"
    plain = json.dumps(line)
    return {
        "must be a JSON object.": b"[]\n",
        "is no JSON": b"{]\n",
        "has NUL bytes": pickle.dumps({"answer": "x"}).replace(b"\n", b"") + b"\0\n",
        "is not UTF-8": b'{"key": "\xff"}\n',
        "is nested too deeply": b'{"entry": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "too many digits": b'{"entry": ' + b"1" * 5_000 + b"}\n",
        "number that is too large": plain.replace('"latency_ms": ', '"latency_ms": 1e400, "x": ').encode() + b"\n",
        "has NaN": plain.replace('"latency_ms": ', '"latency_ms": NaN, "x": ').encode() + b"\n",
        "the same name twice": plain.replace('"kind"', '"key"', 1).encode() + b"\n",
        "bytes, which no export has": b'{"a": "' + b"x" * 3_000_000 + b'"}\n',
        "an object as 'entry'": changed(entry=None),
        "an object as 'facts'": held(facts="os.system"),
        "64 hex digits as 'key'": changed(key="../../etc/passwd"),
        "64 hex digits as 'schema'": told(schema=7),
        "a text as 'answer'": held(answer={"title": "x"}),
        "a text as 'completion'": held(completion=None),
        "characters, without NUL as 'tenant'": changed(tenant="a\0b"),
        "characters, without NUL as 'kind'": told(kind="x" * 101),
        "a whole number from 0 to 10000000000000000": held(cost_pico_usd=-1),
        "as 'latency_ms'": held(latency_ms=True),
        "a time in seconds since 1970": held(written="now"),
        "expires before it was written": held(fresh_until=0.0, stale_until=0.0),
        "a time that has not come yet": held(written=4e9, fresh_until=None, stale_until=None),
        "a list of at most 1000 texts": told(tags=["\ud800"]),
        "a human's answer": told(origin="human"),
        "does not pass its type's validation": held(answer='{"title": 7}'),
        "of another form of its response type": told(schema="0" * 64),
        "a request that does not make its key": changed(key="0" * 64),
        "a request that does not make its key.": held(request=json.dumps(request, separators=(",", ":"))),
        "of a provider that is not in PROVIDERS": told(asked="elsewhere/gpt-5-mini"),
        "has a key that cannot be made again": held(request=None),
    }


def test_hostile_lines_are_refused_and_hold_up_no_other(theirs: Path, tmp_path: Path) -> None:
    header, good, _, other, _ = read(theirs)
    lines = hostile(good)
    file = written(tmp_path, [header, *lines.values(), other, {"end": True, "entries": len(lines) + 1}])
    with project("ours", tmp_path, MAX_VALUE_BYTES=400_000):
        told, beside = imported(file, status=1)
        assert (told["imported"], told["refused"], told["whole"]) == (1, len(lines), True)
        for number, (wrong, said) in enumerate(zip(lines, beside.splitlines(), strict=False), 2):
            assert said.startswith(f"{file}:{number}: ")
            assert wrong in said
        rows = CacheEntry.objects.filter(namespace=process.current().namespace)
        assert [row.key for row in rows] == [other["key"]]
        # At the first one, with what came before.
        told, beside = imported(file, "--stop", status=1)
        assert (told["refused"], "Stopped at line 2" in beside) == (1, True)


def test_what_is_no_export_or_not_whole_says_so(theirs: Path, tmp_path: Path) -> None:
    lines = theirs.read_bytes().splitlines(keepends=True)
    with project("ours", tmp_path):
        # The last line has no end, and Windows has been here.
        same = written(
            tmp_path, [b"\xef\xbb\xbf", *(line.replace(b"\n", b"\r\n") for line in lines[:-1]), lines[-1][:-1]]
        )
        assert imported(same, "--trust")[0]["whole"] is True
        for torn in (lines[:-1], [*lines[:2], lines[-1]]):
            told, beside = imported(written(tmp_path, torn), "--trust", status=1)
            assert (told["whole"], "it is torn" in beside) == (False, True)
        for wrong, content in {
            "is empty": [],
            "does not begin a file": lines[1:],
            "of another format": [lines[0].replace(b'"format": 1', b'"format": 2'), *lines[1:]],
        }.items():
            assert wrong in imported(written(tmp_path, content), status=1)[1]
        assert "UTF-16" in imported(written(tmp_path, ["\ufeffx".encode("utf-16-le")]), status=2)[1]
        for path in (tmp_path / "missing", tmp_path, Path("/dev/zero")):
            assert str(path) in imported(path, status=2)[1]


def test_without_a_registered_type_only_a_seal_or_trust_will_do(theirs: Path, tmp_path: Path) -> None:
    with project("ours", tmp_path, KINDS={}):
        assert imported(theirs, status=1)[0]["refused"] == 3
        assert imported(theirs, "--trust")[0]["imported"] == 3
    keyed = tmp_path / "keyed.jsonl"
    with project("keyed", tmp_path, KEY_SECRETS=[("1", secret("one"))]):
        assert ask(0, subject="Ada") == "miss"
        exported(keyed, "--answers")
        assert "made without a secret" in imported(theirs, status=1)[1]
    header, line, end = read(keyed)
    changed = {**line, "entry": {**line["entry"], "answer": '{"title": "Forged"}'}}
    with project("ours", tmp_path, KINDS={}, KEY_SECRETS=[("1", secret("one"))]):
        assert imported(written(tmp_path, [header, changed, end]), "--trust", status=1)[0]["refused"] == 1
        assert imported(keyed)[0]["imported"] == 1
        assert ask(0, subject="Ada") == "hit"
    with project("others", tmp_path, KEY_SECRETS=[("1", secret("two"))]):
        assert "no seal of this project's secret" in imported(keyed, "--trust", status=1)[1]
    with project("ours", tmp_path):
        assert "made with another secret" in imported(keyed, "--trust", status=1)[1]


def test_a_project_that_keeps_no_requests_keeps_none_of_others(theirs: Path, tmp_path: Path) -> None:
    key = bytes.fromhex(read(theirs)[1]["key"])
    for name, keeps in (("keeping", "tier"), ("without", "no")):
        with project(name, tmp_path, KEEP_REQUESTS=keeps):
            assert imported(theirs, "--trust")[0]["imported"] == 3
            held = look(process.current(), key)
            assert held is not None
            assert (held.request is not None) == (keeps == "tier")


def test_a_tier_that_is_down_ends_an_export_and_an_import(theirs: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
    down = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": nobody}}
    with project("theirs", tmp_path):
        ours = process.current().namespace
    assert CacheEntry.objects.filter(namespace=ours).count() == 3
    with override_settings(CACHES=down), project("theirs", tmp_path, TIERS=["default"]):
        assert "The tier 'default' cannot be written: stopped at line 2" in imported(theirs, status=1)[1]
        with pytest.raises(CommandError, match="'default' cannot be read"):
            exported(tmp_path / "gone.jsonl", "--answers")
        assert not [*tmp_path.glob("gone.jsonl*")]
    memory = {"default": {"BACKEND": "llmcache.backends.MemoryCache"}}
    with override_settings(CACHES=memory), project("theirs", tmp_path, TIERS=["default"]):
        assert "nothing would be kept" in imported(theirs, status=1)[1]
