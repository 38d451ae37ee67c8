"""What is done to entries from the admin, to one after the other, and how what became of it is told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from django.contrib import messages
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

import llmcache
from llmcache import rewriting
from llmcache.admin_pages import columns, contents
from llmcache.admin_pages.action_forms import ActionForm, ReasonForm, TimeForm
from llmcache.admin_pages.columns import number
from llmcache.engine import process
from llmcache.exceptions import LLMCacheError, NotRewritten
from llmcache.models import CacheEntry
from llmcache.refusals import REASONS, refused

REFRESH_SECONDS: Final = 20.0
"""After which no further entry is asked for: who has pressed the button, and a server before it, waits no longer."""
_REASONS_SHOWN: Final = 5


def _require_ours(entry: CacheEntry) -> None:
    if entry.namespace != process.current().namespace or contents.key_of(entry) is None:
        raise refused("other_namespace", entry.key)


def _invalidate(entry: CacheEntry, form: Any, user: str) -> Decimal:
    _require_ours(entry)
    llmcache.invalidate(key=entry.key, reason=form.cleaned_data["reason"], user=user)
    return Decimal(0)


def _refresh(entry: CacheEntry, form: Any, user: str) -> Decimal | None:  # noqa: ARG001
    _require_ours(entry)
    return rewriting.refresh(entry.key, user=user).cost_usd


def _retime(entry: CacheEntry, form: Any, user: str) -> Decimal:
    _require_ours(entry)
    rewriting.retime(entry.key, form.seconds, user=user)
    return Decimal(0)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that can be done."""

    permission: str
    most: int
    """Entries at a time."""
    title: Any
    about: Any
    """What it does."""
    button: Any
    history: Any
    """What is written into an entry's history."""
    done: Any
    """What is told of so many entries."""
    form: type[ActionForm]
    work: Callable[[CacheEntry, Any, str], Decimal | None]
    """Does it with one entry, and returns what that has cost; None when it is not known."""
    seconds: float = float("inf")
    """After which no further one is begun."""


ACTIONS: Final = {
    "invalidate": Action(
        permission="llmcache.add_invalidation",
        most=100,
        title=gettext_lazy("Invalidate entries"),
        about=gettext_lazy(
            "Who asks from now on gets a new answer. Nothing is deleted, and each of them can be undone in the log."
        ),
        button=gettext_lazy("Invalidate"),
        history=gettext_lazy("Invalidated."),
        done=gettext_lazy("Invalidated: %(count)s."),
        form=ReasonForm,
        work=_invalidate,
    ),
    "refresh": Action(
        permission="llmcache.refresh_cacheentry",
        most=50,
        title=gettext_lazy("Refresh entries"),
        about=gettext_lazy(
            "The provider is asked anew for each, and that costs money. The old answer is served until the new one is "
            "there, and stays where the provider fails."
        ),
        button=gettext_lazy("Refresh"),
        history=gettext_lazy("Refreshed."),
        done=gettext_lazy("Refreshed: %(count)s."),
        form=ActionForm,
        work=_refresh,
        seconds=REFRESH_SECONDS,
    ),
    "retime": Action(
        permission="llmcache.retime_cacheentry",
        most=100,
        title=gettext_lazy("Set the TTL of entries"),
        about=gettext_lazy(
            "They are fresh for that long from now on, be it less or more than it was. Who asks takes no answer that "
            "is older than its own TTL, whatever is set here."
        ),
        button=gettext_lazy("Set the TTL"),
        history=gettext_lazy("Got another TTL."),
        done=gettext_lazy("Got another TTL: %(count)s."),
        form=TimeForm,
        work=_retime,
    ),
}


@dataclass(slots=True)
class Outcome:
    """What has become of the entries that something was to be done with."""

    done: int = 0
    refused: Counter[str] = field(default_factory=Counter[str])
    """By what was in the way, in words."""
    cost: Decimal | None = Decimal(0)
    """None when it is not known of each."""

    def add(self, cost: Decimal | None, *, done: bool = True) -> None:
        """Count one, with what it has cost."""
        self.done += done
        self.cost = None if cost is None or self.cost is None else self.cost + cost

    @property
    def level(self) -> int:
        """How it is to be told."""
        if not self.refused:
            return messages.SUCCESS
        return messages.WARNING if self.done else messages.ERROR

    def told(self, action: Action) -> str:
        """Return it in words."""
        parts = [str(action.done) % {"count": number(self.done)}] if self.done else []
        if self.cost is None:
            parts.append(_("What that cost is not known."))
        elif self.cost:
            parts.append(_("Cost: %(money)s.") % {"money": columns.exact_money(self.cost)})
        if self.refused:
            why = "; ".join(f"{words} ({number(count)})" for words, count in self.refused.most_common(_REASONS_SHOWN))
            parts.append(_("Not done: %(count)s: %(why)s.") % {"count": number(self.refused.total()), "why": why})
        return " ".join(parts)


def carry_out(
    action: Action, entries: Sequence[CacheEntry], form: Any, user: str, outcome: Outcome
) -> Iterator[CacheEntry]:
    """Do it with each, and yield those with which it was done. What cannot be done with one stops no other."""
    until = time.monotonic() + action.seconds
    for place, entry in enumerate(entries):
        if time.monotonic() > until:
            outcome.refused[_("not begun, for it has taken too long")] += len(entries) - place
            return
        try:
            outcome.add(action.work(entry, form, user))
        except NotRewritten as error:
            outcome.refused[_in_words(error)] += 1
        except LLMCacheError as error:
            outcome.add(error.cost_usd, done=False)
            outcome.refused[_("it failed (%(code)s)") % {"code": error.code}] += 1
        else:
            yield entry


def _in_words(error: NotRewritten) -> str:
    words = str(REASONS.get(error.reason, error.message)).rstrip(".")
    return words[:1].lower() + words[1:]
