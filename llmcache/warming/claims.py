"""Claims: which worker has which items of a run, until when; and what became of them.

Each step is one statement that says what it expects to find, so that workers may die and come back between any two.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import connections, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from llmcache.models import CacheEntry, WarmingItem, WarmingRun

if TYPE_CHECKING:
    from django.db.models import QuerySet

SECONDS = 15.0
"""How long a claim lasts without a sign of life."""
MOST_TRIES: Final = 5
"""How often an item is claimed by workers that do not come back."""

State = WarmingItem.State


@dataclass(frozen=True, slots=True)
class Claimed:
    """An item that this worker has."""

    pk: int
    key: str
    text: str = field(repr=False)
    tries: int
    hits: int
    """Of its entry, so far."""
    saved_pico_usd: int


class Done(NamedTuple):
    """What became of an item; equal ones are written together."""

    state: str
    calls: int
    error: str = ""
    hits_before: int = 0
    saved_before_pico_usd: int = 0


def moment(using: str) -> Any:
    """Return the time that claims are compared by: the database's, where machines share it."""
    return timezone.now() if connections[using].vendor == "sqlite" else Now()


class Claims:
    """The claims of one worker at one run."""

    def __init__(self, run: WarmingRun, using: str) -> None:
        self._token = uuid.uuid4().hex
        self._run = run
        self._using = using

    def take(self, count: int) -> list[Claimed]:
        """Claim at most so many items: those that wait, and where none does, those of workers that are gone."""
        items = self._items()
        found = self._claim(items.filter(state=State.WAITING), count) if count > 0 else []
        if found or count <= 0:
            return found
        lost = items.filter(state=State.CLAIMED, claimed_until__lt=moment(self._using))
        lost.filter(tries__gte=MOST_TRIES).update(
            **self._ended(State.FAILED), error="abandoned", done_at=moment(self._using)
        )
        return self._claim(lost, count)

    def _claim(self, free: QuerySet[WarmingItem], count: int) -> list[Claimed]:
        chosen = free.order_by("pk")[:count]
        mine = {
            "state": State.CLAIMED,
            "claim": self._token,
            "claimed_until": self._until(),
            "tries": F("tries") + 1,
        }
        if connections[self._using].features.has_select_for_update_skip_locked:
            with transaction.atomic(using=self._using):
                # Not those that another worker is about to claim.
                pks = list(chosen.select_for_update(skip_locked=True).values_list("pk", flat=True))
                self._items().filter(pk__in=pks).update(**mine)
        else:
            pks = list(chosen.values_list("pk", flat=True))
            free.filter(pk__in=pks).update(**mine)
        if not pks:
            return []
        rows = list(self._mine().filter(pk__in=pks).order_by("pk").values_list("pk", "key", "text", "tries"))
        entries = CacheEntry.objects.using(self._using).filter(
            namespace=self._run.namespace, key__in=[key for _, key, _, _ in rows]
        )
        used = {key: (hits, saved) for key, hits, saved in entries.values_list("key", "hits", "saved_pico_usd")}
        return [Claimed(pk, key, text, tries, *used.get(key, (0, 0))) for pk, key, text, tries in rows]

    def renew(self, pks: Iterable[int]) -> None:
        """Let items stay this worker's for some time more: those that it knows of, for an answer may have been lost."""
        self._mine().filter(pk__in=list(pks)).update(claimed_until=self._until())

    def give_back(self, pks: Iterable[int], *, untried: bool = True) -> None:
        """Let others have items that are not done; ``untried``: nobody has been asked."""
        tries = {"tries": F("tries") - 1} if untried else {}
        self._mine().filter(pk__in=list(pks)).update(state=State.WAITING, claim="", claimed_until=None, **tries)

    def finish(self, done: Iterable[tuple[int, Done]]) -> None:
        """Write what became of items, and empty their texts; not of those that another worker has by now."""
        together: defaultdict[Done, list[int]] = defaultdict(list)
        for pk, each in done:
            together[each].append(pk)
        for each, pks in together.items():
            self._mine().filter(pk__in=pks).update(
                **self._ended(each.state),
                calls=F("calls") + each.calls,
                error=each.error,
                hits_before=each.hits_before,
                saved_before_pico_usd=each.saved_before_pico_usd,
                done_at=moment(self._using),
            )

    def note_key(self, pk: int, key: str) -> None:
        """Write that an item was asked under another key than when it was prepared."""
        self._mine().filter(pk=pk).update(key=key)

    def are_left(self) -> bool:
        """Return whether an item is not done, whoever has it."""
        return self._items().filter(state__in=(State.WAITING, State.CLAIMED)).exists()

    def have_others(self) -> bool:
        """Return whether another worker has items."""
        return self._items().filter(state=State.CLAIMED).exclude(claim=self._token).exists()

    def _items(self) -> QuerySet[WarmingItem]:
        return WarmingItem.objects.using(self._using).filter(run_id=self._run.pk)

    def _mine(self) -> QuerySet[WarmingItem]:
        return self._items().filter(state=State.CLAIMED, claim=self._token)

    def _until(self) -> Any:
        return moment(self._using) + timedelta(seconds=SECONDS)

    def _ended(self, state: str) -> dict[str, Any]:
        return {"state": state, "text": "", "claim": "", "claimed_until": None}
