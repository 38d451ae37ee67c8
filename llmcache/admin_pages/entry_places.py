"""Where an entry lies now, as a page tells it: what each tier holds of it, in words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages import columns
from llmcache.admin_pages.columns import known
from llmcache.admin_pages.whereabouts import Whereabouts
from llmcache.engine.log_copy import View
from llmcache.envelope import Entry
from llmcache.models import CacheEntry
from llmcache.money.facts import unix_of

_SAME_TIME: Final = 0.001
"""Seconds; a database cuts a time to millionths."""

_FOUND: Final = {
    "fresh": (gettext_lazy("fresh"), "good", ""),
    "stale": (gettext_lazy("stale"), "warning", gettext_lazy("Past its time: given while it is asked for anew.")),
    "expired": (gettext_lazy("expired"), "quiet", gettext_lazy("Past its time: it is not served.")),
    "absent": (
        gettext_lazy("not there"),
        "quiet",
        gettext_lazy("Never written here, evicted, or removed when its time was over."),
    ),
    "damaged": (
        gettext_lazy("damaged"),
        "bad",
        gettext_lazy("What lies there is not this entry, or not whole: a call takes it for a miss."),
    ),
    "down": (gettext_lazy("cannot be read"), "bad", ""),
    "late": (gettext_lazy("no answer in time"), "bad", gettext_lazy("The tier did not answer in time.")),
}
_VOID: Final = (gettext_lazy("invalidated"), "warning", gettext_lazy("A call takes it for a miss."))
_SHARED: Final = {
    "process": gettext_lazy("this process"),
    "machine": gettext_lazy("this machine"),
    "network": gettext_lazy("every machine"),
    "unknown": gettext_lazy("not known"),
}


def is_of_row(held: Entry, row: CacheEntry) -> bool:
    """Return whether what a tier holds is the writing that the row tells of."""
    return abs(held.written_at - unix_of(row.written_at)) <= _SAME_TIME


def told(place: Whereabouts, entry: CacheEntry, view: View) -> dict[str, Any]:
    """Return what one tier holds of an entry, as a row of a page."""
    is_void = place.found in ("fresh", "stale") and place.entry is not None and not view.admits(place.entry.seen)
    word, tone, note = _VOID if is_void else _FOUND[place.found]
    state = place.state
    if place.found == "down":
        note = _("The last read failed: %(error)s.") % {"error": known(state.error)}
    elif place.entry is not None and not is_of_row(place.entry, entry):
        note = _("Another writing of this entry than the row tells of.")
    return {
        "tier": state.name,
        "backend": state.backend,
        "shared": _SHARED[state.shared],
        "badge": columns.badge(str(word), tone),
        "ttl_left": _left(place),
        "note": note,
    }


def _left(place: Whereabouts) -> str:
    if place.entry is None:
        return known("")
    return _("never expires") if place.ttl_left is None else columns.span(timedelta(seconds=place.ttl_left))
