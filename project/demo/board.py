"""The board: twelve lines of recipes whose answers age within two minutes, so that one can watch them do it.

Looking is ``llmcache.explain``, which asks nobody and counts nothing: a page that asks again every second must not make
hits of its own. The value is read with ``cache="only"``, and only where the answer is another than before.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from django.conf import settings
from django.core.cache import cache

import llmcache
from project.demo import answers
from project.demo.amounts import NOTHING, money
from project.demo.types import Ingredient

KIND: Final = "board"
_KEPT_SECONDS: Final = 600
"""How long is remembered what the board has shown: longer than its answers last."""
_SAME_SECONDS: Final = 1.0
"""Less than by which the moments differ at which two answers were made; one answer's own is told a little apart."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a recipe, and what it is invalidated by."""

    number: int
    text: str
    tags: tuple[str, ...]


_TEXTS: Final = (
    ("1 medium-size onion, peeled and chopped", "soup", "produce"),
    ("2 stalks celery, chopped coarse", "soup", "produce"),
    ("2 28-ounce cans crushed tomatoes", "soup", "pantry"),
    ("2 1/2 cups chicken stock", "soup", "pantry"),
    ("3/4 cup unsalted butter, at room temperature", "cake", "dairy"),
    ("2 1/4 cups whole milk", "cake", "dairy"),
    ("1 1/4 cups cake flour", "cake", "pantry", "gluten"),
    ("3 tablespoons slivered almonds", "cake", "pantry", "nuts"),
    ("2 medium-size cucumbers, peeled and seeded", "salad", "produce"),
    ("3 pints cherry tomatoes", "salad", "produce"),
    ("3/4 cup grated parmesan cheese", "salad", "dairy"),
    ("2/3 cup coarsely chopped pecans", "salad", "pantry", "nuts"),
)
LINES: Final = tuple(Line(number, text, tuple(tags)) for number, (text, *tags) in enumerate(_TEXTS, 1))
"""Texts of the log; ``project/data/README.md`` says where they come from. The tags are ours."""
TAGS: Final = tuple(
    (tag, sum(tag in line.tags for line in LINES))
    for tag in ("soup", "cake", "salad", "produce", "pantry", "dairy", "gluten", "nuts")
)
"""Each tag, and how many lines have it."""


_Bar = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a line is answered with at this moment."""

    line: Line
    state: str
    """``hit``, ``stale``, or why there is no answer."""
    told: str
    key: str
    fields: str | None
    """The value in a line; None where nobody is given one."""
    facts: answers.Facts
    bar: _Bar | None
    """Of the seconds that an answer may live: its age, and what is left of them fresh and stale."""


def ages() -> tuple[int, int]:
    """Return for how many seconds an answer of the board is fresh, and for how many more it is stale."""
    told = settings.LLMCACHE["KINDS"][KIND]
    return told["ttl"], told["stale_ttl"]


def look() -> list[Seen]:
    """Return what each line is answered with now. Asks nobody, and leaves no trace in the figures."""
    return [_seen(line, explain(line)) for line in LINES]


def explain(line: Line) -> llmcache.Explanation:
    """Return why a line is answered, or is not."""
    return llmcache.explain(line.text, Ingredient, kind=KIND, tags=line.tags)


# What is found by the verdict of an explanation, and in words.
_STATES: Final = {
    "hit": ("hit", "Nobody is asked."),
    "corrected": ("hit", "A human has answered."),
    "stale": ("stale", "Who asks gets it at once, and it is asked anew."),
    "invalidated": ("void", "Invalidated."),
    "expired": ("expired", "Its time is over."),
    "too_old": ("expired", "Its time is over."),
    "evicted": ("evicted", "No tier has it any more."),
    "never_asked": ("miss", "Nobody has asked yet."),
    "differs": ("miss", "Nobody has asked yet."),
    "not_stored": ("miss", "It was asked in vain."),
}


def _seen(line: Line, found: llmcache.Explanation) -> Seen:
    # What is rarer is told as it is printed.
    state, told = _STATES.get(found.verdict) or ("miss", str(found).partition("\n")[0])
    shown = _shown(line, found) if state in ("hit", "stale") else None
    told, last_asked = _voided(found) or told, ("last asked", _last_asked(found.key))
    if shown is None:
        return Seen(line, state, told, found.key, None, [last_asked], None)
    facts, bar = _facts(state, found, shown)
    return Seen(line, state, told, found.key, shown["fields"], [*facts, last_asked], bar)


def _facts(state: str, found: llmcache.Explanation, shown: dict[str, Any]) -> tuple[list[tuple[str, str]], _Bar | None]:
    age, left, bar = _age(found), NOTHING, None
    if age is not None:
        left, bar = _left(state, age, found.ttl_left_seconds)
    facts = [
        ("age", NOTHING if age is None else f"{age:.0f} s"),
        ("TTL left", left),
        ("tier", found.tier or "none yet"),
        ("made by", shown["origin"]),
        ("a hit saves", shown["saves"]),
    ]
    return facts, bar


def _left(state: str, age: float, fresh: float | None) -> tuple[str, _Bar | None]:
    ttl, stale_ttl = ages()
    if fresh is None:
        return "for ever", None
    if state == "hit":
        return f"{fresh:.0f} s", (round(age), round(fresh), stale_ttl)
    # Some of the TTL is taken off (JITTER), and no call tells how much: it is at most this.
    stale = round(max(ttl + stale_ttl - age, 0))
    return f"over, stale ≤ {stale} s", (round(age), 0, stale)


def _voided(found: llmcache.Explanation) -> str:
    by = found.invalidation
    if found.verdict != "invalidated" or by is None:
        return ""
    ago = (found.at - by.made_at).total_seconds()
    again = " Undone, it is given again." if by.comes_back else ""
    return f"By {by.made_by or 'somebody'}, {max(ago, 0):.0f} s ago.{again}"


def _shown(line: Line, found: llmcache.Explanation) -> dict[str, Any] | None:
    """Return what is shown of an answer; None where it has gone since it was looked for."""
    age = _age(found)
    made = None if age is None else found.at.timestamp() - age
    name = f"board-shown-{found.key}"
    known: dict[str, Any] | None = cache.get(name)
    if known is not None and made is not None and abs(known["made"] - made) < _SAME_SECONDS:
        return known
    try:
        info = _extract(line, cache="only")
    except llmcache.LLMCacheError:
        return None
    saves = info.cost_avoided_usd
    shown = {
        "made": made,
        "fields": answers.in_a_line(info.value),
        "origin": info.origin,
        "saves": NOTHING if saves is None else money(saves),
    }
    if made is not None:
        cache.set(name, shown, _KEPT_SECONDS)
    return shown


def _age(found: llmcache.Explanation) -> float | None:
    # What a human has just said lies in no tier before somebody asks; the age is that of what it stands for.
    return None if found.tier is None else found.age_seconds


def _extract(line: Line, **options: Any) -> llmcache.Extraction[Ingredient]:
    return llmcache.extract_with_info(line.text, Ingredient, kind=KIND, tags=line.tags, **options)


@dataclass(slots=True)
class Asked:
    """What came of asking."""

    outcomes: Counter[str]
    spent: Decimal
    avoided: Decimal
    errors: list[llmcache.LLMCacheError]


async def ask(lines: Iterable[Line], *, times: int = 1) -> Asked:
    """Ask for lines, all of them at the same time, and each so many times."""
    options = answers.options()
    wanted = [line for line in lines for _ in range(times)]
    calls = (
        llmcache.aextract_with_info(line.text, Ingredient, kind=KIND, tags=line.tags, **options) for line in wanted
    )
    came = await asyncio.gather(*calls, return_exceptions=True)
    asked, outcomes = Asked(Counter(), Decimal(0), Decimal(0), []), dict[str | None, list[str]]()
    for each in came:
        if isinstance(each, llmcache.Extraction):
            outcome = each.outcome
            asked.spent += each.cost_incurred_usd or 0
            asked.avoided += each.cost_avoided_usd or 0
        elif isinstance(each, llmcache.LLMCacheError):
            outcome = "error"
            asked.errors.append(each)
        else:
            raise each
        asked.outcomes[outcome] += 1
        outcomes.setdefault(each.key, []).append(outcome)
    # In the memory of this process, which is the only one that serves the demo.
    await cache.adelete_many([f"board-shown-{key}" for key in outcomes])
    now = time.time()
    told = {f"board-asked-{key}": (now, " + ".join(sorted(each, reverse=True))) for key, each in outcomes.items()}
    await cache.aset_many(told, _KEPT_SECONDS)
    return asked


def _last_asked(key: str) -> str:
    found: tuple[float, str] | None = cache.get(f"board-asked-{key}")
    return NOTHING if found is None else f"{found[1]}, {max(time.time() - found[0], 0):.0f} s ago"
