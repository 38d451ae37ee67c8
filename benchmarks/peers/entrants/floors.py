"""The least that a validated fresh object can cost: find the bytes, validate them."""

import hashlib
import json
import sqlite3
from typing import Any

import redis
import redis.asyncio

from benchmarks.peers.cases import Case
from benchmarks.peers.entrants import Asker, Call, Place


def memory(_: Place) -> Asker:
    """A dict by the text's hash."""

    def ask(case: Case) -> Call:
        text, model, sha256 = case.text, case.model, hashlib.sha256
        stored = {sha256(text.encode()).digest(): _json(case)}
        return lambda: model.model_validate_json(stored[sha256(text.encode()).digest()])

    return ask


def disk(place: Place) -> Asker:
    """A row of SQLite by its key, on an open connection; nothing is hashed."""
    file = sqlite3.connect(place.folder / "floor.sqlite3", isolation_level=None)
    file.execute("PRAGMA journal_mode=WAL")
    file.execute("CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")

    def ask(case: Case) -> Call:
        key, model, execute = hashlib.sha256(case.text.encode()).digest(), case.model, file.execute
        execute("INSERT INTO entries VALUES (?, ?)", (key, _json(case)))
        select = "SELECT value FROM entries WHERE key = ?"
        return lambda: model.model_validate_json(execute(select, (key,)).fetchone()[0])

    return ask


def redis_sync(place: Place) -> Asker:
    """A value of Redis by the text's hash."""
    client = redis.Redis(port=place.redis_port)

    def ask(case: Case) -> Call:
        text, model, sha256, get = case.text, case.model, hashlib.sha256, client.get
        client.set(b"floor:" + sha256(text.encode()).digest(), _json(case))

        def call() -> Any:
            found: Any = get(b"floor:" + sha256(text.encode()).digest())
            return model.model_validate_json(found)

        return call

    return ask


def redis_awaited(place: Place) -> Asker:
    """The same with ``redis.asyncio`` and its own pool."""
    client = redis.asyncio.Redis(port=place.redis_port)

    def ask(case: Case) -> Call:
        text, model, sha256, get = case.text, case.model, hashlib.sha256, client.get
        kept = False

        async def call() -> Any:
            nonlocal kept
            if not kept:
                kept = await client.set(b"floor-awaited:" + sha256(text.encode()).digest(), _json(case))
            found: Any = await get(b"floor-awaited:" + sha256(text.encode()).digest())
            return model.model_validate_json(found)

        return call

    return ask


def _json(case: Case) -> bytes:
    return json.dumps(case.answer, separators=(",", ":")).encode()
