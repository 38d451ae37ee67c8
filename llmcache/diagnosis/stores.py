"""The tiers, probed by a value of our own that is written, read and deleted; and where processes tell who is asking."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llmcache.diagnosis import Finding, Probe, timed
from llmcache.keys import KEY_FORMAT
from llmcache.tiers.base import ByteTier
from llmcache.tiers.disk import DiskTier

if TYPE_CHECKING:
    from llmcache.engine.runtime import Runtime

CLOCKS_DIFFER: Final = 5.0
"""Seconds; more than that is no network's doing."""
_KEPT_SECONDS: Final = 60.0
_DRAIN_SECONDS: Final = 1.0
_VALUE: Final = b"llmcache doctor"
_MEGABYTE: Final = 2**20


def probes(now: Runtime) -> dict[str, Probe]:
    """Return a probe for each tier."""
    memory = {} if now.tiers.memory is None else {f"tier {now.tiers.memory.name}": _memory}
    return {**memory, **{f"tier {tier.name}": partial(_tier, tier) for tier in now.tiers.below}}


def _memory(now: Runtime) -> Iterator[Finding]:
    memory = now.tiers.memory
    if memory is not None:
        told = f"this process's own, at most {memory.store.max_bytes // _MEGABYTE} MB"
        if now.tiers.below:
            yield Finding(f"tier {memory.name}", "ok", told)
        else:
            todo = "Add a cache that processes share to LLMCACHE['TIERS']."
            yield Finding(f"tier {memory.name}", "note", f"{told}, and the only tier: a restart pays again", todo)


def _tier(tier: ByteTier, now: Runtime) -> Iterator[Finding]:
    what, name = f"tier {tier.name}", f"llmcache:{now.namespace}:{KEY_FORMAT}:doctor:{os.urandom(8).hex()}"
    began = time.monotonic()
    tier.set(name, _VALUE, _KEPT_SECONDS)
    # A database cache is written by a thread.
    now.tiers.drain(_DRAIN_SECONDS)
    read = tier.get(name)
    took = timed(began)
    tier.delete(name)
    state = tier.state()
    if read != _VALUE:
        why = f" ({state.error})" if state.error else ""
        alone = "; it is left alone until it answers" if state.breaker == "open" else ""
        told = f"{state.backend} does not keep what is written{why}{alone}"
        todo = f"Look whether its server runs, and at CACHES[{tier.name!r}]. Calls go on, and pay for what lies there."
        yield Finding(what, "wrong", told, todo, took)
        return
    shared = {"machine": "by this machine", "network": "by every machine", "process": "by nobody"}
    told = f"{state.backend}, shared {shared.get(state.shared, 'nobody knows by whom')}: written, read and deleted"
    yield Finding(what, "note" if state.shared == "process" else "ok", told, milliseconds=took)
    if _is_redis(tier):
        yield from _redis(tier, name, now)


def leases(now: Runtime) -> Iterator[Finding]:
    """Say where processes tell each other which of them asks."""
    if now.leases is None:
        told = "nowhere: processes that ask for the same at the same moment all pay"
        todo = "Add a Redis or a llmcache.backends.DiskCache to TIERS, or keep the ledger in PostgreSQL or MySQL."
        yield Finding("leases", "note", told, todo)
    else:
        tier = now.lease_tier
        is_tier = tier is not None and (_is_redis(tier) or isinstance(tier, DiskTier))
        where = f"the tier {tier.name!r}" if tier is not None and is_tier else f"the database {now.settings.database!r}"
        yield Finding("leases", "ok", f"in {where}")


# Redis


def _is_redis(tier: ByteTier) -> bool:
    return hasattr(tier, "command")


def _redis(tier: Any, name: str, now: Runtime) -> Iterator[Finding]:
    what = f"tier {tier.name}"
    try:
        began = time.monotonic()
        server, memory, stats = (_told(tier.command(name, "INFO", part)) for part in ("server", "memory", "stats"))
        took = timed(began)
        seconds, micros = tier.command(name, "TIME")
    except Exception as error:  # noqa: BLE001  # the client's; a user of Redis may be forbidden to ask
        yield Finding(what, "note", f"Redis does not tell how it is set up: {type(error).__name__}")
        return
    policy, most = memory.get("maxmemory_policy", "unknown"), int(memory.get("maxmemory") or 0)
    evicted = int(stats.get("evicted_keys") or 0)
    limit = f"at most {most // _MEGABYTE} MB" if most else "without a limit"
    told = f"Redis {server.get('redis_version', 'of unknown version')}, {limit}, {policy}, {evicted} evicted"
    yield Finding(what, *_of_policy(policy, most, told), took)
    ahead = int(seconds) + int(micros) / 10**6 - now.clock.wall()
    if abs(ahead) > CLOCKS_DIFFER:
        todo = "Set both clocks by NTP: entries expire too early or too late."
        yield Finding(what, "wrong", f"Redis's clock is {ahead:+.0f} s from this machine's", todo)


def _of_policy(policy: str, most: int, told: str) -> tuple[Any, str, str]:
    if policy == "noeviction" and most:
        return "wrong", f"{told}: full, it takes no new answer", "Set maxmemory-policy to allkeys-lfu."
    if policy.startswith("volatile") and most:
        return "note", f"{told}: answers without a TTL are never evicted", "allkeys-lfu keeps what is used."
    if not most:
        return "note", f"{told}: it grows until the machine's memory is full", "Set maxmemory, and allkeys-lfu."
    return "ok", told, ""


def _told(info: Any) -> dict[str, str]:
    lines = (info.decode(errors="replace") if isinstance(info, bytes) else str(info)).splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}
