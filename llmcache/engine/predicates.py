"""Which answers an invalidation is about: conditions that all hold, and the entries that they match."""

from __future__ import annotations

from typing import Final, NamedTuple


class Predicate(NamedTuple):
    """Conditions of one invalidation; None is no condition, and without any it is about everything."""

    key: str | None = None
    """In hex."""
    tenant: str | None = None
    subject: str | None = None
    """What stands for the subject, see ``Seal.subject_hash``."""
    response_type: str | None = None
    model: str | None = None
    """``provider/model``."""
    tag: str | None = None
    kind: str | None = None


EVERYTHING: Final = Predicate()


class Facts(NamedTuple):
    """What of a call an invalidation can name, but for its key: all of it is in the key."""

    tenant: str | None
    subjects: tuple[str, ...]
    """What stands for its subject, under each of the project's secrets."""
    response_type: str
    model: str
    tags: tuple[str, ...]
    kind: str


NO_FACTS: Final = Facts(None, (), "", "", (), "")


def matches(predicate: Predicate, key: str, facts: Facts) -> bool:
    """Return whether a predicate is about the answer of a call."""
    return (
        predicate.key in (None, key)
        and predicate.tenant in (None, facts.tenant)
        and (predicate.subject is None or predicate.subject in facts.subjects)
        and predicate.response_type in (None, facts.response_type)
        and predicate.model in (None, facts.model)
        and (predicate.tag is None or predicate.tag in facts.tags)
        and predicate.kind in (None, facts.kind)
    )
