"""Parts and messages through every door: what arrives at the provider, what is a hit, what is kept and what is not."""

import asyncio
import base64
import gc
import hashlib
import io
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.management import CommandError, call_command
from django.utils.functional import lazy
from pydantic import BaseModel

import llmcache
from llmcache import rewriting
from llmcache.engine import process
from llmcache.envelope import Entry
from llmcache.exceptions import NotRewritten
from llmcache.models import CacheEntry, ProviderCall
from llmcache.testing import fake
from llmcache.testing.sandbox import Sandbox, faults, start_sandbox_process
from llmcache.warming.sources import from_misses
from tests.conftest import JournalReader, llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.flows.test_key_secrets import NEW, OLD


class Receipt(BaseModel):
    """What was paid."""

    total: int


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PDF = b"%PDF-1.7\n" + bytes(range(256))
TEXT = "Read this receipt:"
SENT = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}}


def photo() -> list[Any]:
    """Return a content, made anew each time."""
    return [TEXT, llmcache.Image(ContentFile(PNG, "Ada's receipt.png"))]


@pytest.fixture
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers |= {TEXT: {"total": 7}, "And now?": {"total": 8}}
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={"Receipt": {"type": f"{__name__}.Receipt"}}):
        process.install(None)
        yield sandbox


def ask(content: Any, **options: Any) -> tuple[int, str]:
    found = llmcache.extract_with_info(content, Receipt, **options)
    return found.value.total, found.outcome


def arrived(provider: Sandbox) -> list[list[dict[str, Any]]]:
    return [request.body["messages"] for request in provider.requests]


def entry_of(key: str) -> Entry:
    return next(place.entry for place in process.current().tiers.places(bytes.fromhex(key)) if place.entry is not None)


async def _all(values: Any) -> list[Any]:
    return [each async for each in values]


# -- every door

Door = Callable[[Any], Any]
DOORS: dict[str, Door] = {
    "extract": lambda content: llmcache.extract(content, Receipt),
    "extract_with_completion": lambda content: llmcache.extract_with_completion(content, Receipt)[0],
    "extract_with_info": lambda content: llmcache.extract_with_info(content, Receipt).value,
    "Extractor": lambda content: llmcache.Extractor(kind="Receipt").extract(content, Receipt),
    "extract_many": lambda content: llmcache.extract_many([content, content], Receipt)[1],
    "extract_samples": lambda content: llmcache.extract_samples(content, Receipt, samples=1)[0],
    "extract_partial": lambda content: list(llmcache.extract_partial(content, Receipt))[-1],
    "aextract": lambda content: asyncio.run(llmcache.aextract(content, Receipt)),
    "aextract_with_info": lambda content: asyncio.run(llmcache.aextract_with_info(content, Receipt)).value,
    "aextract_many": lambda content: asyncio.run(llmcache.aextract_many([content, content], Receipt))[1],
    "aextract_partial": lambda content: asyncio.run(_all(llmcache.aextract_partial(content, Receipt)))[-1],
}


def test_every_door_sends_the_same_and_has_the_same_key(provider: Sandbox, journal: JournalReader) -> None:
    expected = [{"role": "user", "content": [{"type": "text", "text": TEXT}, SENT]}]
    for number, door in enumerate(DOORS.values(), 1):
        with llmcache_settings(NAMESPACE=f"door{number}"):
            assert door(photo()).total == 7
            assert (provider.calls, arrived(provider)) == (number, [expected] * number)
            # Of each of them, all others are answered.
            assert {other(photo()).total for other in DOORS.values()} == {7}
            assert provider.calls == number
            told = journal.text()
            assert not any(word in told for word in (TEXT, "Ada's", SENT["image_url"]["url"][-40:]))


def test_messages_come_after_the_system_prompt(provider: Sandbox) -> None:
    talk = [
        {"role": "developer", "content": "Euros."},
        {"role": "user", "content": photo()},
        {"role": "assistant", "content": '{"total": 7}'},
        {"role": "user", "content": "And now?"},
    ]
    assert ask(talk, system="Be exact.") == (8, "miss")
    assert arrived(provider) == [
        [
            {"role": "system", "content": "Be exact."},
            talk[0],
            {"role": "user", "content": [{"type": "text", "text": TEXT}, SENT]},
            *talk[2:],
        ]
    ]
    assert ask(talk, system="Be exact.") == (8, "hit")
    assert ask([*talk[:2], talk[3]], system="Be exact.") == (8, "miss")


def test_what_is_one_text_has_that_texts_key(provider: Sandbox) -> None:
    assert ask(TEXT) == (7, "miss")
    assert ask([TEXT]) == (7, "hit")
    assert ask([{"role": "user", "content": [{"type": "text", "text": TEXT}]}]) == (7, "hit")
    assert asyncio.run(llmcache.aextract((TEXT,), Receipt)) == Receipt(total=7)
    assert provider.calls == 1


def test_the_same_receipt_under_another_name_is_a_hit(provider: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(PDF)
    assert ask([TEXT, llmcache.File(tmp_path / "a.pdf")]) == (7, "miss")
    assert ask([TEXT, llmcache.File(io.BytesIO(PDF))]) == (7, "hit")
    assert ask([TEXT, llmcache.File(PDF, name="a.pdf")]) == (7, "miss")
    (tmp_path / "a.pdf").write_bytes(PDF + b"!")
    assert ask([TEXT, llmcache.File(tmp_path / "a.pdf")]) == (7, "miss")


def test_an_answer_that_does_not_pass_is_asked_for_again_over_messages(provider: Sandbox) -> None:
    provider.fail(faults.says('{"total": "none"}'))
    assert ask(photo()) == (7, "miss")
    first, again = arrived(provider)
    assert again[: len(first)] == first
    assert [message["role"] for message in again] == ["user", "assistant", "user"]


def test_under_a_secret_no_key_can_be_guessed(provider: Sandbox) -> None:
    keys = {llmcache.extract_with_info(photo(), Receipt).key}
    for secrets in ([OLD], [NEW]):
        with llmcache_settings(KEY_SECRETS=secrets):
            keys.add(llmcache.extract_with_info(photo(), Receipt).key)
            assert ask(photo()) == (7, "hit")
    assert len(keys) == 3
    with llmcache_settings(KEY_SECRETS=[NEW, OLD]):
        assert ask(photo()) == (7, "hit")
    assert provider.calls == 3


# -- at the call, and not later


def test_what_is_changed_after_the_call_is_not_seen(provider: Sandbox) -> None:
    content: list[Any] = [{"role": "user", "content": photo()}]

    async def main() -> None:
        calls = [llmcache.aextract(content, Receipt), llmcache.aextract_with_info(content, Receipt)]
        stream, told = llmcache.aextract_partial(content, Receipt), llmcache.aexplain(content, Receipt)
        content[0]["content"][0] = "And now?"
        content.append({"role": "user", "content": "And now?"})
        await asyncio.gather(*calls)
        await _all(stream)
        assert (await told).verdict == "hit"

    asyncio.run(main())
    assert (provider.calls, len(arrived(provider)[0])) == (1, 1)
    assert ask(photo()) == (7, "hit")


def test_a_lazy_text_is_what_it_was_at_the_call(provider: Sandbox) -> None:
    words = ["And now?"]
    word: Any = lazy(lambda: words[0], str)()

    async def main() -> None:
        for content in (word, [word, word], [{"role": "user", "content": [{"type": "text", "text": word}, word]}]):
            words[0] = "And now?"
            calls: list[Any] = [
                llmcache.aextract(content, Receipt, system=word),
                llmcache.aextract_with_info(content, Receipt, system=word),
                llmcache.aextract_samples(content, Receipt, samples=1, system=word),
                _all(llmcache.aextract_partial(content, Receipt, system=word)),
            ]
            told = llmcache.aexplain(content, Receipt, system=word)
            words[0] = "later"
            await asyncio.gather(*calls)
            assert (await told).verdict == "hit"

    asyncio.run(main())
    assert "later" not in json.dumps(arrived(provider))
    assert provider.calls == 2


def test_a_batch_takes_each_item_as_it_was_given(provider: Sandbox) -> None:
    def questions() -> Iterator[list[Any]]:
        shared: list[Any] = []
        for text in (TEXT, "And now?"):
            shared[:] = [llmcache.Image(PNG), text]
            yield shared

    assert [each.total for each in llmcache.extract_many(questions(), Receipt)] == [7, 8]


class Slow(io.BytesIO):
    """A file that is there when somebody else has said so."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.goes_on = threading.Event()
        self.is_asked = threading.Event()

    def read(self, size: int | None = -1, /) -> bytes:
        self.is_asked.set()
        assert self.goes_on.wait(30)
        return super().read(size)


def test_a_file_that_is_read_holds_up_no_loop(provider: Sandbox) -> None:
    assert ask(TEXT) == (7, "miss")  # so that nothing but the file is new

    async def main() -> None:
        for door in (llmcache.aextract, lambda *given: llmcache.aextract_many([given[0]], given[1]), llmcache.aexplain):
            file = Slow(PNG)
            waiting = asyncio.ensure_future(door([TEXT, llmcache.Image(file)], Receipt))
            while not file.is_asked.is_set():
                await asyncio.sleep(0.001)
            # Neither this loop nor llmcache's own, which answers others meanwhile.
            assert (await llmcache.aextract_with_info(TEXT, Receipt)).outcome == "hit"
            file.goes_on.set()
            await waiting

    asyncio.run(main())


def test_files_that_are_slow_hold_up_no_other_call(provider: Sandbox) -> None:
    async def main() -> None:
        files = [Slow(PNG) for _ in range(6)]
        waiting = [asyncio.ensure_future(llmcache.aextract([TEXT, llmcache.Image(file)], Receipt)) for file in files]
        while not all(file.is_asked.is_set() for file in files):
            await asyncio.sleep(0.001)
        assert (await llmcache.aextract_with_info(TEXT, Receipt)).outcome == "miss"
        for file in files:
            file.goes_on.set()
        await asyncio.gather(*waiting)

    asyncio.run(main())
    assert provider.calls == 2


def test_no_file_waits_for_another_that_is_slow(provider: Sandbox) -> None:
    """Whatever their identities are: more files than locks could be shared among, and one of them does not answer."""
    slow = Slow(PNG)
    files = [io.BytesIO(PNG) for _ in range(500)]
    thread = threading.Thread(target=ask, args=([TEXT, llmcache.Image(slow)],))
    thread.start()
    assert slow.is_asked.wait(30)
    began = llmcache.extract([TEXT, llmcache.Image(PNG)], Receipt)
    assert [llmcache.extract([TEXT, llmcache.Image(file)], Receipt) for file in files] == [began] * 500
    assert not slow.goes_on.is_set()
    assert thread.is_alive()
    slow.goes_on.set()
    thread.join(30)
    assert provider.calls == 1


def test_a_batch_does_not_take_a_file_for_another(provider: Sandbox, tmp_path: Path) -> None:
    """A file that changes between the look for it and the question would be answered for its equals."""
    for name in "abc":
        (tmp_path / name).write_bytes(PNG)
    items = [[TEXT, llmcache.Image(tmp_path / name)] for name in "abc"]
    provider.hold()
    asked = ["And now?", *items]

    def begin() -> llmcache.Batch[Any]:
        return llmcache.extract_many(asked, Receipt, concurrency=1, on_error="collect")

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(begin()))
    thread.start()
    provider.wait_until_received(1)
    (tmp_path / "a").write_bytes(PNG + b"!")
    provider.release()
    thread.join(30)
    (batch,) = found
    assert list(batch) == [Receipt(total=8), None, None, None]
    assert "has changed" in str(batch.errors[1])
    assert provider.calls == 1


def test_a_batch_asks_for_equal_images_once(provider: Sandbox) -> None:
    batch = llmcache.extract_many(
        [PNG, PDF, PNG, b"broken"],
        Receipt,
        content=lambda data: [TEXT, (llmcache.File if data == PDF else llmcache.Image)(data)],
        on_error="collect",
    )
    assert batch.outcomes == ["miss", "miss", "collapsed", "error"]
    assert "content[1]: neither its bytes" in str(batch.errors[3])
    assert provider.calls == 2


def test_the_items_of_a_batch_may_share_an_open_file(provider: Sandbox) -> None:
    photo = llmcache.Image(io.BytesIO(PNG))
    batch = llmcache.extract_many([[f"Question {number}", photo] for number in range(30)], Receipt, concurrency=8)
    assert (len(batch), provider.calls) == (30, 30)
    assert {SENT["image_url"]["url"]} == {talk[0]["content"][1]["image_url"]["url"] for talk in arrived(provider)}


# -- limits


def test_limits_hold_for_all_parts_together(provider: Sandbox) -> None:
    with llmcache_settings(MAX_FILE_BYTES=2 * len(PNG), MAX_TEXT_BYTES=40):
        assert ask([TEXT, llmcache.Image(PNG), llmcache.Image(PNG)]) == (7, "miss")
        for content, says in (
            ([llmcache.Image(PNG), llmcache.Image(PNG), llmcache.File(PDF)], "MAX_FILE_BYTES"),
            ([TEXT, TEXT, "12345"], "MAX_TEXT_BYTES"),
            ([TEXT, llmcache.Image("https://example.com/a-long-name.png")], "MAX_TEXT_BYTES"),
        ):
            for door in DOORS.values():
                with pytest.raises(llmcache.InputTooLarge, match=says):
                    door(content)
    assert provider.received == 1


def test_an_image_is_in_memory_once_more_while_it_is_sent(tmp_path: Path) -> None:
    data = PNG + bytes(5 * 2**20)
    encoded = 4 * len(data) / 3
    with (
        start_sandbox_process() as provider,
        llmcache_settings(PROVIDERS={"openai": {"base_url": provider.base_url, "api_key": "sandbox"}}),
    ):
        llmcache.extract([TEXT, llmcache.Image(PNG)], Receipt)
        gc.collect()
        tracemalloc.start()
        try:
            made = llmcache.extract_with_info([TEXT, llmcache.Image(data)], Receipt)
            left, peak = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            assert llmcache.extract_with_info([TEXT, llmcache.Image(data)], Receipt).outcome == "hit"
            _, of_hit = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # Encoded, as JSON, and as the JSON's bytes.
    assert peak < 3.2 * encoded
    assert left < 2**17
    assert of_hit < 2**18
    entry = entry_of(made.key)
    held = process.current().tiers.read_beside(entry)
    assert held is not None
    assert sum(map(len, held)) < 2**12
    assert sum(path.stat().st_size for path in (tmp_path / "tier").iterdir()) < 2**19


# -- what is kept of it


@pytest.mark.django_db
def test_of_an_image_the_request_that_is_kept_has_the_digest(provider: Sandbox, tmp_path: Path) -> None:
    key = llmcache.extract_with_info(photo(), Receipt).key
    assert llmcache.flush()
    entry = entry_of(key)
    kept = json.dumps(process.current().tiers.read_request(entry))
    assert f"size={len(PNG)}" in kept
    assert "base64" not in kept
    with pytest.raises(NotRewritten, match="images or files") as caught:
        rewriting.refresh(key)
    assert caught.value.reason == "files_not_kept"
    row = CacheEntry.objects.get(key=key)
    assert rewriting.possible(row, rewriting.look(process.current(), bytes.fromhex(key))) == {
        "refresh": "files_not_kept",
        "retime": None,
    }
    # How many tokens it may be, nobody knows before.
    assert ProviderCall.objects.get().bound_pico_usd is None
    assert provider.calls == 1


@pytest.mark.django_db
@pytest.mark.parametrize("system", [None, "Be exact."])
def test_what_is_text_alone_or_an_address_is_asked_anew(
    system: str | None, provider: Sandbox, django_capture_on_commit_callbacks: Any
) -> None:
    contents = [
        [TEXT, "And now?"],
        [{"role": "system", "content": "Euros."}, {"role": "user", "content": "And now?"}],
        ["And now?", llmcache.Image("https://example.com/a.png", detail="low")],
        [{"type": "file", "file": {"file_id": "file-7"}}, "And now?"],
    ]
    options = {} if system is None else {"system": system}
    for number, content in enumerate(contents, 1):
        key = llmcache.extract_with_info(content, Receipt, **options).key
        assert llmcache.flush()
        with django_capture_on_commit_callbacks(execute=True):
            rewriting.refresh(key)
        one, other = arrived(provider)[-2:]
        assert one == other
        assert llmcache.extract_with_info(content, Receipt, **options).outcome == "hit"
        assert provider.calls == 2 * number


@pytest.mark.django_db
def test_an_export_is_known_by_digests_in_another_project(provider: Sandbox, tmp_path: Path) -> None:
    there, here = ({"NAMESPACE": name, "DISK_PATH": tmp_path / name} for name in ("theirs", "ours"))
    lines = tmp_path / "lines"
    with llmcache_settings(**there):
        assert ask(photo()) == (7, "miss")
        call_command("llmcache_export", f"--output={lines}", "--answers", "--requests", stderr=io.StringIO())
    digest = hashlib.sha256(PNG).hexdigest()
    assert digest in lines.read_text()
    (tmp_path / "forged").write_text(lines.read_text().replace(digest, "0" * 64))
    with llmcache_settings(**here):
        # An answer about another image would be served for this one.
        with pytest.raises(CommandError):
            call_command("llmcache_import", str(tmp_path / "forged"), stdout=io.StringIO(), stderr=io.StringIO())
        with pytest.raises(llmcache.NotCached):
            ask(photo(), cache="only")
        call_command("llmcache_import", str(lines), stdout=io.StringIO(), stderr=io.StringIO())
        assert ask(photo(), cache="only") == (7, "hit")
    assert provider.calls == 1


@pytest.mark.django_db
def test_explain_says_that_the_content_is_another(provider: Sandbox) -> None:
    ask(photo())
    assert llmcache.flush()
    told = llmcache.explain([TEXT, llmcache.Image(PNG + b"!")], Receipt)
    assert (told.verdict, [each.component for each in told.differences]) == ("differs", ["content"])
    assert llmcache.explain(photo(), Receipt).verdict == "hit"


@pytest.mark.django_db
def test_warming_takes_texts(provider: Sandbox) -> None:
    for content in (TEXT, [TEXT, "And now?"], photo()):
        assert ask(content)[1] == "miss"
    assert llmcache.flush()
    assert [each.content for each in from_misses(kind="Receipt")] == [TEXT]
    with pytest.raises(llmcache.UnsupportedType, match="is not warmed"):
        llmcache.warm([{"content": photo()}], response_model=Receipt, dry_run=True)
    with pytest.raises(llmcache.InvalidRequest, match="An item must be a text"):
        llmcache.warm([photo()], response_model=Receipt, dry_run=True)
    assert provider.received == 3


def test_a_fake_knows_it_by_its_last_text_or_by_its_type() -> None:
    with fake() as faked:
        faked.answer(TEXT, {"total": 1})
        faked.answer(Receipt, {"total": 2})
        assert ask(photo()) == (1, "miss")
        assert ask([{"role": "user", "content": "x"}, {"role": "user", "content": photo()}]) == (1, "miss")
        assert ask(llmcache.Image(PNG)) == (2, "miss")
        first = faked.calls[0]
        assert (
            first.content
            == first.body["messages"]
            == [{"role": "user", "content": [{"type": "text", "text": TEXT}, SENT]}]
        )
