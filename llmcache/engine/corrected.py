"""Entries that are made of a human's answer in place of the provider's."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.views.decorators.debug import sensitive_variables

from llmcache.engine.lifetimes import FOREVER
from llmcache.envelope import MOST_COST, UNKNOWN_COST, Entry

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.engine.log_copy import View

HUMAN: Final = "human"
PINNED: Final = "pinned"
"""Where the ledger says an entry comes from; of a pinned one the provider made the answer, and a human decided."""


class HumanAnswer(NamedTuple):
    """What a correction's row says."""

    row_id: bytes
    """Of the row of the log by which it stands."""
    answer: bytes
    cost: int | None
    """What the answer had cost that it stands for, in 10**-12 US dollars; None when that is not known."""
    latency_ms: int
    is_pin: bool


class Corrected(NamedTuple):
    """The entry of a human's answer."""

    entry: Entry
    rest: bytes
    """A completion that an SDK would take for one, without the answer."""
    may_keep: bool
    """Whether other calls may have it too: not what belongs to a transaction that is under way."""
    call_id: str
    """By which the journal tells it from what a provider call has brought; there is no such call."""


@sensitive_variables()
def corrected_of(call: Call, found: HumanAnswer, view: View, now: float, *, may_keep: bool) -> Corrected:
    """Return the entry of a human's answer that is read at ``now`` (wall-clock seconds). It does not expire."""
    plan = call.plan
    meta: dict[str, Any] = {
        "model": None,
        "asked": plan.model,
        "kind": plan.kind,
        "type": plan.response.name,
        "schema": plan.response.fingerprint,
        "finish": None,
        "request_id": None,
        "tags": call.tags,
        "attempts": 0,
        "usage": None,
        "origin": "provider" if found.is_pin else HUMAN,
        "source": PINNED if found.is_pin else HUMAN,
    }
    entry = Entry(
        key=call.key,
        answer=found.answer,
        written_at=now,
        fresh_until=FOREVER,
        stale_until=FOREVER,
        cost=UNKNOWN_COST if found.cost is None or not 0 <= found.cost <= MOST_COST else found.cost,
        latency_ms=max(found.latency_ms, 0),
        seen=view._replace(correction=found.row_id).seen_corrected,
        meta=json.dumps(meta, separators=(",", ":")).encode(),
    )
    return Corrected(entry, plan.provider.rest(plan.body, now), may_keep, str(uuid.uuid4()))
