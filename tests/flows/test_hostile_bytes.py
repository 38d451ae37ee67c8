"""Whatever lies in a tier under our key: a miss, never an exception, and the provider's answer takes its place."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest
from pydantic import BaseModel

import llmcache
from llmcache import envelope, keys
from llmcache.engine import process
from llmcache.envelope import Entry
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers.disk import DiskStore
from tests.conftest import JournalReader


class Person(BaseModel):
    """A person."""

    name: str


class Ran:
    """Unpickling this would leave a file behind."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("unpickled").touch, ())


def answering(answer: bytes, **changes: object) -> Callable[[bytes], bytes]:
    """Return a maker of a whole envelope around an answer."""
    return lambda key: envelope.encode(Entry(key, answer, 0.0, float("inf"), float("inf"), **changes))  # type: ignore[arg-type]


def announced(key: bytes) -> bytes:
    data = bytearray(answering(b"{}")(key))
    struct.pack_into("<I", data, 92, 512 * 2**20)
    check = crc32(data[56:], crc32(data[:40])).to_bytes(4, "little") + b"\0" * 12
    return bytes(data[:40]) + check + bytes(data[56:])


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda key: b"",
    "a digit": lambda key: b"1",
    "pickle": lambda key: pickle.dumps(Ran()),
    "json null": lambda key: b"null",
    "100,000 brackets": lambda key: b"[" * 100_000,
    "an envelope of another key": lambda key: answering(b'{"name":"Eve"}')(bytes(32)),
    "a supplement": lambda key: envelope.encode(
        Entry(key, b'{"name":"Eve"}', 0.0, float("inf"), float("inf")), flags=envelope.SUPPLEMENT
    ),
    "512 MB announced": announced,
    "an answer of brackets": answering(b"[" * 100_000),
    "an answer of null": answering(b"null"),
    "an empty answer": answering(b""),
    "an answer that is no UTF-8": answering(b'{"name":"\xff"}'),
    "an answer of another shape": answering(b'{"title":"Eve"}'),
    "an answer with a huge number": answering(b'{"name":' + b"9" * 5_000 + b"}"),
    "meta facts of brackets": answering(b'{"nom":1}', meta=b"[" * 100_000),
    "not a number in its times": lambda key: envelope.encode(
        Entry(key, b'{"name":"Eve"}', float("nan"), float("nan"), float("nan"))
    ),
    "expired": lambda key: envelope.encode(Entry(key, b'{"name":"Eve"}', 0.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_a_miss(
    name: str, sandbox: Sandbox, tmp_path: Path, forget_memory: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sandbox.answers["Ada"] = {"name": "Ada"}
    key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
    forget_memory()
    store = DiskStore(tmp_path / "tier")
    for place in (keys.storage_key, keys.supplement_key):
        store.set(place(process.current().namespace, key), HOSTILE[name](key), None)
    store.close()
    value, completion = llmcache.extract_with_completion("Ada", Person)
    assert value == Person(name="Ada")
    assert completion.choices[0].message.content is not None
    assert sandbox.calls == 2
    forget_memory()
    assert llmcache.extract_with_info("Ada", Person).tier == "disk"
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    "rest",
    [b"null", b"[" * 100_000, b"{}", b'{"choices":[]}', b"\xff", b"[]", b"1", b'{"choices":[{"message":1}]}', b""],
    ids=lambda rest: repr(rest[:20]),
)
def test_a_hostile_completion_is_gone_and_the_answer_stays(
    rest: bytes, sandbox: Sandbox, tmp_path: Path, journal: JournalReader
) -> None:
    key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
    held = process.current().tiers.read(key, float("inf"))
    assert held is not None
    entry = held.entry
    store = DiskStore(tmp_path / "tier")
    foreign = Entry(key, rest, entry.written_at, entry.fresh_until, entry.stale_until)
    name = keys.supplement_key(process.current().namespace, key)
    store.set(name, envelope.encode(foreign, flags=envelope.SUPPLEMENT), None)
    store.close()
    again = llmcache.extract_with_info("Ada", Person)
    assert (again.outcome, again.completion) == ("hit", None)
    assert llmcache.extract_with_completion("Ada", Person)[1].choices[0].message.content is not None
    assert sandbox.calls == 2
    assert [line.facts["why"] for line in journal.records() if line.event == "started"][1] == "completion_missing"
