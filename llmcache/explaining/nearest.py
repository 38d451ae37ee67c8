"""Which stored entry a request is nearest to, and what it differs in: told from rows, without any text.

At most ``MOST_LOOKED_AT`` rows are looked at, found by an index: those with the same text, else the newest of the kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from llmcache.components import MAX_TAGS, components_of, content_hash
from llmcache.explaining.explanations import COMPONENTS, Difference, How
from llmcache.models import MAX_KIND, MAX_NAME, CacheEntry, ProviderCall, SchemaVersion
from llmcache.money.facts import cut
from llmcache.schema_history.changes import Change, changes
from llmcache.schema_history.versions import loaded

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.sealing import Seal

MOST_LOOKED_AT: Final = 200
MOST_OTHERS: Final = 4


@dataclass(frozen=True, slots=True)
class Side:
    """One request, as far as it can be compared."""

    key: str
    kind: str
    model: str
    response_type: str
    schema: str
    tenant: str
    tags: tuple[str, ...]
    subjects: frozenset[str]
    """What stands for its subject, by each secret that is known."""
    contents: frozenset[str]
    """What stands for its text; empty where that was not recorded."""
    components: Mapping[str | None, Mapping[str, Any]]
    """The other hashes, by the id of the secret they are made with; empty where they were not recorded."""
    is_partial: bool = False
    """Whether its tags and its subject are not known either: of a call that has no entry."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two requests differ in, as far as it is known."""

    row: CacheEntry
    differences: tuple[Difference, ...]
    unknown: tuple[str, ...]
    """Components that cannot be compared: not recorded, or hashed with a secret that is gone."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The entries that a request was compared with."""

    nearest: Comparison | None
    others: tuple[Comparison, ...] = ()
    """The next ones, at most ``MOST_OTHERS``."""
    is_same_content: bool = False
    """Whether the nearest one has the same text."""
    of_kind: int = 0
    """How many entries of the kind have other texts, among those looked at; 0 where one has the same."""
    is_more: bool = False
    """Whether there may be more of the kind than were looked at."""


def side_of_call(call: Call, seals: Sequence[Seal]) -> Side:
    """Return a call as rows are compared with it."""
    plan = call.plan
    return Side(
        key=call.key.hex(),
        kind=cut(plan.kind, MAX_KIND),
        model=cut(plan.model, MAX_NAME),
        response_type=cut(plan.response.name, MAX_NAME),
        schema=plan.response.fingerprint,
        tenant=cut(call.tenant or "", MAX_NAME),
        tags=tuple(cut(tag, MAX_NAME) for tag in call.tags[:MAX_TAGS]),
        subjects=frozenset(call.facts.subjects),
        contents=frozenset(content_hash(call.content, seal) for seal in seals),
        components={seal.id: components_of(call, seal) for seal in seals},
    )


def side_of_row(row: CacheEntry) -> Side:
    """Return an entry's row as others are compared with it."""
    # JSON in a database can be written by others.
    found: Any = row.components if isinstance(row.components, dict) else {}
    tags: Any = row.tags if isinstance(row.tags, list) else []
    return Side(
        key=row.key,
        kind=row.kind,
        model=row.model,
        response_type=row.response_type,
        schema=row.schema,
        tenant=row.tenant,
        tags=tuple(tag for tag in tags if isinstance(tag, str)),
        subjects=frozenset((row.subject_hash,) if row.subject_hash else ()),
        contents=frozenset((row.content_hash,) if row.content_hash else ()),
        components={_secret_of(found): found} if "provider" in found else {},
    )


def side_of_attempt(call: ProviderCall) -> Side:
    """Return a provider call's row as entries are compared with it: little of it is recorded."""
    return Side(
        key=call.key,
        kind=call.kind,
        model=call.model,
        response_type=call.response_type,
        schema=call.schema,
        tenant=call.tenant,
        tags=(),
        subjects=frozenset(),
        contents=frozenset(),
        components={},
        is_partial=True,
    )


def _secret_of(components: Mapping[str, Any]) -> str | None:
    by: Any = components.get("by")
    return by if isinstance(by, str) else None


def compare(ours: Side, row: CacheEntry) -> Comparison:
    """Return what an entry differs in from a request."""
    theirs = side_of_row(row)
    shared = [by for by in theirs.components if by in ours.components]
    if not shared:
        plain = tuple(_plain(ours, theirs, {}, {}))
        hashed = ("system", "param", "provider", "version", "variant", "project")
        unknown = hashed if ours.contents and theirs.contents else ("content", *hashed)
        return Comparison(row, _told(plain), (*unknown, "subject", "tags") if ours.is_partial else unknown)
    mine, other = ours.components[shared[0]], theirs.components[shared[0]]
    found = (*_plain(ours, theirs, _part(mine, "cut"), _part(other, "cut")), *_hashed(mine, other))
    unknown = () if ours.contents and theirs.contents else ("content",)
    return Comparison(row, _told(found), unknown)


def _plain(ours: Side, theirs: Side, mine: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the differences of plain columns, and of what has a hash because a column does not tell it whole."""
    if ours.contents and theirs.contents and ours.contents.isdisjoint(theirs.contents):
        yield Difference("content")
    for name in ("response_type", "kind", "model", "schema", "tenant"):
        one, two = str(getattr(ours, name)), str(getattr(theirs, name))
        if one != two or mine.get(name) != other.get(name):
            yield Difference(name, _how(one, two), ours=one or None, theirs=two or None)
    if ours.is_partial:
        return
    if ours.subjects != theirs.subjects and ours.subjects.isdisjoint(theirs.subjects):
        yield Difference("subject", _how(ours.subjects, theirs.subjects))
    if set(ours.tags) != set(theirs.tags) or mine.get("tags") != other.get("tags"):
        one, two = (", ".join(sorted(tags)) for tags in (ours.tags, theirs.tags))
        yield Difference("tags", _how(one, two), ours=one or None, theirs=two or None)


def _hashed(mine: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    for name in ("system", "provider", "version", "variant", "project"):
        if mine.get(name) != other.get(name):
            yield Difference(name, _how(mine.get(name), other.get(name)))
    ours, theirs = _part(mine, "params"), _part(other, "params")
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield Difference("param", _how(ours.get(name), theirs.get(name)), name)
    if mine.get("others") != other.get("others"):
        yield Difference("param", _how(mine.get("others"), other.get("others")))


def _part(components: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part: Any = components.get(name)
    return part if isinstance(part, dict) else {}


def _how(ours: object, theirs: object) -> How:
    return "other" if ours and theirs else "only_ours" if ours else "only_theirs"


def _told(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """Return differences in their order, without those that follow from another of them."""
    by_name = {each.component: each for each in found if each.component != "param"}
    follows = set[str]()
    other_type = by_name.get("response_type")
    if other_type is not None:
        follows.add("schema")
        kind = by_name.get("kind")
        if kind is not None and (kind.ours, kind.theirs) == (other_type.ours, other_type.theirs):
            follows.add("kind")
    model = by_name.get("model")
    if model is not None and _alias(model.ours) != _alias(model.theirs):
        follows.add("provider")
    return tuple(sorted((each for each in found if each.component not in follows), key=_place))


def _alias(model: str | None) -> str:
    return (model or "").partition("/")[0]


def _place(difference: Difference) -> int:
    return COMPONENTS.index(difference.component)


def find(ours: Side, using: str, namespace: str, *, all_tenants: bool, schema: Any = None) -> Neighbours:
    """Return the entry that is nearest to a request: the fewest differences, then the newest.

    Without ``all_tenants`` only entries of the request's own tenant are looked at. ``schema``: the request's own, where
    it is at hand; else it is looked up. Costs at most four statements. Raises the database's errors.
    """
    rows = CacheEntry.objects.using(using)
    if not all_tenants:
        rows = rows.filter(tenant=ours.tenant)
    found = _same_content(ours, rows, namespace, all_tenants)
    if found:
        return Neighbours(_with_schema(found[0], ours, schema, using), tuple(found[1:]), is_same_content=True)
    # By one column and its order: with more conditions, millions of rows may be looked through for a few.
    newest = rows.order_by("-written_at", "-pk")
    looked_at = [*(newest.filter(kind=ours.kind) if all_tenants else newest)[:MOST_LOOKED_AT]]
    of_kind = [row for row in looked_at if row.kind == ours.kind and _is_comparable(ours, row, namespace, all_tenants)]
    if of_kind:
        nearest, *others = _ranked(ours, of_kind)
        nearest = _with_schema(nearest, ours, schema, using)
        is_more = len(looked_at) == MOST_LOOKED_AT
        return Neighbours(nearest, tuple(others), of_kind=len(of_kind), is_more=is_more)
    if all_tenants:
        looked_at = [*newest.filter(schema=ours.schema)[:MOST_LOOKED_AT]]
    of_type = [row for row in looked_at if row.schema == ours.schema]
    found = _ranked(ours, [row for row in of_type if _is_comparable(ours, row, namespace, all_tenants)])
    return Neighbours(found[0] if found else None, tuple(found[1:]))


def _same_content(ours: Side, rows: Any, namespace: str, all_tenants: bool) -> list[Comparison]:
    if not ours.contents:
        return []
    # Said like this, SQLite sees that its index holds them.
    same = rows.filter(namespace=namespace, content_hash__in=sorted(ours.contents)).exclude(content_hash="")
    looked_at = same.order_by()[:MOST_LOOKED_AT]
    return _ranked(ours, [row for row in looked_at if _is_comparable(ours, row, namespace, all_tenants)])


def _ranked(ours: Side, rows: Sequence[CacheEntry]) -> list[Comparison]:
    return sorted((compare(ours, row) for row in rows), key=_distance)[: 1 + MOST_OTHERS]


def _distance(each: Comparison) -> tuple[int, float, int]:
    return len(each.differences) + len(each.unknown), -each.row.written_at.timestamp(), -each.row.pk


def _is_comparable(ours: Side, row: CacheEntry, namespace: str, all_tenants: bool) -> bool:
    if row.namespace != namespace or row.key == ours.key:
        return False
    return all_tenants or _is_same_tenant(ours, row)


def _is_same_tenant(ours: Side, row: CacheEntry) -> bool:
    """Return whether a row is certainly of the request's own tenant: a column may not tell a name whole."""
    if row.tenant != ours.tenant:
        return False
    theirs = side_of_row(row).components
    for by, mine in ours.components.items():
        if by in theirs:
            return _part(mine, "cut").get("tenant") == _part(theirs[by], "cut").get("tenant")
    # Not told: a name that could be a cut one may be another's.
    return len(ours.tenant) < MAX_NAME and "\ufffd" not in ours.tenant


def _with_schema(found: Comparison, ours: Side, schema: Any, using: str) -> Comparison:
    """Return a comparison with what has changed between the two schemas, as far as rows tell."""
    if not any(each.component == "schema" for each in found.differences):
        return found
    told = _changes(ours, found.row.schema, schema, using)
    mended = (replace(each, changes=told) if each.component == "schema" else each for each in found.differences)
    return replace(found, differences=tuple(mended))


def _changes(ours: Side, before: str, schema: Any, using: str) -> tuple[Change, ...]:
    prints = [before] if schema is not None else [before, ours.schema]
    rows = SchemaVersion.objects.using(using).filter(response_type=ours.response_type, fingerprint__in=prints)
    schemas = {row.fingerprint: loaded(row.schema) for row in rows}
    after = schemas.get(ours.schema) if schema is None else schema
    return tuple(changes(schemas[before], after)) if before in schemas and after is not None else ()
