"""``KEY_SECRETS``: keys that cannot be guessed, entries that cannot be forged, and a rotation that nobody pays for."""

import asyncio
import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings
from django.views.debug import SafeExceptionReporterFilter
from pydantic import BaseModel

import llmcache
from llmcache import conf, envelope, keys
from llmcache.admin_pages.whereabouts import find
from llmcache.engine import process
from llmcache.sealing import seals_of
from llmcache.testing.sandbox import Sandbox
from llmcache.tiers.disk import DiskStore
from tests.conftest import JournalReader, MovedClock, child_environment, llmcache_settings
from tests.keys_of import key_of


class Person(BaseModel):
    """A person."""

    name: str


def secret(seed: str) -> str:
    """Return a secret that is the same in every run."""
    return base64.urlsafe_b64encode(hashlib.sha256(seed.encode()).digest()).decode()


GOLDEN = "2ac2a74fa6d05b5fb5f459d97c97217644a799fec5d47ef27ddb322ee47e4371"
OLD, NEW = ("2027", secret("old")), ("2028", secret("new"))
ROTATING = [NEW, OLD]


@pytest.fixture
def restart(forget_memory: Callable[[], None]) -> Callable[[], None]:
    """Empties memory: what a restart does."""
    return forget_memory


def stored(tmp_path: Path) -> dict[str, bytes]:
    """Return what lies in the disk tier, by name."""
    store = DiskStore(tmp_path / "tier")
    try:
        rows = store._file.connection().rows("SELECT key, value FROM entries", ())
    finally:
        store.close()
    return {bytes(key).decode(): bytes(value) for key, value in rows}


def put(tmp_path: Path, values: dict[str, bytes]) -> None:
    """Put bytes into the disk tier, as who can write to it does."""
    store = DiskStore(tmp_path / "tier")
    for name, value in values.items():
        store.set(name, value, None)
    store.close()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, sandbox: Sandbox) -> Callable[..., llmcache.Extraction[Person]]:
    """Makes a call, one way or the other."""

    async def awaited(**options: Any) -> llmcache.Extraction[Person]:
        found = await llmcache.aextract_with_info("Ada", Person, **options)
        assert found.completion is not None
        return found

    def call(**options: Any) -> llmcache.Extraction[Person]:
        if request.param == "async":
            return asyncio.run(awaited(**options))
        return llmcache.extract_with_info("Ada", Person, **options)

    return call


def test_a_key_is_what_it_has_always_been(sandbox: Sandbox) -> None:
    """A difference makes every user with secrets pay again: if that is meant, type the new key by hand."""
    with llmcache_settings(KEY_SECRETS=[OLD]):
        assert key_of("Ada, 36", Person) == GOLDEN
        assert key_of("Ada, 36", Person, tenant="acme") != key_of("Ada, 36", Person, tenant="globex")
    assert key_of("Ada, 36", Person) != GOLDEN


def test_entries_are_found_again_in_every_tier_and_process(
    ask: Callable[..., llmcache.Extraction[Person]], sandbox: Sandbox, restart: Callable[[], None], tmp_path: Path
) -> None:
    with llmcache_settings(KEY_SECRETS=[OLD]):
        found = [ask(), ask()]
        restart()
        found += [ask(), ask()]
        assert [(each.outcome, each.tier) for each in found] == [
            ("miss", None), ("hit", "memory"), ("hit", "disk"), ("hit", "memory"),
        ]  # fmt: skip
        assert llmcache.extract("Ada", Person) == found[0].value
        assert all(":2027:{" in name for name in stored(tmp_path))
        program = (
            "import django; django.setup(); import llmcache; from tests.flows.test_key_secrets import Person;"
            "print(llmcache.extract_with_info('Ada', Person).tier)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env={**child_environment(), "PYTHONHASHSEED": "7"},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert done.stdout == "disk\n"
    assert sandbox.received == 1


def test_the_admin_finds_where_an_entry_lies(sandbox: Sandbox) -> None:
    with llmcache_settings(KEY_SECRETS=[OLD]):
        key = bytes.fromhex(llmcache.extract_with_info("Ada", Person).key)
        assert [(each.state.name, each.found) for each in find(process.current(), key)] == [
            ("memory", "fresh"), ("disk", "fresh"),
        ]  # fmt: skip


def test_who_reads_a_store_cannot_tell_what_was_asked(sandbox: Sandbox, tmp_path: Path, journal: JournalReader) -> None:
    guesses = {key_of(f"text {number}", Person) for number in range(50)}
    subjects = {hashlib.sha256(f"user {number}".encode()).hexdigest() for number in range(50)}

    def told() -> str:
        kept = b"".join(name.encode() + value for name, value in stored(tmp_path).items())
        return kept.decode("latin-1") + kept.hex() + journal.text()

    llmcache.extract("text 7", Person)
    llmcache.extract("text 8", Person, subject="user 7")
    # So the look is one that finds something.
    assert any(guess in told() for guess in guesses)
    assert any(subject in told() for subject in subjects)
    store = DiskStore(tmp_path / "tier")
    for name in stored(tmp_path):
        store.delete(name)
    store.close()
    for path in journal.files():
        path.write_text("")
    with llmcache_settings(KEY_SECRETS=[OLD]):
        llmcache.extract("text 7", Person)
        llmcache.extract("text 8", Person, subject="user 7")
        assert len(stored(tmp_path)) == 4
        assert not any(word in told() for word in guesses | subjects)
        one, two = (record.facts["subject"] for record in journal.all_records() if record.event == "stored")
        assert one is None
        assert len(two) == 64


def test_an_entry_of_another_hand_is_a_miss(
    ask: Callable[..., llmcache.Extraction[Person]], sandbox: Sandbox, restart: Callable[[], None], tmp_path: Path
) -> None:
    """Every way to put an answer there without knowing the secret."""
    with llmcache_settings(KEY_SECRETS=[OLD]):
        key = bytes.fromhex(ask().key)
        mine = stored(tmp_path)
        (name,) = (each for each in mine if not each.endswith(":more"))
        entry = envelope.decode(mine[name], key, secret=seals_of(conf.current().key_secrets)[0].mac)
        assert entry is not None
        entry.answer = b'{"name": "Eve"}'
        with llmcache_settings(KEY_SECRETS=[("2027", secret("of another deployment"))]):
            others = seals_of(conf.current().key_secrets)[0].mac
        flipped = bytearray(mine[name])
        flipped[-20] ^= 1
        forged = [
            envelope.encode(entry),
            envelope.encode(entry, flags=envelope.MAC),
            envelope.encode(entry, secret=others),
            mine[name][:40] + envelope.encode(entry)[40:56] + mine[name][56:],
            mine[name].replace(b"Ada", b"Eve"),
            bytes(flipped),
            mine[name][:-1],
            next(value for each, value in mine.items() if each.endswith(":more")),
        ]
        for number, data in enumerate(forged, 2):
            assert data != mine[name]
            put(tmp_path, {name: data})
            restart()
            found = ask()
            assert (found.outcome, found.key, sandbox.received) == ("miss", key.hex(), number)
            assert found.value.name != "Eve"


def test_every_cut_and_every_flipped_bit_of_a_signed_entry_is_a_miss() -> None:
    key, mac = bytes(range(32)), b"m" * 32
    data = envelope.encode(envelope.Entry(key, b'{"name":"Ada"}', 1.5, 2.5, 2.5, meta=b'{"a":1}'), secret=mac)
    assert envelope.decode(data, key, secret=mac) is not None
    assert all(envelope.decode(data[:length], key, secret=mac) is None for length in range(len(data)))
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            assert envelope.decode(bytes(flipped), key, secret=mac) is None, (position, bit)
    for other in (b"", b"n" * 32, b"m" * 31):
        assert envelope.decode(data, key, secret=other) is None
    assert envelope.decode(data, bytes(32), secret=mac) is None
    assert envelope.decode(data, key, flags=envelope.SUPPLEMENT, secret=mac) is None


def test_a_rotation_finds_what_was_paid_for_and_keeps_it_under_the_new_secret(
    ask: Callable[..., llmcache.Extraction[Person]], sandbox: Sandbox, restart: Callable[[], None], clock: MovedClock
) -> None:
    def at(secrets: Any) -> Any:
        changed = llmcache_settings(KEY_SECRETS=secrets)
        changed.__enter__()
        clock.install()
        return changed

    first = at([OLD])
    before = ask(ttl=1_000)
    completion = before.completion
    clock.move(400)
    first.__exit__(None, None, None)
    for secrets, tier in (([OLD, NEW], "disk"), (ROTATING, "disk"), ([NEW], "disk")):
        changed = at(secrets)
        restart()
        after = ask(ttl=1_000)
        assert (after.outcome, after.tier, after.value) == ("hit", tier, before.value)
        assert (after.key == before.key) == (secrets[0] is OLD)
        assert 400 <= after.age_seconds < 500
        assert after.ttl_left_seconds is not None
        assert 500 < after.ttl_left_seconds <= 600
        assert after.completion == completion
        entry = process.current().tiers.read(bytes.fromhex(after.key), 1_000)
        assert entry is not None
        kept = process.current().tiers.read_request(entry.entry)
        assert kept is not None
        assert kept["messages"][-1]["content"] == "Ada"
        assert llmcache.extract("Ada", Person, ttl=1_000) == before.value
        changed.__exit__(None, None, None)
    last = at([NEW])
    clock.move(700)
    restart()
    assert ask(ttl=1_000).outcome == "miss"
    last.__exit__(None, None, None)
    assert sandbox.received == 2


def test_an_answer_is_enough_to_be_found_under_an_older_secret(
    sandbox: Sandbox, drop_supplements: Callable[[], None], restart: Callable[[], None]
) -> None:
    with llmcache_settings(KEY_SECRETS=[OLD]):
        llmcache.extract("Ada", Person)
        drop_supplements()
    with llmcache_settings(KEY_SECRETS=ROTATING):
        found = llmcache.extract_with_info("Ada", Person)
        assert (found.outcome, found.completion) == ("hit", None)
        restart()
        assert llmcache.extract_with_completion("Ada", Person)[1] is not None
    assert sandbox.received == 2


def test_the_quick_way_of_a_repeat_finds_it_under_an_older_secret_too(
    sandbox: Sandbox, restart: Callable[[], None]
) -> None:
    texts = ["Ada", "Grace", "Joan"]
    with llmcache_settings(KEY_SECRETS=[OLD]):
        before = [llmcache.extract(text, Person) for text in texts]
    with llmcache_settings(KEY_SECRETS=ROTATING):
        # The first call prepares what the others are answered by.
        assert [llmcache.extract(text, Person) for text in texts] == before
        restart()
        assert [llmcache.extract(text, Person) for text in texts] == before
    assert sandbox.received == len(texts)


@pytest.mark.parametrize(
    "later",
    [
        [NEW],
        [],
        [("2027", NEW[1])],
        [NEW, ("2027", secret("wrong"))],
        [NEW, ("2026", OLD[1])],
    ],
    ids=["retired", "none at all", "right id, wrong secret", "the same to read", "right secret, wrong id"],
)
def test_what_no_secret_fits_is_a_miss(
    later: Any, ask: Callable[..., llmcache.Extraction[Person]], sandbox: Sandbox, restart: Callable[[], None]
) -> None:
    with llmcache_settings(KEY_SECRETS=[OLD]):
        ask()
    with llmcache_settings(KEY_SECRETS=later):
        restart()
        assert [ask().outcome, ask().outcome] == ["miss", "hit"]
    assert sandbox.received == 2


class Watched(LocMemCache):
    """A cache that notes which names are read."""

    read: list[str] = []  # noqa: RUF012

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        self.read.append(str(key))
        return super().get(key, default, version)


@pytest.fixture
def watched(sandbox: Sandbox) -> Iterator[list[str]]:
    """The names that are read from the only tier."""
    alias = {"BACKEND": f"{__name__}.Watched", "LOCATION": "watched"}
    with override_settings(CACHES={"default": alias}), llmcache_settings(TIERS=["default"]):
        yield Watched.read
    Watched.read.clear()


def test_only_a_miss_reads_under_the_older_secret(watched: list[str]) -> None:
    def read() -> list[str]:
        found = ["2027" if ":2027:" in name else "2028" for name in watched]
        watched.clear()
        return found

    with llmcache_settings(KEY_SECRETS=ROTATING):
        llmcache.extract("Ada", Person)
        # Once by the caller, and once more by whoever leads a flight.
        assert read() == ["2028", "2027"] * 2
        llmcache.extract("Ada", Person)
        assert read() == ["2028"]
    with llmcache_settings(KEY_SECRETS=[NEW]):
        llmcache.extract("Ada", Person)
        llmcache.extract("Grace", Person)
        assert read() == ["2028"] * 3


def test_nothing_shows_a_secret(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    with llmcache_settings(KEY_SECRETS=ROTATING):
        llmcache.extract("Ada", Person)
        now = process.current()
        page = SafeExceptionReporterFilter().get_safe_settings()
        told = [repr(conf.current()), repr(now.seals), repr(now.tiers), str(page["LLMCACHE"]), caplog.text]
    assert "2027" in told[0]
    for _, text in ROTATING:
        data = base64.urlsafe_b64decode(text)
        for word in (text, text[:20], data.hex(), repr(data)[2:-1][:20]):
            assert not any(word in each for each in told)


def test_a_secret_of_either_alphabet_padded_or_not_is_one(sandbox: Sandbox) -> None:
    data = hashlib.sha512(b"?").digest()
    written = [base64.b64encode(data), base64.urlsafe_b64encode(data)]
    assert written[0] != written[1]
    found: set[str] = set()
    for text in (*written, *(each.rstrip(b"=") for each in written)):
        with llmcache_settings(KEY_SECRETS=[("a", text.decode())]):
            found.add(key_of("Ada", Person))
    assert len(found) == 1


def test_names_stay_as_they_were_without_secrets() -> None:
    key = os.urandom(32)
    assert keys.storage_key("demo", key) == f"llmcache:demo:1:{{{key.hex()}}}"
    assert keys.supplement_key("demo", key, "2027") == f"llmcache:demo:1:2027:{{{key.hex()}}}:more"


@pytest.mark.django_db
def test_a_dry_run_counts_a_subjects_entries_under_each_secret(sandbox: Sandbox) -> None:
    with llmcache_settings(KEY_SECRETS=[OLD]):
        llmcache.extract("Ada", Person, subject="ann")
        assert llmcache.invalidate(subject="ann", dry_run=True).entries == 1
    with llmcache_settings(KEY_SECRETS=ROTATING):
        found = llmcache.invalidate(subject="ann", dry_run=True)
        assert (found.entries, llmcache.invalidate(subject="bob", dry_run=True).entries) == (1, 0)
