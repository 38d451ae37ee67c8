"""What a cassette's file says after a recording: what was there, in its order, and what is new."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence

from llmcache.testing.cassettes.interactions import Interaction


def appended(
    there: Sequence[Interaction], loaded: Sequence[Interaction], recorded: Sequence[Interaction]
) -> list[Interaction]:
    """Return what is there with what was recorded beyond what was ``loaded``.

    What another process has recorded meanwhile is not recorded twice.
    """
    more = Counter(each.identity for each in there)
    more.subtract(each.identity for each in loaded)
    made = list(there)
    for each in recorded:
        if more[each.identity] > 0:
            more[each.identity] -= 1
        else:
            made.append(each)
    return made


def replaced(
    there: Sequence[Interaction],
    loaded: Iterable[Interaction],
    recorded: Sequence[Interaction],
    *,
    drops: bool,
) -> list[Interaction]:
    """Return what is there with what was recorded anew in its place, and what nobody recorded before at the end.

    With ``drops`` what was ``loaded`` and is not among the recorded is left out. What says the same as before is left
    as it was, ids and times of the provider included: it makes no diff.
    """
    new: defaultdict[str, deque[Interaction]] = defaultdict(deque)
    for each in recorded:
        new[each.identity].append(each)
    known = {each.identity for each in loaded}
    made: list[Interaction] = []
    for old in there:
        if new[old.identity]:
            each = new[old.identity].popleft()
            made.append(old if old.is_like(each) else each)
        elif not drops or old.identity not in known:
            made.append(old)
    left = {id(each) for queue in new.values() for each in queue}
    return [*made, *(each for each in recorded if id(each) in left)]
