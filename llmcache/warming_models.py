"""The rows of warming: plans of what to keep warm, runs of them, and what each run has to ask.

An item holds its text from when the run is prepared until it is done with, and no longer. Money is in whole numbers of
10**-12 US dollars, but for what a person writes into a plan.
"""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from llmcache.column_sizes import MAX_KIND, MAX_NAME
from llmcache.money.pricing import dollars

MAX_CONCURRENCY = 256
"""Calls that one process makes at the same time."""
UID_DIGITS = 32


class WarmingPlan(models.Model):
    """What is to be kept warm, how often, and what that may cost."""

    class Source(models.TextChoices):
        """Where the texts come from, beside the functions that ``WARMING`` names."""

        TEXTS = "texts", _("the texts below")
        MISSES = "misses", _("the costliest misses")
        EXPIRING = "expiring", _("what is about to expire")
        CHANGED = "changed", _("what a change has left behind")

    name = models.CharField(_("name"), max_length=MAX_KIND, unique=True)
    # One of `Source`, or a name in the setting WARMING: a row never names code.
    source = models.CharField(_("source"), max_length=MAX_NAME)
    # One text a line, where the source is these.
    texts = models.TextField(_("texts"), blank=True)
    # How many days misses are looked for in, or what expires.
    days = models.PositiveIntegerField(
        _("days"), default=7, validators=[MinValueValidator(1), MaxValueValidator(3_650)]
    )
    most = models.PositiveIntegerField(_("items at most"), null=True, blank=True, validators=[MinValueValidator(1)])
    # Names its response type by KINDS.
    kind = models.CharField(_("kind"), max_length=MAX_KIND)
    model = models.CharField(_("model"), max_length=MAX_NAME, blank=True)
    system = models.TextField(_("system prompt"), blank=True)
    tenant = models.CharField(_("tenant"), max_length=MAX_NAME, blank=True)
    tags = models.JSONField(_("tags"), default=list, blank=True)
    max_usd = models.DecimalField(
        _("US dollars at most"),
        max_digits=12,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
    )
    max_calls = models.PositiveIntegerField(_("calls at most"), null=True, blank=True)
    per_minute = models.PositiveIntegerField(
        _("calls a minute"), null=True, blank=True, validators=[MinValueValidator(1)]
    )
    concurrency = models.PositiveSmallIntegerField(
        _("calls at the same time"), default=8, validators=[MinValueValidator(1), MaxValueValidator(MAX_CONCURRENCY)]
    )
    # Minute, hour, day of the month, month, day of the week; empty: only when somebody says so.
    crontab = models.CharField(_("crontab"), max_length=100, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True)
    made_at = models.DateTimeField(_("made at"), default=timezone.now, editable=False)
    # When it was last found to be due.
    due_at = models.DateTimeField(_("last due at"), null=True, editable=False)
    # The run that is going on: another one is refused meanwhile.
    run_uid = models.CharField(_("run under way"), max_length=UID_DIGITS, blank=True, editable=False)

    class Meta:
        verbose_name = _("warming plan")
        verbose_name_plural = _("warming plans")
        ordering: ClassVar[list[str]] = ["name"]
        permissions: ClassVar[list[tuple[str, str]]] = [("run_warmingplan", "Can run warming plans")]

    def __str__(self) -> str:
        return self.name


class WarmingRun(models.Model):
    """One time that texts were asked for ahead of their use."""

    class State(models.TextChoices):
        """How far it is."""

        PREPARING = "preparing", _("being prepared")
        RUNNING = "running", _("under way")
        PAUSED = "paused", _("paused")
        EXHAUSTED = "exhausted", _("ended by its budget")
        DONE = "done", _("done")
        CANCELLED = "cancelled", _("cancelled")

    uid = models.CharField(_("id"), max_length=UID_DIGITS, unique=True, editable=False)
    namespace = models.CharField(_("name space"), max_length=64)
    plan = models.ForeignKey(
        WarmingPlan, verbose_name=_("plan"), on_delete=models.SET_NULL, null=True, related_name="runs"
    )
    state = models.CharField(_("state"), max_length=10, choices=State.choices)
    # Why nobody goes on by itself: an error's code, where the run was paused by one.
    trouble = models.CharField(_("trouble"), max_length=64, blank=True)
    kind = models.CharField(_("kind"), max_length=MAX_KIND)
    response_type = models.CharField(_("response type"), max_length=MAX_NAME)
    model = models.CharField(_("model asked"), max_length=MAX_NAME)
    # What holds for all items: "ttl" where one was given.
    options = models.JSONField(_("options"), default=dict)
    # Of all items that have none of their own; emptied with the last of them.
    system = models.TextField(_("system prompt"), blank=True)
    made_at = models.DateTimeField(_("made at"), db_index=True)
    made_by = models.CharField(_("made by"), max_length=MAX_NAME, blank=True)
    started_at = models.DateTimeField(_("started at"), null=True)
    ended_at = models.DateTimeField(_("ended at"), null=True)
    # When somebody last gave a sign of preparing it, or of working at it.
    seen_at = models.DateTimeField(_("last sign of life"), null=True)
    items_count = models.PositiveIntegerField(_("items"), default=0)
    duplicates = models.PositiveIntegerField(_("duplicates"), default=0)
    estimate_pico_usd = models.BigIntegerField(_("estimate in 10⁻¹² US dollars"), null=True)
    estimate_basis = models.CharField(_("basis of the estimate"), max_length=MAX_NAME, blank=True)
    max_calls = models.PositiveIntegerField(_("calls at most"), null=True)
    max_pico_usd = models.BigIntegerField(_("10⁻¹² US dollars at most"), null=True)
    per_minute = models.PositiveIntegerField(_("calls a minute"), null=True)
    concurrency = models.PositiveSmallIntegerField(_("calls at the same time"), default=8)
    # The purse: calls that may leave or have left, and what these cost or may cost.
    permits = models.BigIntegerField(_("calls drawn"), default=0)
    held_pico_usd = models.BigIntegerField(_("held in 10⁻¹² US dollars"), default=0)
    # What a call that has not ended counts as; NULL where nobody knows.
    permit_pico_usd = models.BigIntegerField(_("held for a call in 10⁻¹² US dollars"), null=True)
    # Seconds since the epoch before which no further call is drawn.
    paced_until = models.FloatField(_("paced until"), default=0.0)
    # What the calls have come to that have ended.
    calls = models.BigIntegerField(_("calls"), default=0)
    spent_pico_usd = models.BigIntegerField(_("spent in 10⁻¹² US dollars"), default=0)
    unpriced = models.BigIntegerField(_("calls whose cost is not known"), default=0)

    class Meta:
        verbose_name = _("warming run")
        verbose_name_plural = _("warming runs")
        ordering: ClassVar[list[str]] = ["-pk"]
        default_permissions = ("view",)
        permissions: ClassVar[list[tuple[str, str]]] = [
            ("control_warmingrun", "Can pause, resume and cancel warming runs")
        ]

    def __str__(self) -> str:
        return self.uid[:12]

    @property
    def spent_usd(self) -> Decimal:
        """US dollars that calls have cost, of those whose cost is known."""
        return dollars(self.spent_pico_usd) or Decimal(0)

    @property
    def estimate_usd(self) -> Decimal | None:
        """US dollars that it was estimated to cost; None where nobody could tell."""
        return dollars(self.estimate_pico_usd)


class WarmingItem(models.Model):
    """One text of a run."""

    class State(models.TextChoices):
        """What became of it."""

        WAITING = "waiting", _("waiting")
        CLAIMED = "claimed", _("being asked")
        LIVE = "live", _("there already")
        WARMED = "warmed", _("warmed")
        FAILED = "failed", _("failed")
        DROPPED = "dropped", _("not asked any more")

    run = models.ForeignKey(
        WarmingRun, verbose_name=_("run"), on_delete=models.CASCADE, related_name="items", db_index=False
    )
    key = models.CharField(_("key"), max_length=64)
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.WAITING)
    # What is to be asked, as JSON; emptied when it is done with.
    text = models.TextField(_("text"), blank=True)
    # Who asks, and until when that holds without a further sign of life.
    claim = models.CharField(_("claim"), max_length=UID_DIGITS, blank=True)
    claimed_until = models.DateTimeField(_("claimed until"), null=True)
    tries = models.PositiveSmallIntegerField(_("tries"), default=0)
    calls = models.PositiveIntegerField(_("calls"), default=0)
    error = models.CharField(_("error"), max_length=64, blank=True)
    # What its entry had been good for before, so that what comes after can be told from it.
    hits_before = models.BigIntegerField(_("hits before"), default=0)
    saved_before_pico_usd = models.BigIntegerField(_("saved before in 10⁻¹² US dollars"), default=0)
    done_at = models.DateTimeField(_("done at"), null=True)

    class Meta:
        verbose_name = _("warming item")
        verbose_name_plural = _("warming items")
        ordering: ClassVar[list[str]] = ["pk"]
        default_permissions = ()
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["run", "key"], name="llmcache_warming_item"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["run", "state", "id"], name="llmcache_warming_state"),
            # A call of the ledger finds the run that has made it.
            models.Index(fields=["key"], name="llmcache_warming_key"),
        ]

    def __str__(self) -> str:
        return self.key[:12]
