"""An explanation as plain sentences, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmcache.explaining.explanations import Difference, EntryFacts, Explanation, TierPlace
    from llmcache.schema_history.changes import Change

_NOUNS: Final = {
    "content": "text",
    "response_type": "response type",
    "system": "system prompt",
    "provider": "provider's address",
    "project": "VERSION in the settings",
}
_MOST_CHANGES: Final = 10
_WORDS: Final = 60
"""Characters of a value or a reason in a line."""
_KEY: Final = 12


def in_words(told: Explanation) -> str:
    """Return an explanation as lines for a terminal; the first one is the answer."""
    return "\n".join(_lines(told))


def _lines(told: Explanation) -> Iterator[str]:
    yield _answer(told)
    yield from _more(told)
    if told.differences and told.nearest is not None:
        yield ""
        yield f"From the nearest entry, {told.nearest.key[:_KEY]}, it differs in:"
        yield from _table(_difference(each) for each in told.differences)
    if told.nearest is not None and told.uncompared:
        nouns = ("parameters" if each == "param" else _noun(each) for each in told.uncompared)
        yield f"Not recorded there: {_listed(nouns)}."
    yield ""
    facts = [("key", told.key), ("asked as", _asked(told))]
    if told.entry is not None:
        facts.append(("entry", _entry(told, told.entry)))
    if told.nearest is not None:
        facts.append(("nearest", f"{_asked(told.nearest)}; {_entry(told, told.nearest)}"))
    facts += [(f"tier {_plain(each.tier)}", _place(each)) for each in told.places]
    yield from _table(facts)
    yield from told.untold


def _answer(told: Explanation) -> str:
    """Return the first line: what a call would come to, and why."""
    sentence = _SENTENCES[told.verdict](told) if told.verdict in _SENTENCES else _miss(told)
    word = {"hit": "Hit", "stale": "Stale", "corrected": "Corrected", "bypass": "Bypass", "refresh": "Refresh"}
    return f"{word.get(told.verdict, 'Miss')}: {sentence}"


def _hit(told: Explanation) -> str:
    left = _left(told.ttl_left_seconds)
    return f"the tier {_quoted(told.tier)} answers; the answer is {_span(told.age_seconds)} old and {left}."


def _stale(told: Explanation) -> str:
    old = _span(told.age_seconds)
    return f"the tier {_quoted(told.tier)} answers; the answer is {old} old, past its time, and is asked for anew."


def _corrected(told: Explanation) -> str:
    by = f" by {_plain(told.corrected_by)}" if told.corrected_by else ""
    return f"an answer that was put in place of the provider's{by} is given."


def _bypass(told: Explanation) -> str:
    why = {
        "block": "this is within llmcache.bypass(), so",
        "enabled": "LLMCACHE['ENABLED'] is False, so",
        "ttl": "ttl is 0, so",
    }
    so = why.get(told.bypassed_by or "", 'cache is "bypass", so')
    return f"{so} the provider is asked and nothing is kept."


def _refresh(_told: Explanation) -> str:
    return 'cache is "refresh", so the provider is asked whatever is there.'


def _unconfirmed(_told: Explanation) -> str:
    return "nobody can tell which entries were invalidated: the log of it cannot be read."


def _invalid(told: Explanation) -> str:
    return f"what lies in the tier {_quoted(told.tier)} does not pass the validation of {_plain(told.response_type)}."


def _invalidated(told: Explanation) -> str:
    void = told.invalidation
    if void is None:
        return "the answer there was a human's, and was withdrawn."
    by = f" by {_plain(void.made_by)}" if void.made_by else ""
    reason = f': "{_cut(void.reason)}"' if void.reason else ""
    return f"the answer was invalidated {_ago(told, void.made_at)}{by}{reason}."


def _expired(told: Explanation) -> str:
    when = "" if told.expired_at is None else f" {_ago(told, told.expired_at)}"
    return f"the answer expired{when}."


def _too_old(told: Explanation) -> str:
    most = "is older than the log of invalidations goes back"
    if told.max_age_seconds is not None and (told.age_seconds or 0) >= told.max_age_seconds:
        most = f"this caller takes none older than {_span(told.max_age_seconds)}"
    return f"the answer is {_span(told.age_seconds)} old, and {most}."


def _future(told: Explanation) -> str:
    return f"what lies in the tier {_quoted(told.tier)} is from a time that has not come yet: a clock was set back."


def _damaged(told: Explanation) -> str:
    return f"what lies in the tier {_quoted(told.tier)} is not whole, or is not this entry."


def _unreachable(told: Explanation) -> str:
    return f"the tier {_quoted(told.tier)} cannot be read now, and no other has the answer."


def _evicted(told: Explanation) -> str:
    stored = "" if told.entry is None else f" {_ago(told, told.entry.written_at)}"
    return f"the answer was stored{stored}, and no tier has it any more: it was evicted or flushed."


def _not_stored(told: Explanation) -> str:
    attempt = told.last_attempt
    if attempt is None:
        return "this was asked, and its answer was not kept."
    became = {
        "under_way": "the answer has not come yet",
        "rejected": "the answer did not pass validation",
        "in_doubt": "how that ended is not known",
        "answered": "the answer was not kept",
    }
    why = became.get(attempt.outcome, f"that failed ({_plain(attempt.error) or 'error'})")
    if not attempt.to_store:
        why = "that call was to keep nothing (cache='bypass', or a ttl of 0)"
    return f"this was asked {_ago(told, attempt.started_at)}, and {why}."


def _differs(told: Explanation) -> str:
    nouns = _nouns(each for each in told.differences if each.component != "content")
    if told.same_text and not nouns:
        return "this text was asked before, and nothing that was recorded of it differs."
    if told.same_text:
        return f"this text was asked before, but {_the(nouns)}."
    if not told.entries_of_kind:
        return f"there is no entry of the kind {_quoted(told.kind)}{_whose(told)}; another kind has one of this type."
    also = f" The nearest differs in the {_listed(nouns)}, too." if nouns else ""
    if "content" in told.uncompared:
        return f"whether this text was asked before was not recorded. {_others(told)}.{also}"
    texts = "another text" if told.entries_of_kind == 1 else "other texts"
    return f"this text was not asked before. {_others(told)}, with {texts}.{also}"


def _others(told: Explanation) -> str:
    of_kind = f"of the kind {_quoted(told.kind)}{_whose(told)}"
    if told.entries_of_kind_or_more:
        return f"There are {told.entries_of_kind} entries or more {of_kind}"
    if told.entries_of_kind == 1:
        return f"There is 1 entry {of_kind}"
    return f"There are {told.entries_of_kind} entries {of_kind}"


def _never_asked(told: Explanation) -> str:
    return f"there is no entry of the kind {_quoted(told.kind)}{_whose(told)}: this was never asked."


def _unknown(_told: Explanation) -> str:
    return "no tier has an answer. Whether there was one cannot be told."


def _miss(_told: Explanation) -> str:
    return "no tier has an answer."


_SENTENCES: Final = {
    "hit": _hit,
    "stale": _stale,
    "corrected": _corrected,
    "bypass": _bypass,
    "refresh": _refresh,
    "unconfirmed": _unconfirmed,
    "invalid": _invalid,
    "invalidated": _invalidated,
    "expired": _expired,
    "too_old": _too_old,
    "future": _future,
    "damaged": _damaged,
    "unreachable": _unreachable,
    "evicted": _evicted,
    "not_stored": _not_stored,
    "differs": _differs,
    "never_asked": _never_asked,
    "unknown": _unknown,
}


def _more(told: Explanation) -> Iterator[str]:
    """Yield what can be done about it, and what is true beside it."""
    void = told.invalidation
    if void is not None and told.verdict == "invalidated":
        if void.comes_back:
            yield f"Undone, it is served again: llmcache.undo({void.id!r})."
        else:
            yield "Undoing that one would not bring it back: it is gone, or void for another reason too."
    elif void is not None:
        yield "It is void, too."
    if told.verdict == "evicted" and not told.is_shared:
        yield "Not all tiers are shared by every process: another one may still have it."
    if told.verdict in ("bypass", "refresh") and any(place.found == "fresh" for place in told.places):
        yield "A call that uses the cache would be a hit."


def _difference(each: Difference) -> tuple[str, str]:
    noun = _noun(each.component, each.name)
    if each.component == "schema":
        return noun, _schema(each)
    if each.ours is not None or each.theirs is not None:
        ours, theirs = (_cut(value) if value else "none" for value in (each.ours, each.theirs))
        return noun, f"{ours} here{';' if ',' in ours + theirs else ','} {theirs} there"
    return noun, {"other": "another one there", "only_ours": "only here", "only_theirs": "only there"}[each.how]


def _schema(each: Difference) -> str:
    if not each.changes:
        return "another one there"
    shown = [_change(change) for change in each.changes[:_MOST_CHANGES]]
    more = len(each.changes) - _MOST_CHANGES
    return "\n      ".join(["from there to here:", *shown, *([f"and {more} more"] if more > 0 else [])])


def _change(change: Change) -> str:
    path, before, after = _plain(change["path"] or "(the whole)"), change["before"], change["after"]
    if before is None or after is None:
        return f"{change['change']} {path}: {_cut(after or before or '')}"
    return f"{change['change']} {path}: {_cut(before)} → {_cut(after)}"


def _noun(component: str, name: str = "") -> str:
    if component == "param":
        return f"parameter {_plain(name)}" if name else "other parameters"
    return _NOUNS.get(component, component)


def _nouns(differences: Iterable[Difference]) -> list[str]:
    """Return what differs as nouns, all parameters with a name as one."""
    nouns, names = list[str](), list[str]()
    for each in differences:
        if each.component != "param" or not each.name:
            nouns.append(_noun(each.component))
            continue
        names.append(_plain(each.name))
        if len(names) == 1:
            nouns.append("")
    named = ", ".join(names) if len(nouns) > 1 else _listed(names or [""])
    told = f"parameter{'s' if len(names) > 1 else ''} {named}"
    return [noun or told for noun in nouns]


def _the(nouns: list[str]) -> str:
    several = len(nouns) > 1 or nouns[0] in ("tags", "other parameters") or nouns[0].startswith("parameters ")
    return f"the {_listed(nouns)} {'differ' if several else 'differs'}"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _whose(told: Explanation) -> str:
    return "" if told.tenant is None else " for this tenant"


def _asked(facts: Explanation | EntryFacts) -> str:
    kind, made = _plain(facts.kind), _plain(facts.response_type)
    tenant = f", tenant {_plain(facts.tenant)}" if facts.tenant else ""
    return f"{made}{'' if kind == made else f' of the kind {kind}'} by {_plain(facts.model)}{tenant}"


def _entry(told: Explanation, entry: EntryFacts) -> str:
    hits = f"{entry.hits} hit{'' if entry.hits == 1 else 's'}"
    if entry.expires_at is None:
        until = "does not expire"
    elif entry.expires_at <= told.at:
        until = f"expired {_ago(told, entry.expires_at)}"
    else:
        until = f"expires in {_span((entry.expires_at - told.at).total_seconds())}"
    return f"written {_ago(told, entry.written_at)}, {until}, {hits}"


def _place(place: TierPlace) -> str:
    words = {"absent": "not there", "too_old": "too old", "unreachable": "cannot be read", "future": "from the future"}
    word = words.get(place.found, place.found)
    if place.age_seconds is None:
        return word
    left = "" if place.found != "fresh" else f", {_left(place.ttl_left_seconds)}"
    return f"{word}, {_span(place.age_seconds)} old{left}"


def _left(seconds: float | None) -> str:
    return "does not expire" if seconds is None else f"good for {_span(seconds)}"


def _table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    found = [*rows]
    width = max(len(name) for name, _ in found)
    yield from (f"  {name:<{width}}  {value}" for name, value in found)


def _ago(told: Explanation, at: datetime) -> str:
    return f"{_span((told.at - at).total_seconds())} ago"


_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def _span(seconds: float | None) -> str:
    """Return a span of time in its two largest units."""
    if seconds is None or math.isinf(seconds):
        return "any time"
    left, parts = max(round(seconds), 0), list[str]()
    for size, unit in _UNITS:
        number, left = divmod(left, size)
        if number or parts:
            parts += [f"{number} {unit}"] if number else [""]
        if len(parts) == 2:
            break
    return " ".join(filter(None, parts)) or "0 s"


def _quoted(word: str | None) -> str:
    return f'"{_plain(word or "")}"'


def _cut(text: str) -> str:
    shown = _plain(text)
    return shown if len(shown) <= _WORDS else f"{shown[: _WORDS - 1]}…"


def _plain(text: str | None) -> str:
    """Return a word as a terminal may show it: it must not move the cursor."""
    return "".join(each if each.isprintable() else "�" for each in text or "")
