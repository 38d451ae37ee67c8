"""The ledger's rows: what was asked of providers, what is kept, and the sums of both by the hour.

The journal is the record and these tables are its view: rows are written by the ledger alone, and no row holds a text.
Those of warming, which have a module of their own, hold what is still to be asked.
Money is in whole numbers of 10**-12 US dollars, so that sums are exact; NULL is what is not known, never zero.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from llmcache.column_sizes import MAX_CONDITION, MAX_KIND, MAX_NAME
from llmcache.money.pricing import PICO, dollars
from llmcache.planned_models import PlannedInvalidation
from llmcache.warming_models import WarmingItem, WarmingPlan, WarmingRun

__all__ = [
    "MAX_CONDITION",
    "MAX_KIND",
    "MAX_NAME",
    "CacheEntry",
    "Correction",
    "Dashboard",
    "EntryTag",
    "Invalidation",
    "Lease",
    "PlannedInvalidation",
    "ProviderCall",
    "SchemaVersion",
    "TenantDay",
    "UsageBucket",
    "WarmingItem",
    "WarmingPlan",
    "WarmingRun",
]


class _Tokens(models.Model):
    """Tokens in disjoint classes; NULL where the provider did not tell them."""

    input_tokens = models.BigIntegerField(_("input tokens"), null=True)
    cache_read_tokens = models.BigIntegerField(_("cache read tokens"), null=True)
    cache_write_tokens = models.BigIntegerField(_("cache write tokens"), null=True)
    output_tokens = models.BigIntegerField(_("output tokens"), null=True)
    cost_pico_usd = models.BigIntegerField(_("cost in 10⁻¹² US dollars"), null=True)

    class Meta:
        abstract = True

    @property
    def cost_usd(self) -> Decimal | None:
        """US dollars; None when the cost is not known."""
        return dollars(self.cost_pico_usd)


class ProviderCall(_Tokens):
    """One attempt that left for the provider."""

    class Outcome(models.TextChoices):
        """What became of it."""

        UNDER_WAY = "under_way", _("under way")
        ANSWERED = "answered", _("answered")
        REJECTED = "rejected", _("answered, and did not pass validation")
        FAILED = "failed", _("failed")
        IN_DOUBT = "in_doubt", _("in doubt: it may have been charged")

    call_id = models.UUIDField(_("call id"), unique=True, editable=False)
    started_at = models.DateTimeField(_("started at"), db_index=True)
    ended_at = models.DateTimeField(_("ended at"), null=True)
    outcome = models.CharField(_("outcome"), max_length=10, choices=Outcome.choices)
    kind = models.CharField(_("kind"), max_length=MAX_KIND)
    response_type = models.CharField(_("response type"), max_length=MAX_NAME)
    schema = models.CharField(_("schema's fingerprint"), max_length=64)
    model = models.CharField(_("model asked"), max_length=MAX_NAME)
    answered_model = models.CharField(_("model that answered"), max_length=MAX_NAME, blank=True)
    tenant = models.CharField(_("tenant"), max_length=MAX_NAME, blank=True)
    key = models.CharField(_("key"), max_length=64, db_index=True)
    reason = models.CharField(_("why it was asked"), max_length=32)
    attempt = models.PositiveIntegerField(_("attempt"))
    # False: asked with cache="bypass" or ttl=0.
    to_store = models.BooleanField(_("answer was to be stored"))
    # What it was asked for ahead of its use, while nobody waited: "refresh" or "warming"; empty for a call.
    ahead = models.CharField(_("ahead of its use"), max_length=10, blank=True)
    # How old its answer may get; NULL: any age, and also where the line that would say so is lost.
    ttl_seconds = models.FloatField(_("TTL in seconds"), null=True)
    error = models.CharField(_("error"), max_length=64, blank=True)
    # Types of the validation's errors, of an answer that was rejected.
    error_types = models.JSONField(_("types of errors"), default=list)
    status = models.PositiveIntegerField(_("HTTP status"), null=True)
    request_id = models.CharField(_("provider's request id"), max_length=MAX_NAME, blank=True)
    finish_reason = models.CharField(_("finish reason"), max_length=MAX_NAME, blank=True)
    refused = models.BooleanField(_("refused"), default=False)
    latency_ms = models.BigIntegerField(_("latency in ms"), null=True)
    price_id = models.CharField(_("price"), max_length=MAX_NAME, blank=True)
    price_source = models.CharField(_("source of the price"), max_length=MAX_NAME, blank=True)
    # The most that it can have cost, which counts while it is in doubt.
    bound_pico_usd = models.BigIntegerField(_("bound of the cost in 10⁻¹² US dollars"), null=True)
    # Which import inserted the row: how an importer knows what is really new.
    batch = models.BigIntegerField(editable=False)
    simulated = models.BooleanField(_("recorded on a simulated clock"), default=False)

    class Meta(_Tokens.Meta):
        verbose_name = _("provider call")
        verbose_name_plural = _("provider calls")
        # The ledger is written by the importer alone.
        default_permissions = ("view",)
        ordering: ClassVar[list[str]] = ["-started_at", "-pk"]
        indexes: ClassVar[list[models.Index]] = [
            # The admin's filters, newest first: without them a rare value reads the whole ledger.
            models.Index(fields=["kind", "-started_at"], name="llmcache_call_kind"),
            models.Index(fields=["model", "-started_at"], name="llmcache_call_model"),
            models.Index(fields=["outcome", "-started_at"], name="llmcache_call_outcome"),
            # Nearly every call is made for this one reason; it is found without an index.
            models.Index(
                fields=["reason", "-started_at"], name="llmcache_call_reason", condition=~models.Q(reason="not_found")
            ),
            models.Index(fields=["request_id"], name="llmcache_call_request", condition=~models.Q(request_id="")),
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.model}: {self.Outcome(self.outcome).label}"


class CacheEntry(_Tokens):
    """An entry as it was last written to the tiers."""

    namespace = models.CharField(_("name space"), max_length=64)
    key = models.CharField(_("key"), max_length=64)
    kind = models.CharField(_("kind"), max_length=MAX_KIND)
    response_type = models.CharField(_("response type"), max_length=MAX_NAME)
    schema = models.CharField(_("schema's fingerprint"), max_length=64)
    model = models.CharField(_("model asked"), max_length=MAX_NAME)
    answered_model = models.CharField(_("model that answered"), max_length=MAX_NAME, blank=True)
    tenant = models.CharField(_("tenant"), max_length=MAX_NAME, blank=True)
    # A hash of the subject, which may be a person's name, keyed with KEY_SECRETS; empty without one.
    subject_hash = models.CharField(_("subject's hash"), max_length=64, blank=True)
    tags = models.JSONField(_("tags"), default=list)
    written_at = models.DateTimeField(_("written at"), db_index=True)
    expires_at = models.DateTimeField(_("expires at"), null=True)
    # Until when it may be served past that; NULL: not at all.
    stale_until = models.DateTimeField(_("stale until"), null=True)
    # Hashes of what the key is made of, so that two requests can be compared without their texts.
    content_hash = models.CharField(_("content's hash"), max_length=64, blank=True)
    components = models.JSONField(_("hashes of components"), default=dict)
    size_bytes = models.BigIntegerField(_("size in bytes"))
    latency_ms = models.BigIntegerField(_("latency in ms"))
    attempts = models.PositiveIntegerField(_("attempts"))
    source = models.CharField(_("source"), max_length=20)
    # The attempt whose answer it is; `ProviderCall.call_id`.
    call_id = models.UUIDField(_("call id"), null=True)
    hits = models.BigIntegerField(_("hits"), default=0)
    last_hit_at = models.DateTimeField(_("last hit at"), null=True)
    # Of each hit the cost of the entry that answered it, which need not be the one that is there now.
    saved_pico_usd = models.BigIntegerField(_("saved in 10⁻¹² US dollars"), default=0)
    # The id of an invalidation that makes it void, as far as that was looked up; empty for one that is valid.
    void_by = models.CharField(_("invalidated by"), max_length=32, blank=True)
    simulated = models.BooleanField(_("recorded on a simulated clock"), default=False)

    class State(models.TextChoices):
        """What an entry is good for; it follows from the time and is in no column."""

        FRESH = "fresh", _("fresh")
        STALE = "stale", _("stale")
        EXPIRED = "expired", _("expired")

    class Meta(_Tokens.Meta):
        verbose_name = _("cache entry")
        verbose_name_plural = _("cache entries")
        ordering: ClassVar[list[str]] = ["-written_at", "-pk"]
        default_permissions = ("view",)
        permissions: ClassVar[list[tuple[str, str]]] = [
            ("reveal_cacheentry", "Can see the answers and requests of cache entries"),
            ("export_cacheentry", "Can export cache entries"),
            ("refresh_cacheentry", "Can have cache entries asked for anew"),
            ("retime_cacheentry", "Can cut and extend the TTL of cache entries"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            # The key first: the admin looks for one in all name spaces.
            models.UniqueConstraint(fields=["key", "namespace"], name="llmcache_entry_of_key"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["-saved_pico_usd"], name="llmcache_entry_saved"),
            models.Index(fields=["kind", "-saved_pico_usd"], name="llmcache_entry_kind_saved"),
            models.Index(fields=["expires_at"], name="llmcache_entry_expires"),
            models.Index(fields=["kind", "-written_at"], name="llmcache_entry_kind"),
            models.Index(fields=["model", "-written_at"], name="llmcache_entry_model"),
            models.Index(fields=["tenant", "-written_at"], name="llmcache_entry_tenant"),
            models.Index(fields=["schema", "-written_at"], name="llmcache_entry_schema"),
            models.Index(fields=["content_hash"], name="llmcache_entry_content", condition=~models.Q(content_hash="")),
            models.Index(fields=["-written_at"], name="llmcache_entry_void", condition=~models.Q(void_by="")),
            models.Index(fields=["void_by", "id"], name="llmcache_entry_void_by", condition=~models.Q(void_by="")),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key[:12]}"

    @property
    def saved_usd(self) -> Decimal:
        """US dollars that hits have avoided, of those whose entry's cost is known."""
        return Decimal(self.saved_pico_usd) / PICO

    @property
    def state(self) -> State:
        """What the entry is good for now."""
        left = self.ttl_left
        if left is None or left > timedelta(0):
            return self.State.FRESH
        is_stale = self.stale_until is not None and self.stale_until > timezone.now()
        return self.State.STALE if is_stale else self.State.EXPIRED

    @property
    def age(self) -> timedelta:
        """How long ago it was written; never negative, for clocks of machines differ."""
        return max(timezone.now() - self.written_at, timedelta(0))

    @property
    def ttl_left(self) -> timedelta | None:
        """How long it can still be served, zero once it has expired; None when it does not expire."""
        return None if self.expires_at is None else max(self.expires_at - timezone.now(), timedelta(0))


class EntryTag(models.Model):
    """A tag of an entry, so that entries are found by it without reading them all."""

    entry = models.ForeignKey(CacheEntry, on_delete=models.CASCADE, related_name="tag_rows", db_index=False)
    tag = models.CharField(_("tag"), max_length=MAX_NAME)

    class Meta:
        verbose_name = _("tag of an entry")
        verbose_name_plural = _("tags of entries")
        default_permissions = ()
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["entry", "tag"], name="llmcache_entry_tag"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["tag", "entry"], name="llmcache_tag_entry"),
        ]

    def __str__(self) -> str:
        return self.tag


class SchemaVersion(models.Model):
    """One form of a response type: the JSON schema that is sent with it, found by its fingerprint."""

    response_type = models.CharField(_("response type"), max_length=MAX_NAME)
    fingerprint = models.CharField(_("fingerprint"), max_length=64)
    # As generated: a JSON column may put keys in another order, and their order is part of what a model is told.
    schema = models.TextField(_("JSON schema"))
    first_seen_at = models.DateTimeField(_("first seen at"))
    last_seen_at = models.DateTimeField(_("last seen at"))
    previous = models.ForeignKey(
        "self",
        verbose_name=_("the one before"),
        on_delete=models.SET_NULL,
        null=True,
        related_name="later",
    )
    changes = models.JSONField(_("changes since the one before"), default=list)

    class Meta:
        verbose_name = _("schema version")
        verbose_name_plural = _("schema versions")
        ordering: ClassVar[list[str]] = ["-last_seen_at", "-pk"]
        default_permissions = ("view",)
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["response_type", "fingerprint"], name="llmcache_schema"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["fingerprint"], name="llmcache_schema_print"),
            models.Index(fields=["-last_seen_at"], name="llmcache_schema_seen"),
        ]

    def __str__(self) -> str:
        return f"{self.response_type} {self.fingerprint[:12]}"


class Invalidation(models.Model):
    """One line of the invalidation log: the answers that meet all its conditions are void.

    But for those whose makers had seen it before they asked. An empty condition is none; without any it is about all.
    Rows are made and undone, never changed otherwise.
    """

    # What entries hold of it: sixteen bytes at random, in hex.
    uid = models.CharField(_("id"), max_length=32, unique=True, editable=False)
    namespace = models.CharField(_("name space"), max_length=64)
    key = models.CharField(_("key"), max_length=64, blank=True)
    tenant = models.CharField(_("tenant"), max_length=MAX_CONDITION, blank=True)
    subject_hash = models.CharField(_("subject's hash"), max_length=64, blank=True)
    response_type = models.CharField(_("response type"), max_length=MAX_CONDITION, blank=True)
    model = models.CharField(_("model"), max_length=MAX_CONDITION, blank=True)
    tag = models.CharField(_("tag"), max_length=MAX_CONDITION, blank=True)
    kind = models.CharField(_("kind"), max_length=MAX_KIND, blank=True)
    # The ids of rows with the same conditions that were there when it was made: it stands for them too.
    supersedes = models.JSONField(_("supersedes"), default=list)
    made_at = models.DateTimeField(_("made at"))
    made_by = models.CharField(_("made by"), max_length=MAX_NAME, blank=True)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    active = models.BooleanField(_("in force"), default=True)
    undone_at = models.DateTimeField(_("undone at"), null=True)
    undone_by = models.CharField(_("undone by"), max_length=MAX_NAME, blank=True)
    # Whether a human's answer, a `Correction`, stands in place of what it has made void.
    corrects = models.BooleanField(_("made by a correction"), default=False)
    # Whether rows of entries are still to be told that it was made, or undone; and how far that is.
    to_tell = models.BooleanField(_("entries are to be told"), default=True)
    told_to = models.CharField(_("entries are told up to"), max_length=64, blank=True)

    class Meta:
        verbose_name = _("invalidation")
        verbose_name_plural = _("invalidations")
        ordering: ClassVar[list[str]] = ["-pk"]
        default_permissions = ("view", "add")
        permissions: ClassVar[list[tuple[str, str]]] = [("undo_invalidation", "Can undo invalidations")]
        indexes: ClassVar[list[models.Index]] = [
            # What each process counts once a second is in it, and needs no row.
            models.Index(fields=["namespace", "active", "id"], name="llmcache_invalidation_state"),
            models.Index(
                fields=["namespace", "id"], name="llmcache_invalidation_tell", condition=models.Q(to_tell=True)
            ),
        ]

    def __str__(self) -> str:
        return self.uid[:12]


class Correction(models.Model):
    """An answer that a human has given for one request, in place of the provider's.

    It is in force as long as its line of the invalidation log is: that line makes the provider's answer void, and tells
    every process that there is this one.
    """

    invalidation = models.OneToOneField(
        Invalidation, verbose_name=_("invalidation"), on_delete=models.CASCADE, related_name="correction"
    )
    namespace = models.CharField(_("name space"), max_length=64)
    key = models.CharField(_("key"), max_length=64)
    kind = models.CharField(_("kind"), max_length=MAX_KIND)
    response_type = models.CharField(_("response type"), max_length=MAX_NAME)
    schema = models.CharField(_("schema's fingerprint"), max_length=64)
    model = models.CharField(_("model asked"), max_length=MAX_NAME)
    tenant = models.CharField(_("tenant"), max_length=MAX_NAME, blank=True)
    # As a provider would have written it: served through the same validation.
    answer = models.TextField(_("answer"))
    # What the answer had cost that it stands for, which a hit avoids; NULL when that is not known.
    cost_pico_usd = models.BigIntegerField(_("cost in 10⁻¹² US dollars"), null=True)
    latency_ms = models.BigIntegerField(_("latency in ms"), default=0)
    # Whether it is the provider's own answer, kept whatever its age.
    is_pin = models.BooleanField(_("pinned"), default=False)
    note = models.CharField(_("note"), max_length=500, blank=True)
    made_at = models.DateTimeField(_("made at"))
    made_by = models.CharField(_("made by"), max_length=MAX_NAME, blank=True)

    class Meta:
        verbose_name = _("correction")
        verbose_name_plural = _("corrections")
        ordering: ClassVar[list[str]] = ["-pk"]
        default_permissions = ("view", "add")
        permissions: ClassVar[list[tuple[str, str]]] = [("withdraw_correction", "Can withdraw corrections")]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["namespace", "key"], name="llmcache_correction_key"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key[:12]}"


class Lease(models.Model):
    """Which process asks the provider for one request, where no tier can hold that.

    Rows come and go with the calls; times are the database's own.
    """

    # What its entry is called in the tiers, so that two projects in one database do not meet.
    name = models.CharField(_("name"), max_length=255, unique=True)
    token = models.CharField(_("token"), max_length=32)
    until = models.DateTimeField(_("until"))
    # How the call has failed; empty while it is under way.
    outcome = models.TextField(_("outcome"), blank=True)

    class Meta:
        verbose_name = _("lease")
        verbose_name_plural = _("leases")
        default_permissions = ()

    def __str__(self) -> str:
        return self.token[:12]


class _Sums(models.Model):
    """Calls with one outcome, the attempts that were made for them, and what both came to."""

    outcome = models.CharField(_("outcome"), max_length=10)
    count = models.BigIntegerField(_("calls"), default=0)
    avoided_pico_usd = models.BigIntegerField(_("avoided in 10⁻¹² US dollars"), default=0)
    avoided_unknown = models.BigIntegerField(_("calls that avoided a cost that is not known"), default=0)
    saved_ms = models.BigIntegerField(_("saved ms"), default=0)
    attempts = models.BigIntegerField(_("attempts"), default=0)
    spent_pico_usd = models.BigIntegerField(_("spent in 10⁻¹² US dollars"), default=0)
    unpriced = models.BigIntegerField(_("attempts whose cost is not known"), default=0)
    in_doubt = models.BigIntegerField(_("attempts in doubt"), default=0)
    in_doubt_pico_usd = models.BigIntegerField(_("bound of what is in doubt in 10⁻¹² US dollars"), default=0)
    in_doubt_unbounded = models.BigIntegerField(_("attempts in doubt without a bound"), default=0)
    simulated = models.BooleanField(_("recorded on a simulated clock"), default=False)

    class Meta(_Tokens.Meta):
        abstract = True


class UsageBucket(_Sums):
    """An hour of one kind, model, tier and outcome."""

    hour = models.DateTimeField(_("hour"))
    kind = models.CharField(_("kind"), max_length=MAX_KIND)
    model = models.CharField(_("model"), max_length=MAX_NAME)
    tier = models.CharField(_("tier"), max_length=MAX_KIND, blank=True)
    # How many attempts took less than 2**n ms, and not less than half of that, at place n.
    latencies = models.JSONField(_("latencies"), default=list)

    class Meta(_Sums.Meta):
        verbose_name = _("hour of usage")
        verbose_name_plural = _("hours of usage")
        ordering: ClassVar[list[str]] = ["-hour", "kind", "model", "tier", "outcome"]
        default_permissions = ("view",)
        permissions: ClassVar[list[tuple[str, str]]] = [("view_dashboard", "Can see the dashboard")]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["hour", "kind", "model", "tier", "outcome", "simulated"], name="llmcache_bucket_hour"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.kind} {self.outcome}"


class Dashboard(UsageBucket):
    """No table of its own: the dashboard's place among the models of an admin site.

    So it stands where those are listed, and who may see it is asked for by the name ``llmcache.view_dashboard``.
    """

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        proxy = True
        verbose_name = _("dashboard")
        verbose_name_plural = _("dashboard")
        default_permissions = ()


class TenantDay(_Sums):
    """A day (UTC) of one tenant and outcome; the tenant is empty for calls that named none."""

    day = models.DateField(_("day"))
    tenant = models.CharField(_("tenant"), max_length=MAX_NAME, blank=True)

    class Meta(_Sums.Meta):
        verbose_name = _("day of a tenant")
        verbose_name_plural = _("days of tenants")
        ordering: ClassVar[list[str]] = ["-day", "tenant", "outcome"]
        default_permissions = ("view",)
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["day", "tenant", "outcome", "simulated"], name="llmcache_tenant_day_of"),
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.tenant} {self.outcome}"
