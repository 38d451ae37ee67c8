"""Envelopes: whatever bytes a tier gives back, they are the entry for this key or a miss, and never an exception."""

import pickle
import struct
from dataclasses import replace
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcache import envelope
from llmcache.envelope import Entry

KEY = bytes(range(32))
SMALL = Entry(KEY, b'{"name":"Ada"}', 1_000.5, 2_000.25, 2_000.25, cost=123, latency_ms=9, meta=b'{"kind":"Person"}')


def resealed(data: bytes) -> bytes:
    """Return bytes with a check that fits them: what somebody who knows the format could write."""
    check = crc32(data[56:], crc32(data[:40])).to_bytes(4, "little") + b"\0" * 12
    return data[:40] + check + data[56:]


entries = st.builds(
    Entry,
    key=st.just(KEY),
    answer=st.binary(max_size=300),
    written_at=st.floats(allow_nan=False),
    fresh_until=st.floats(allow_nan=False),
    stale_until=st.floats(allow_nan=False),
    cost=st.integers(-1, envelope.MOST_COST),
    latency_ms=st.integers(0, 2**32 - 1),
    seen=st.lists(st.binary(min_size=16, max_size=16), max_size=64).map(b"".join),
    meta=st.binary(max_size=300),
)


@given(entries)
def test_an_entry_comes_back_as_it_went_in(entry: Entry) -> None:
    assert envelope.decode(envelope.encode(entry), KEY) == entry


def test_the_size_is_the_answer_and_little_more() -> None:
    entry = Entry(KEY, b"x" * 10_000, 0.0, 0.0, 0.0, meta=b"{}")
    assert len(envelope.encode(entry)) <= 10_000 * 1.02


def test_every_cut_is_a_miss() -> None:
    data = envelope.encode(SMALL)
    assert all(envelope.decode(data[:length], KEY) is None for length in range(len(data)))
    assert envelope.decode(data + b"x", KEY) is None


def test_every_flipped_bit_is_a_miss() -> None:
    data = envelope.encode(SMALL)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            assert envelope.decode(bytes(flipped), KEY) is None, (position, bit)


def test_another_keys_bytes_are_a_miss() -> None:
    assert envelope.decode(envelope.encode(SMALL), bytes(32)) is None


@pytest.mark.parametrize("position", range(8))
def test_another_magic_version_or_flag_is_a_miss_even_when_sealed(position: int) -> None:
    data = bytearray(envelope.encode(SMALL))
    data[position] ^= 0x40
    assert envelope.decode(resealed(bytes(data)), KEY) is None


def test_a_supplement_is_no_entry() -> None:
    data = envelope.encode(SMALL, flags=envelope.SUPPLEMENT)
    assert envelope.decode(data, KEY) is None
    assert envelope.decode(data, KEY, flags=envelope.SUPPLEMENT) == SMALL


@pytest.mark.parametrize("cost", [-2, -(2**63), envelope.MOST_COST + 1, 2**63 - 1])
def test_a_cost_that_no_answer_has_is_a_miss(cost: int) -> None:
    assert envelope.decode(envelope.encode(replace(SMALL, cost=cost)), KEY) is None


def test_a_header_that_announces_512_megabytes_allocates_nothing() -> None:
    for offset in (-12, -8, -4):
        data = bytearray(envelope.encode(SMALL))
        end = 104 + offset
        struct.pack_into("<I", data, end, 512 * 2**20)
        assert envelope.decode(resealed(bytes(data)), KEY) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1",
        b"null",
        b"[" * 100_000,
        pickle.dumps({"name": "Ada"}),
        b"\xf1LMC",
        b"\xf1LMC\x01" + b"\0" * 99,
        "text",
        123,
        None,
        bytearray(envelope.encode(SMALL)),
        memoryview(envelope.encode(SMALL)),
    ],
    # Of a view the address is in its text, which is another one in each process.
    ids=lambda data: type(data).__name__ if isinstance(data, memoryview) else repr(data),
)
def test_foreign_bytes_and_other_types_are_a_miss(data: object) -> None:
    assert envelope.decode(data, KEY) is None


@settings(max_examples=500)
@given(st.data())
def test_mutated_and_resealed_bytes_never_raise(data: st.DataObject) -> None:
    mutated = bytearray(envelope.encode(SMALL))
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    entry = envelope.decode(resealed(bytes(mutated)), KEY)
    if entry is not None:
        assert entry.key == KEY
        assert isinstance(entry.facts(), dict)


@pytest.mark.parametrize(
    "meta", [b"", b"null", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"a":1', b"1" * 5_000], ids=lambda m: m[:9]
)
def test_meta_facts_that_cannot_be_read_are_empty(meta: bytes) -> None:
    entry = envelope.decode(envelope.encode(Entry(KEY, b"1", 0.0, 0.0, 0.0, meta=meta)), KEY)
    assert entry is not None
    assert entry.facts() == {}


def test_magic_is_no_number_for_clients_that_turn_numbers_to_int() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        int(envelope.encode(SMALL))
