"""Cache entries: the list, the page of one with where it lies now, its contents once revealed, and the export."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.cache import add_never_cache_headers
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST

from llmcache.admin_pages import columns, contents, filters
from llmcache.admin_pages.columns import Fact, Group, known, number
from llmcache.admin_pages.exports import Export, as_async
from llmcache.admin_pages.lists import LedgerAdmin, as_hex, beginning, selected_ids
from llmcache.admin_pages.schemas import pretty
from llmcache.admin_pages.validity import Validity
from llmcache.admin_pages.whereabouts import Whereabouts, find
from llmcache.dashboard import figures
from llmcache.engine import process
from llmcache.engine.log_copy import View
from llmcache.envelope import Entry
from llmcache.models import MAX_NAME, CacheEntry, EntryTag, Invalidation, ProviderCall, SchemaVersion
from llmcache.money.facts import cut, unix_of

CALLS_SHOWN: Final = 20
_TAG: Final = "tag:"
_KEY: Final = "key:"
_SAME_TIME: Final = 0.001
"""Seconds; a database cuts a time to millionths."""
_SURE_HEX: Final = 12
"""Hex digits from which on a search can hardly mean a tag."""


class CacheEntryAdmin(LedgerAdmin):
    """Entries as they were last written, and what their hits have saved."""

    list_display = (
        *("key_column", "kind_column", "ttl_left_column", "saved_column", "hits_column", "age_column"),
        "tenant_column",
    )
    list_filter = (
        *(filters.State, filters.Kind, filters.Model, filters.Tenant, filters.ResponseType, filters.Schema),
        filters.Simulated,
    )
    # Which columns are read is for `found` to say.
    search_fields = ("key",)
    search_help_text = gettext_lazy("The beginning of a key, or a whole tag; tag:… and key:… say which.")
    actions = ("export",)
    invalidate_label = gettext_lazy("Invalidate this answer…")
    change_form_template = "admin/llmcache/cacheentry/row.html"

    # The list

    @admin.display(description=gettext_lazy("key"))
    def key_column(self, entry: CacheEntry) -> SafeString:
        """Return the beginning of the key."""
        return columns.short(entry.key, columns.NARROW_KEY)

    @admin.display(description=gettext_lazy("kind and model"))
    def kind_column(self, entry: CacheEntry) -> SafeString:
        """Return the kind and the model that was asked."""
        return columns.two_lines(known(entry.kind), known(entry.model))

    @admin.display(description=gettext_lazy("tenant"))
    def tenant_column(self, entry: CacheEntry) -> str:
        """Return the tenant."""
        return known(entry.tenant)

    @admin.display(description=gettext_lazy("age"), ordering="-written_at")
    def age_column(self, entry: CacheEntry) -> str:
        """Return how long ago it was written."""
        return columns.span(entry.age)

    @admin.display(description=gettext_lazy("TTL left"), ordering="expires_at")
    def ttl_left_column(self, entry: CacheEntry) -> SafeString:
        """Return what it is good for, and how long it can still be served."""
        void = getattr(entry, "_is_void", False)
        return columns.two_lines(columns.state_badge(entry, void=void), columns.ttl_left(entry))

    @admin.display(description=gettext_lazy("hits"))
    def hits_column(self, entry: CacheEntry) -> str:
        """Return how often it has answered."""
        return number(entry.hits)

    @admin.display(description=gettext_lazy("saved"), ordering="saved_pico_usd")
    def saved_column(self, entry: CacheEntry) -> str:
        """Return what its hits have avoided."""
        return figures.money(columns.saved_usd(entry))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Return the list, with what is void told by one more statement for all its rows."""
        response = super().changelist_view(request, extra_context)
        context: Any = getattr(response, "context_data", None) or {}
        if "cl" in context:
            entries = list(context["cl"].result_list)
            void = Validity(process.current()).void(entries)
            for entry in entries:
                entry._is_void = entry.pk in void
        return response

    def found(self, request: HttpRequest, queryset: models.QuerySet[Any], wanted: str) -> models.QuerySet[Any]:  # noqa: ARG002
        """Return entries by the beginning of the key, or by tag."""
        if wanted.lower().startswith(_KEY):
            text = as_hex(wanted[len(_KEY) :].strip())
            return queryset.none() if text is None else queryset.filter(beginning("key", text))
        if wanted.lower().startswith(_TAG):
            return self._tagged(queryset, wanted[len(_TAG) :].strip())
        text = as_hex(wanted)
        if text is None or (len(text) < _SURE_HEX and self._is_tag(wanted)):
            return self._tagged(queryset, wanted)
        return queryset.filter(beginning("key", text))

    def _is_tag(self, word: str) -> bool:
        return EntryTag.objects.using(self.database()).filter(tag=word).exists()

    def _tagged(self, queryset: models.QuerySet[Any], tag: str) -> models.QuerySet[Any]:
        entries = EntryTag.objects.using(queryset.db).filter(tag=cut(tag, MAX_NAME)).values("entry_id")
        return queryset.filter(pk__in=entries)

    # The page of one

    def groups(self, request: HttpRequest, row: Any) -> list[Group]:
        """Return the facts of an entry."""
        entry: CacheEntry = row
        return [
            Group(_("What it is"), self._what(request, entry)),
            Group(_("Time"), [*self._state(request, entry), *_when(entry)]),
            Group(_("What it cost"), _cost(entry)),
            Group(_("What it saved"), _saving(entry)),
        ]

    def _what(self, request: HttpRequest, entry: CacheEntry) -> list[Fact]:
        schema = columns.short(entry.schema) if entry.schema else known("")
        tags = [(self.address("changelist", query={"q": f"{_TAG}{tag}"}), str(tag)) for tag in entry.tags or ()]
        return [
            Fact(_("key"), columns.code(entry.key)),
            Fact(_("kind"), columns.link(self.address("changelist", query={"kind": entry.kind}), entry.kind)),
            Fact(_("response type"), known(entry.response_type)),
            Fact(_("schema"), columns.link(self._schema_address(request, entry), schema)),
            Fact(_("model asked"), known(entry.model)),
            Fact(_("model that answered"), known(entry.answered_model)),
            Fact(_("tenant"), known(entry.tenant)),
            Fact(_("subject's hash"), columns.code(entry.subject_hash) if entry.subject_hash else known("")),
            Fact(_("tags"), columns.chips(tags)),
            Fact(_("source"), known(entry.source)),
            Fact(_("size"), columns.size(entry.size_bytes)),
            Fact(_("name space"), columns.code(entry.namespace)),
        ]

    def _state(self, request: HttpRequest, entry: CacheEntry) -> list[Fact]:
        """Return what it is good for, and what has made it void."""
        row = self._judged(entry)[1]
        badge = columns.state_badge(entry, void=row is not None)
        if row is None:
            return [Fact(_("state"), badge)]
        by = _("%(span)s, by %(user)s") % {"span": columns.ago(row.made_at), "user": known(row.made_by)}
        address = self.address_of(row) if self.readable(request, Invalidation) else None
        return [Fact(_("state"), badge), Fact(_("invalidated"), columns.link(address, by), row.reason)]

    def _judged(self, entry: CacheEntry) -> tuple[list[Whereabouts], Invalidation | None, View]:
        """Return where an entry lies, what makes it void, and the rows in force for it; looked for once for a page."""
        found: Any = getattr(entry, "_found", None)
        if found is None:
            runtime, key = process.current(), contents.key_of(entry)
            is_ours = key is not None and entry.namespace == runtime.namespace
            places = find(runtime, key) if is_ours and key else []
            validity = Validity(runtime)
            # What the tiers hold of this very writing tells it exactly.
            held = [each.entry for each in places if each.entry is not None and _is_of_row(each.entry, entry)]
            row = validity.void_by(entry, held[0].seen if held else None)
            found = places, row, validity.view(entry)
            entry._found = found  # type: ignore[attr-defined]
        return found

    def conditions(self, row: Any) -> dict[str, str]:
        """Return the key."""
        entry: CacheEntry = row
        is_ours = entry.namespace == process.current().namespace and contents.key_of(entry) is not None
        return {"key": entry.key} if is_ours else {}

    def _schema_address(self, request: HttpRequest, entry: CacheEntry) -> str | None:
        version = self._schema_of(request, entry)
        return None if version is None else self.address_of(version)

    def _schema_of(self, request: HttpRequest, entry: CacheEntry) -> SchemaVersion | None:
        if not self.readable(request, SchemaVersion):
            return None
        found: Any = getattr(entry, "_schema_version", self)
        if found is self:
            versions = SchemaVersion.objects.using(self.database())
            found = versions.filter(response_type=entry.response_type, fingerprint=entry.schema).first()
            entry._schema_version = found  # type: ignore[attr-defined]
        return found

    def details(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return where the entry lies, its calls and its schema."""
        entry: CacheEntry = row
        version = self._schema_of(request, entry)
        return {
            **self._places(entry),
            **self._calls(request, entry),
            "schema_version": version,
            "schema_address": None if version is None else self.address_of(version),
            "schema_text": None if version is None else pretty(version.schema),
            "can_reveal": self.has_reveal_permission(request, entry),
            "reveal_address": self.address("reveal", entry.pk),
        }

    def _places(self, entry: CacheEntry) -> dict[str, Any]:
        here = process.current().namespace
        if entry.namespace != here:
            return {"places": [], "other_namespace": here}
        places, _row, view = self._judged(entry)
        return {"places": [_place(each, entry, view) for each in places]}

    def _calls(self, request: HttpRequest, entry: CacheEntry) -> dict[str, Any]:
        if not self.readable(request, ProviderCall):
            return {"calls": None}
        rows = ProviderCall.objects.using(self.database()).filter(key=entry.key).order_by("-started_at", "-pk")
        calls = list(rows[: CALLS_SHOWN + 1])
        shown = [
            {
                "address": self.address_of(call),
                "started": columns.moment(call.started_at),
                "outcome": columns.outcome_badge(call),
                "reason": filters.reason_label(call.reason),
                "cost": figures.money(call.cost_usd),
                "latency": columns.milliseconds(call.latency_ms),
                "price": known(call.price_id),
                "made_this": call.call_id == entry.call_id,
            }
            for call in calls[:CALLS_SHOWN]
        ]
        more = self.address("changelist", query={"q": entry.key}, of=ProviderCall)
        return {"calls": shown, "more_calls": more if len(calls) > CALLS_SHOWN else None}

    # Contents

    def has_reveal_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether this user may see answers and requests."""
        return self.has_view_permission(request, obj) and _may(request, "llmcache.reveal_cacheentry")

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Return whether this user may export entries."""
        return self.has_view_permission(request) and _may(request, "llmcache.export_cacheentry")

    def own_urls(self) -> list[URLPattern]:
        """Add the addresses of the two things that are done here; both are only posted to."""
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        view = self.admin_site.admin_view
        return [
            path("export/", view(require_POST(self.export_view)), name=f"{name}_export"),
            path("<path:object_id>/reveal/", view(require_POST(self.reveal_view)), name=f"{name}_reveal"),
        ]

    @sensitive_variables()
    def reveal_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return a page with the answer and the request, after it was written down who has asked for them."""
        if not self.has_reveal_permission(request):
            raise PermissionDenied
        entry: Any = self.get_object(request, unquote(object_id))
        if entry is None:
            # As Django does for the page of a row that is gone.
            django: Any = super()
            return django._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        shown = self._contents(entry)
        self.log_change(
            request,
            entry,
            _("Revealed the answer and the request.")
            if shown.get("answer")
            else _("Asked to reveal; nothing was there."),
        )
        context = {
            **self.admin_site.each_context(request),
            **shown,
            "title": _("Answer and request"),
            "subtitle": str(entry),
            "opts": self.opts,
            "original": entry,
            "media": self.media,
            "address": self.address_of(entry),
        }
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        response = TemplateResponse(request, "admin/llmcache/cacheentry/reveal.html", context)
        add_never_cache_headers(response)
        return response

    @sensitive_variables()
    def _contents(self, entry: CacheEntry) -> dict[str, Any]:
        runtime, key = process.current(), contents.key_of(entry)
        if entry.namespace != runtime.namespace:
            return {"other_namespace": runtime.namespace}
        if key is None:
            return {"places": []}
        found = contents.read(runtime, key)
        view = Validity(runtime).view(entry)
        return {
            "places": [_place(each, entry, view) for each in found.places],
            "answer": None if found.answer is None else contents.readable(found.answer),
            "request_sent": None if found.request is None else contents.readable(found.request),
        }

    # Export

    @admin.action(description=gettext_lazy("Export as JSON lines…"), permissions=["export"])
    def export(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse:  # noqa: ARG002
        """Ask whether to export what was selected."""
        across = request.POST.get("select_across") == "1"
        ids = [] if across else request.POST.getlist(ACTION_CHECKBOX_NAME)
        told: str = self.get_changelist_instance(request).paginator.told if across else number(len(ids))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Export cache entries"),
            "subtitle": None,
            "opts": self.opts,
            "media": self.media,
            "told": told,
            "across": across,
            "ids": ids,
            "checkbox": ACTION_CHECKBOX_NAME,
            "action": self.address("export", query=dict(request.GET.items())),
            "back": request.get_full_path(),
            "can_reveal": self.has_reveal_permission(request),
        }
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        return TemplateResponse(request, "admin/llmcache/cacheentry/export.html", context)

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Return the entries that were selected, or all that the address filters, as a stream of JSON lines."""
        with_contents = "with_contents" in request.POST
        if not self.has_export_permission(request) or (with_contents and not self.has_reveal_permission(request)):
            raise PermissionDenied
        wanted: int | None = None
        changelist: Any = self.get_changelist_instance(request)
        rows: Any = changelist.queryset
        if request.POST.get("select_across") != "1":
            ids = selected_ids(request.POST.getlist(ACTION_CHECKBOX_NAME))
            wanted, rows = len(set(ids)), rows.filter(pk__in=ids)
            if not ids:
                self.message_user(request, _("No entries were selected, and none exported."), messages.WARNING)
                return HttpResponseRedirect(self.address("changelist"))
        export = Export(rows, process.current() if with_contents else None)
        log = self._log_export(request, with_contents)
        return _download(request, _logged(export, log, wanted))

    def _log_export(self, request: HttpRequest, with_contents: bool) -> LogEntry:
        """Write down that an export begins: what becomes of it is added at its end, if it comes to one."""
        begun = _("Began to export with answers and requests.") if with_contents else _("Began to export.")
        user: Any = request.user
        return LogEntry.objects.create(
            user_id=user.pk,
            content_type_id=ContentType.objects.get_for_model(self.model).pk,
            object_id=None,
            object_repr=str(self.opts.verbose_name_plural),
            action_flag=CHANGE,
            change_message=begun,
        )


def _may(request: HttpRequest, permission: str) -> bool:
    user: Any = request.user
    return user.has_perm(permission)


def _when(entry: CacheEntry) -> list[Fact]:
    expires = known("") if entry.expires_at is None else columns.moment(entry.expires_at)
    facts = [
        Fact(_("written"), columns.moment(entry.written_at), columns.ago(entry.written_at)),
        Fact(_("expires"), expires, _("TTL left: %(span)s") % {"span": columns.ttl_left(entry)}),
    ]
    if entry.simulated:
        facts.append(Fact(_("clock"), columns.badge(_("simulated"), "warning")))
    return facts


def _cost(entry: CacheEntry) -> list[Fact]:
    return [
        Fact(_("cost"), columns.exact_money(entry.cost_usd), _("all attempts included")),
        Fact(_("attempts"), number(entry.attempts)),
        Fact(_("latency"), columns.milliseconds(entry.latency_ms)),
        *columns.token_facts(entry),
    ]


def _saving(entry: CacheEntry) -> list[Fact]:
    return [
        Fact(_("hits"), number(entry.hits)),
        Fact(
            _("last hit"),
            columns.moment(entry.last_hit_at),
            "" if entry.last_hit_at is None else columns.ago(entry.last_hit_at),
        ),
        Fact(_("saved"), columns.exact_money(columns.saved_usd(entry))),
    ]


_FOUND: Final = {
    "fresh": (gettext_lazy("fresh"), "good", ""),
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


def _is_of_row(held: Entry, row: CacheEntry) -> bool:
    """Return whether what a tier holds is the writing that the row tells of."""
    return abs(held.written_at - unix_of(row.written_at)) <= _SAME_TIME


def _place(place: Whereabouts, entry: CacheEntry, view: View) -> dict[str, Any]:
    is_void = place.found == "fresh" and place.entry is not None and not view.admits(place.entry.seen)
    word, tone, note = _VOID if is_void else _FOUND[place.found]
    state = place.state
    if place.found == "down":
        note = _("The last read failed: %(error)s.") % {"error": known(state.error)}
    elif place.entry is not None and not _is_of_row(place.entry, entry):
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


def _download(request: HttpRequest, parts: Generator[bytes]) -> StreamingHttpResponse:
    name = f"cache-entries-{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl"
    stream: Any = as_async(parts) if isinstance(request, ASGIRequest) else parts
    response = StreamingHttpResponse(stream, content_type="application/x-ndjson")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Content-Type-Options"] = "nosniff"
    add_never_cache_headers(response)
    return response


def _logged(export: Export, log: LogEntry, wanted: int | None) -> Generator[bytes]:
    """Write an export, and at its end, also where it is broken off, what it came to."""
    whole = False
    try:
        yield from export.parts()
        whole = True
    finally:
        log.change_message = _told(export, wanted, whole=whole)
        log.save(update_fields=["change_message"])


def _told(export: Export, wanted: int | None, *, whole: bool) -> str:
    done = _("Exported as JSON lines: %(count)s entries.") % {"count": number(export.written)}
    parts = [done]
    if not whole:
        parts.append(_("Broken off."))
    elif wanted is not None and wanted > export.written:
        parts.append(_("Selected and gone meanwhile: %(count)s.") % {"count": number(wanted - export.written)})
    if export.runtime is not None:
        keys = ", ".join(key[:_SURE_HEX] for key in export.keys)
        more = export.revealed - len(export.keys)
        parts.append(_("With answers and requests: %(count)s.") % {"count": number(export.revealed)})
        if keys:
            parts.append(
                _("Keys: %(keys)s") % {"keys": keys}
                + (_(", and %(count)s more.") % {"count": number(more)} if more else ".")
            )
    return " ".join(parts)
