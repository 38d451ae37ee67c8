"""A call made again of what is kept of it: its entry, the request that lies beside it, and its row in the ledger.

The type comes from the settings, for rows are not trusted to name code. What the call was under (subject, version,
variant) is in the key alone, and some of it as a hash in the row: the key is taken from the entry. So all that can be
made again has to be equal to what was kept, or an answer to something else would be stored under this key.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from django.views.decorators.debug import sensitive_variables

from llmcache import keys
from llmcache.components import components_of
from llmcache.content.reading import of_kept
from llmcache.engine import departures
from llmcache.engine.call import Call
from llmcache.engine.ports import BlockingPort
from llmcache.engine.predicates import Facts
from llmcache.exceptions import ConfigurationError, InvalidRequest, ProviderCallsForbidden
from llmcache.kinds import NO_KIND, registered_type
from llmcache.models import MAX_NAME, CacheEntry, ProviderCall
from llmcache.refusals import refused
from llmcache.request import NOT_GIVEN, NotGiven

if TYPE_CHECKING:
    from llmcache.content.messages import Content
    from llmcache.engine.runtime import Runtime
    from llmcache.envelope import Entry


def facts_of(row: CacheEntry, entry: Entry) -> Facts:
    """Return what an invalidation can name of an entry; the tags are all there, of its row the first fifty."""
    tags: Any = entry.facts().get("tags")
    return Facts(
        row.tenant or None,
        (row.subject_hash,) if row.subject_hash else (),
        row.response_type,
        row.model,
        tuple(str(each) for each in tags) if isinstance(tags, list) else (),
        row.kind,
    )


@sensitive_variables()
def call_of(now: Runtime, row: CacheEntry, entry: Entry, kept: bytes | None) -> Call:
    """Return the call that asks again for what an entry answers; ``kept`` is the request beside it, as it was kept.

    Raises ``NotRewritten`` where it cannot be made, or must not leave.
    """
    call = remade(now, row, entry, kept)
    if not isinstance(call.content, str) and call.content.has_bytes:
        raise refused("files_not_kept", row.key)
    _require_leave(now, row, call)
    return replace(
        call,
        key=entry.key,
        facts=call.facts._replace(subjects=facts_of(row, entry).subjects),
        waits=False,
        ahead="refresh",
        older_keys=(),
    )


@sensitive_variables()
def remade(now: Runtime, row: CacheEntry, entry: Entry, kept: bytes | None) -> Call:
    """Return the call that the request kept beside an entry is of, under the key that it makes itself.

    That is the entry's own unless the call was under a subject, version or variant. Of images and files it has the
    digests alone, which is enough for a key, and not to be sent. Raises ``NotRewritten``.
    """
    # Here, for the admin is loaded in processes that never call.
    from llmcache.answering import checked

    annotation = _type_of(now, row)
    alias, _, model = row.model.partition("/")
    if alias not in now.settings.providers:
        raise refused("provider_gone", row.key)
    body, system, content = taken_apart(row, kept, model, now.settings.max_text_bytes)
    # What is that long may be cut.
    if len(row.tenant) >= MAX_NAME:
        raise refused("other_request", row.key)
    facts = facts_of(row, entry)
    told = {"system": system, "tenant": facts.tenant}
    options = {name: value for name, value in told.items() if value is not None}
    options |= {"model": row.model, "kind": row.kind, "tags": facts.tags, "cache": "refresh"}
    options |= {**_ttl(now, row, entry), **_stale_ttl(now, row, entry)}
    try:
        call = checked(now, content, annotation, options, body, needs_completion=False)
    except InvalidRequest:
        raise refused("other_request", row.key) from None
    if call.cache != "refresh" or not call.stores:
        raise refused("off", row.key)
    _require_equal(row, call, kept)
    return call


class RowPort(BlockingPort):
    """The port of a call that was made again: what of it only the row knows is told by the row."""

    def __init__(self, runtime: Runtime, row: CacheEntry) -> None:
        super().__init__(runtime)
        self._row = row

    def stored(self, call: Call, entry: Entry, beside: int) -> dict[str, Any]:
        told, row = super().stored(call, entry, beside), self._row
        return {**told, "subject": row.subject_hash or None, "parts": row.components or told.get("parts")}


def _type_of(now: Runtime, row: CacheEntry) -> Any:
    try:
        annotation = registered_type(now.settings, row.kind)
        if annotation is None:
            raise refused("type_not_registered", row.key)
        response = now.plans.response(annotation)
    except (ConfigurationError, InvalidRequest):
        raise refused("type_unusable", row.key) from None
    if response.name != row.response_type or response.fingerprint != row.schema:
        raise refused("schema_changed", row.key)
    return annotation


@sensitive_variables()
def taken_apart(
    row: CacheEntry, kept: bytes | None, model: str, most_text: int
) -> tuple[dict[str, Any], str | None, str | Content]:
    """Return the parameters, the system prompt and the content of a request that was kept."""
    try:
        body: Any = json.loads(kept or b"{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or not body:
        raise refused("request_not_kept", row.key)
    named = cast("dict[str, Any]", body)
    messages: Any = named.pop("messages", None)
    if named.pop("model", None) != model or not _is_list_of_dicts(messages):
        raise refused("other_request", row.key)
    system, turns = _system_of(row, messages)
    try:
        return named, system, of_kept(turns, most_text)
    except InvalidRequest:
        raise refused("other_request", row.key) from None


def _system_of(row: CacheEntry, messages: list[dict[str, Any]]) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the system prompt, apart from the messages of the content; these may begin with one of their own."""
    begins = messages[0] if messages else {}
    told: Any = row.components if isinstance(row.components, dict) else {}
    has_system = "system" in told if told else begins.get("role") == "system"
    if not has_system:
        return None, messages
    text = begins.get("content")
    if begins.get("role") != "system" or not isinstance(text, str):
        raise refused("other_request", row.key)
    return text, messages[1:]


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in cast("list[Any]", value))


@sensitive_variables()
def _require_equal(row: CacheEntry, call: Call, kept: bytes | None) -> None:
    made = keys.canonical_json(call.kept_request())
    if made != kept or call.plan.response.fingerprint != row.schema:
        raise refused("other_request", row.key)
    told: Any = row.components if isinstance(row.components, dict) else {}
    now = components_of(call, call.plan.seal)
    if told.get("by") == now.get("by"):
        if told.get("provider", now["provider"]) != now["provider"]:
            raise refused("provider_gone", row.key)
        if told.get("project", now["project"]) != now["project"]:
            raise refused("version_changed", row.key)
    # Nothing but the text is missing of a call that names no subject, version or variant: its key can be made again.
    is_whole = bool(told) and not row.subject_hash and "version" not in told and "variant" not in told
    if is_whole and call.key.hex() != row.key:
        raise refused("other_request", row.key)


def _require_leave(now: Runtime, row: CacheEntry, call: Call) -> None:
    try:
        departures.require_leave(call, now.settings)
    except ProviderCallsForbidden:
        raise refused("calls_forbidden", row.key) from None
    except ConfigurationError:
        raise refused("provider_unusable", row.key) from None


def _stale_ttl(now: Runtime, row: CacheEntry, entry: Entry) -> dict[str, Any]:
    """Return how long past its TTL the answer may be given; nothing where the kind's settings tell it."""
    if not isinstance(now.settings.kinds.get(row.kind, NO_KIND).stale_ttl, NotGiven):
        return {}
    length = entry.stale_until - entry.fresh_until
    return {"stale_ttl": length} if 0 < length < float("inf") else {}


def _ttl(now: Runtime, row: CacheEntry, entry: Entry) -> dict[str, Any]:
    """Return the TTL that the answer was asked for with; nothing where the kind's settings tell it."""
    if now.settings.kinds.get(row.kind, NO_KIND).ttl is not NOT_GIVEN:
        return {}
    if row.call_id is not None:
        made = ProviderCall.objects.using(now.settings.database).filter(call_id=row.call_id)
        found = made.values_list("ttl_seconds", flat=True).first()
        if found:
            return {"ttl": found}
    length = entry.fresh_until - entry.written_at
    return {"ttl": None if length == float("inf") else length} if length > 0 else {}
