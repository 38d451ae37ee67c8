"""Filters whose choices are read from the sums and the schema versions, never from the rows that they filter.

Of the sums only the newest are read, so that the choices cost the same however long the history is: what was last asked
for long ago is no choice, and is still found by an address that names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.admin_pages.columns import outcome_label
from llmcache.models import MAX_NAME, CacheEntry, ProviderCall, SchemaVersion, TenantDay, UsageBucket

NEWEST_SUMS: Final = 5_000
"""Hours of usage, or days of tenants, that are read for choices: about 10 ms."""
NEWEST_SCHEMAS: Final = 200
MOST_CHOICES: Final = 50
TYPE: Final = "type"
VOID: Final = "void"

_REASONS: Final = {
    "not_found": gettext_lazy("not found"),
    "invalid": gettext_lazy("not valid any more"),
    "invalidated": gettext_lazy("invalidated"),
    "unconfirmed": gettext_lazy("not known whether invalidated"),
    "completion_missing": gettext_lazy("completion was gone"),
    "expired": gettext_lazy("past its time"),
    "refresh": gettext_lazy("refreshed"),
    "bypass": gettext_lazy("bypass"),
    "ttl_zero": gettext_lazy("TTL of zero"),
}


def reason_label(reason: str) -> str:
    """Return why a provider was asked, in words."""
    return str(_REASONS.get(reason, reason))


class Known:
    """What choices are made of, each read once for a request."""

    def __init__(self, using: str) -> None:
        self._using = using
        self._usage: list[tuple[str, str, str, bool]] | None = None
        self._tenants: list[str] | None = None
        self._schemas: list[tuple[str, str]] | None = None

    @classmethod
    def of(cls, request: HttpRequest, model_admin: Any) -> Known:
        """Return what is known for a request."""
        found = getattr(request, "_llmcache_known", None)
        if found is None:
            found = cls(model_admin.database())
            request._llmcache_known = found  # type: ignore[attr-defined]
        return found

    @property
    def usage(self) -> list[tuple[str, str, str, bool]]:
        """Kind, model, tier and whether it was simulated, of the newest hours."""
        if self._usage is None:
            rows = UsageBucket.objects.using(self._using).order_by("-hour")
            self._usage = list(rows.values_list("kind", "model", "tier", "simulated")[:NEWEST_SUMS])
        return self._usage

    @property
    def tenants(self) -> list[str]:
        """Tenants of the newest days, those of the last day first."""
        if self._tenants is None:
            rows = TenantDay.objects.using(self._using).order_by("-day")
            self._tenants = list(rows.values_list("tenant", flat=True)[:NEWEST_SUMS])
        return self._tenants

    @property
    def schemas(self) -> list[tuple[str, str]]:
        """Type and fingerprint of the schema versions that were last seen."""
        if self._schemas is None:
            rows = SchemaVersion.objects.using(self._using).order_by("-last_seen_at")
            self._schemas = list(rows.values_list("response_type", "fingerprint")[:NEWEST_SCHEMAS])
        return self._schemas


class Choice(admin.SimpleListFilter):
    """One value of one field; what is asked for is a choice too, so that the page says what it shows."""

    field: ClassVar[str]

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:
        """Return values and what they are called, in the order in which they are offered."""
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices; none where there is nothing to choose."""
        choices = dict(self.offered(Known.of(request, model_admin)))
        chosen = self.value()
        found = list(choices.items())[:MOST_CHOICES]
        if chosen is None:
            return found if len(found) > 1 else []
        if chosen not in dict(found):
            # A link's title, not a page: the value came with the address and may be of any length.
            found.append((chosen, choices.get(chosen, self.called(chosen[:MAX_NAME]))))
        return found

    def called(self, value: str) -> str:
        """Return what a value is called."""
        return value or _("(none)")

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:  # noqa: ARG002
        """Return the rows of the chosen value."""
        value = self.value()
        if value is None:
            return queryset
        # No row holds these, and PostgreSQL refuses to look for a NUL.
        if "\0" in value or len(value) > MAX_NAME:
            return queryset.none()
        return self.chosen(queryset, value)

    def chosen(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the rows of a value."""
        return queryset.filter(**{self.field: value})

    def named(self, values: Iterable[str]) -> list[tuple[str, str]]:
        """Return values by name."""
        return [(value, self.called(value)) for value in sorted(dict.fromkeys(values))]


class Kind(Choice):
    """By kind."""

    title = gettext_lazy("kind")
    parameter_name = field = "kind"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:
        """Return the kinds of the newest hours."""
        return self.named(kind for kind, _model, _tier, _simulated in known.usage)


class Model(Choice):
    """By the model that was asked."""

    title = gettext_lazy("model")
    parameter_name = field = "model"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:
        """Return the models of the newest hours."""
        return self.named(model for _kind, model, _tier, _simulated in known.usage if model)


class Tier(Choice):
    """By the tier that answered."""

    title = gettext_lazy("tier")
    parameter_name = field = "tier"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:
        """Return the tiers of the newest hours."""
        return self.named(tier for _kind, _model, tier, _simulated in known.usage)


class Tenant(Choice):
    """By tenant."""

    title = gettext_lazy("tenant")
    parameter_name = field = "tenant"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:
        """Return the tenants of the newest days."""
        # Where there are many, those of the last days.
        newest = list(dict.fromkeys(known.tenants))[:MOST_CHOICES]
        return self.named(newest)


class ResponseType(Choice):
    """By response type."""

    title = gettext_lazy("response type")
    parameter_name = TYPE
    field = "response_type"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:
        """Return the types that were last seen."""
        return self.named(name for name, _fingerprint in known.schemas)


class Schema(Choice):
    """By schema version; only of the chosen type, where one is chosen."""

    title = gettext_lazy("schema")
    parameter_name = field = "schema"

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        self._type = request.GET.get(TYPE)
        super().__init__(request, params, model, model_admin)

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:
        """Return the versions that were last seen, with the name of the type where it is not chosen."""
        for name, fingerprint in known.schemas:
            if self._type is None:
                yield fingerprint, f"{name} {fingerprint[:8]}"
            elif name == self._type:
                yield fingerprint, fingerprint[:12]

    def called(self, value: str) -> str:
        """Return a fingerprint's beginning."""
        return value[:12] or _("(none)")


class State(Choice):
    """By what entries are good for now, as far as time tells; and those that were invalidated, as far as rows know.

    It takes the whole log beside each entry to know that, which house-keeping looks up (``llmcache.marking``). The list
    itself tells it of the entries that it shows.
    """

    title = gettext_lazy("state")
    parameter_name = "state"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Return every state by time, and void."""
        by_time = [(value, str(label)) for value, label in CacheEntry.State.choices]
        return [*by_time, (VOID, _("invalidated"))]

    def chosen(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the entries that are not past their time, that may be given all the same, or that may not; or void."""
        now = timezone.now()
        if value == VOID:
            return queryset.exclude(void_by="")
        if value == CacheEntry.State.FRESH:
            return queryset.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now))
        if value == CacheEntry.State.STALE:
            return queryset.filter(expires_at__lte=now, stale_until__gt=now)
        if value == CacheEntry.State.EXPIRED:
            return queryset.filter(Q(stale_until__isnull=True) | Q(stale_until__lte=now), expires_at__lte=now)
        return queryset.none()


class InForce(Choice):
    """By whether invalidations are in force."""

    title = gettext_lazy("state")
    parameter_name = "state"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Return both states."""
        return [("in_force", _("in force")), ("undone", _("undone"))]

    def chosen(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the invalidations that are, or are not, in force."""
        return queryset.filter(active=value == "in_force") if value in ("in_force", "undone") else queryset.none()


class Standing(InForce):
    """By whether corrections are in force."""

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Return both states."""
        return [("in_force", _("in force")), ("undone", _("withdrawn"))]

    def chosen(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the corrections that are, or are not, in force."""
        if value not in ("in_force", "undone"):
            return queryset.none()
        return queryset.filter(invalidation__active=value == "in_force")


class ToCome(Choice):
    """By what has become of plans."""

    title = gettext_lazy("state")
    parameter_name = "state"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Return every state."""
        return [("to_come", _("to come")), ("in_force", _("in force")), ("called_off", _("called off"))]

    def chosen(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the plans that are to come, have come into force, or were called off."""
        if value == "to_come":
            return queryset.filter(is_open=True)
        if value not in ("in_force", "called_off"):
            return queryset.none()
        return queryset.filter(is_open=False, in_force_at__isnull=value == "called_off")


class Outcome(Choice):
    """By what became of attempts."""

    title = gettext_lazy("outcome")
    parameter_name = field = "outcome"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Return every outcome."""
        return [(value, outcome_label(value)) for value in ProviderCall.Outcome.values]


class Reason(Choice):
    """By why a provider was asked."""

    title = gettext_lazy("reason")
    parameter_name = field = "reason"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Return every reason."""
        return [(value, str(label)) for value, label in _REASONS.items()]


class SumOutcome(Choice):
    """By the outcome of calls."""

    title = gettext_lazy("outcome")
    parameter_name = field = "outcome"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:  # noqa: ARG002
        """Return every outcome of a call."""
        return [(outcome, outcome) for outcome in ("hit", "stale", "miss", "collapsed", "bypass", "error")]


class Simulated(Choice):
    """By the clock that rows were recorded on; offered only where there are simulated ones."""

    title = gettext_lazy("clock")
    parameter_name = "simulated"

    def offered(self, known: Known) -> Iterable[tuple[str, str]]:
        """Return both clocks, if there are both, or simulated rows alone."""
        if any(simulated for *_rest, simulated in known.usage):
            yield "1", _("simulated")
            yield "0", _("real")

    def chosen(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Return the rows of a clock."""
        return queryset.filter(simulated=value == "1") if value in ("0", "1") else queryset.none()
