"""Schema versions: what each form of a response type looks like, and what has changed since the one before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.contrib import admin
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages import columns, contents, deploys, filters
from llmcache.admin_pages.columns import Fact, Group, known
from llmcache.admin_pages.lists import LedgerAdmin, as_hex, beginning
from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.models import MAX_NAME, CacheEntry, SchemaVersion
from llmcache.schema_history.changes import MAX_CHANGES

LATER_SHOWN: Final = 5
_CHANGES: Final = {
    "added": (gettext_lazy("added"), "good"),
    "removed": (gettext_lazy("removed"), "bad"),
    "changed": (gettext_lazy("changed"), "warning"),
    "reordered": (gettext_lazy("reordered"), "warning"),
}


def pretty(schema: str) -> contents.Readable:
    """Return a schema indented, its keys in the order in which a model sees them."""
    return contents.readable(schema)


class SchemaVersionAdmin(LedgerAdmin):
    """Forms of response types, those that were last seen first."""

    list_display = ("type_column", "fingerprint_column", "first_seen_column", "last_seen_column", "changes_column")
    list_filter = (filters.ResponseType,)
    search_fields = ("fingerprint",)
    search_help_text = gettext_lazy("The beginning of a response type's name, or of a fingerprint.")
    list_select_related = ()
    change_form_template = "admin/llmcache/schemaversion/row.html"
    invalidate_label = gettext_lazy("Invalidate this response type…")

    @admin.display(description=gettext_lazy("response type"))
    def type_column(self, version: SchemaVersion) -> str:
        """Return the type's name."""
        return known(version.response_type)

    @admin.display(description=gettext_lazy("fingerprint"))
    def fingerprint_column(self, version: SchemaVersion) -> SafeString:
        """Return the beginning of the fingerprint."""
        return columns.short(version.fingerprint)

    @admin.display(description=gettext_lazy("first seen"))
    def first_seen_column(self, version: SchemaVersion) -> str:
        """Return when it was first asked with."""
        return columns.moment(version.first_seen_at)

    @admin.display(description=gettext_lazy("last seen"), ordering="last_seen_at")
    def last_seen_column(self, version: SchemaVersion) -> str:
        """Return when it was last asked with."""
        return columns.moment(version.last_seen_at)

    @admin.display(description=gettext_lazy("changes"))
    def changes_column(self, version: SchemaVersion) -> str:
        """Return how much has changed since the one before; a dash for the first."""
        if version.previous_id is None:  # pyright: ignore[reportAttributeAccessIssue]
            return columns.UNKNOWN
        count = len(_changes(version))
        return f"{count}+" if count >= MAX_CHANGES else str(count)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Return the list; whole, and for who may see entries, with what the last deploys have changed above it."""
        more = dict(extra_context or {})
        if not request.GET and self.has_view_permission(request) and self.readable(request, CacheEntry):
            settings = process.current().settings
            more["deployed"] = deploys.deployed(settings, self.address_of, self._entries)
            more["prompted"] = deploys.prompted(self.database(), self._entries)
            more["most_prompted"] = figures.count(deploys.MOST_PROMPTED)
        return super().changelist_view(request, more)

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return versions by the beginning of the name or of the fingerprint."""
        # A table of as many rows as there have been forms of types.
        condition = models.Q(response_type__istartswith=wanted[:MAX_NAME])
        text = as_hex(wanted)
        return queryset.filter(condition if text is None else condition | beginning("fingerprint", text))

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of a version."""
        version: SchemaVersion = row
        facts = [
            Fact(_("response type"), known(version.response_type)),
            Fact(_("fingerprint"), columns.code(version.fingerprint)),
            Fact(_("first seen"), columns.moment(version.first_seen_at), columns.ago(version.first_seen_at)),
            Fact(_("last seen"), columns.moment(version.last_seen_at), columns.ago(version.last_seen_at)),
        ]
        groups = [Group(_("What it is"), facts)]
        if self.readable(request, CacheEntry):
            there = deploys.facts_of(version, self._before(version), self._entries, self.database())
            groups.append(Group(_("What there is of it"), there))
        return groups

    def _entries(self, query: Mapping[str, str]) -> str:
        return self.address("changelist", query=query, of=CacheEntry)

    def conditions(self, row: Any) -> dict[str, str]:
        """Return the type: all its forms are meant."""
        return {"response_type": row.response_type}

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return the schema and what has changed."""
        version: SchemaVersion = row
        before = self._before(version)
        rows = SchemaVersion.objects.using(self.database()).filter(previous=version.pk)
        later = rows.order_by("first_seen_at", "pk")[:LATER_SHOWN]
        changes = _changes(version)
        return {
            "schema_text": pretty(version.schema),
            "changes": [shown_change(each) for each in changes],
            "cut": len(changes) >= MAX_CHANGES,
            "before": None if before is None else self._named(before),
            "later": [self._named(each) for each in later],
        }

    def _before(self, version: SchemaVersion) -> SchemaVersion | None:
        """Return the version before; looked for once for a page, and not where the project's routers say."""
        found: Any = getattr(version, "_before", self)
        if found is self:
            rows = SchemaVersion.objects.using(self.database())
            found = rows.filter(pk=version.previous_id).first() if version.previous_id else None  # type: ignore[attr-defined]
            version._before = found  # type: ignore[attr-defined]
        return found

    def _named(self, version: SchemaVersion) -> dict[str, Any]:
        return {
            "address": self.address_of(version),
            "fingerprint": columns.short(version.fingerprint),
            "seen": columns.moment(version.first_seen_at),
        }


def _changes(version: SchemaVersion) -> list[dict[str, Any]]:
    # JSON in a database can be written by others.
    kept: Any = version.changes
    return [each for each in kept if isinstance(each, dict)] if isinstance(kept, list) else []


def shown_change(change: Mapping[str, Any]) -> dict[str, Any]:
    """Return one change between two forms, as a row of a page."""
    kind = str(change.get("change"))
    word, tone = _CHANGES.get(kind, (kind, "quiet"))
    return {
        "path": columns.path(str(change.get("path") or _("(the whole)"))),
        "badge": columns.badge(str(word), tone),
        "before": change.get("before"),
        "after": change.get("after"),
    }
