"""Rows of schema versions: one for each form of a response type, with what has changed since the one before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llmcache.engine.schemas import Seen
from llmcache.models import MAX_NAME, SchemaVersion
from llmcache.money.facts import cut, time_of
from llmcache.schema_history.changes import changes


def write_seen(seen: Sequence[Seen], *, using: str) -> None:
    """Bring forms that calls were made with into the table. Raises the database's errors."""
    rows = SchemaVersion.objects.using(using)
    for form in seen:
        try:
            first, at = time_of(form.first), time_of(form.last)
        except ValueError:
            # By a clock that is far off, of which no row can tell.
            continue
        name = cut(form.response_type, MAX_NAME)
        mine = rows.filter(response_type=name, fingerprint=form.fingerprint)
        if mine.filter(last_seen_at__gte=at).exists() or mine.update(last_seen_at=at):
            continue
        before = rows.filter(response_type=name).order_by("-first_seen_at", "-pk").first()
        made = SchemaVersion(
            response_type=name,
            fingerprint=form.fingerprint,
            schema=form.schema.replace("\0", "\ufffd"),
            first_seen_at=first,
            last_seen_at=at,
            # Not the row itself: the project's routers may say that both lie elsewhere, and not together.
            previous_id=None if before is None else before.pk,
            changes=[] if before is None else [*changes(loaded(before.schema), loaded(form.schema))],
        )
        # Another process may have written the same form meanwhile.
        rows.bulk_create([made], ignore_conflicts=True)


def loaded(schema: str) -> Any:
    """Return a row's schema as an object; an empty one where it cannot be read."""
    try:
        return json.loads(schema)
    except (ValueError, RecursionError):
        return {}
