"""How stale reads were, told from times of one clock that all processes of a machine share.

Each answer of the provider says when it was asked for, so that a value's age is known wherever it is served from. A
read is stale by an invalidation that concerns its text when the value was asked for before that was committed, and the
read began afterwards. By how much is the time from the commit to the beginning of the read; of several invalidations
that a value has not seen, the oldest counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

SECOND: Final = 1e9
TEXTS: Final = 12
GROUPS: Final = 3
TENANTS: Final = ("acme", "globex")


class Read(NamedTuple):
    """One call of a reader; times in nanoseconds."""

    began: int
    text: int
    """Its number."""
    asked: int
    """When the provider was asked for the value that came back."""


class Commit(NamedTuple):
    """One invalidation."""

    before: int
    """A moment just before it was committed: what was asked for earlier has not seen it."""
    after: int
    """The first moment after it: who begins to read later must not be served that."""
    texts: frozenset[int]
    """The numbers of those that it is about."""


@dataclass
class Staleness:
    """What reads came to."""

    reads: int = 0
    served: int = 0
    """Reads whose value was there before they began."""
    stale: int = 0
    worst: list[float] = field(default_factory=list[float])
    """Seconds for each invalidation: from its commit to the beginning of the last read that did not know it, or 0."""

    @property
    def most(self) -> float:
        """The most that any read was stale by, in seconds."""
        return max(self.worst, default=0.0)


def staleness(reads: Iterable[Read], commits: Iterable[Commit]) -> Staleness:
    """Return how stale the reads were by these invalidations."""
    ordered = sorted(commits)
    found = Staleness(worst=[0.0] * len(ordered))
    about = {text: [place for place, each in enumerate(ordered) if text in each.texts] for text in range(TEXTS)}
    begun = {text: [ordered[place].before for place in places] for text, places in about.items()}
    for read in reads:
        found.reads += 1
        found.served += read.asked < read.began
        # Those that were committed after the value was asked for.
        unseen = about[read.text][bisect_right(begun[read.text], read.asked) :]
        late = [(place, read.began - ordered[place].after) for place in unseen if ordered[place].after < read.began]
        found.stale += bool(late)
        for place, nanoseconds in late:
            found.worst[place] = max(found.worst[place], nanoseconds / SECOND)
    return found


# Which texts an invalidation is about, without asking the code that is measured.


def tags_of(text: int) -> list[str]:
    """Return the tags with which a text is asked for."""
    return [f"text-{text}", f"group-{text % GROUPS}"]


def tenant_of(text: int) -> str:
    """Return the tenant with which a text is asked for."""
    return TENANTS[text % len(TENANTS)]


def concerned(conditions: dict[str, object], keys: list[str]) -> frozenset[int]:
    """Return the texts that meet conditions; ``keys``: of each text."""

    def meets(text: int) -> bool:
        own: dict[str, list[str]] = {"key": [keys[text]], "tenant": [tenant_of(text)], "tag": tags_of(text)}
        # All else that is drawn is about every text: its kind, its type, its model, everything.
        return all(value in own.get(name, [value]) for name, value in conditions.items())

    return frozenset(filter(meets, range(TEXTS)))
