"""The row of an invalidation that is not in force yet."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from llmcache.column_sizes import MAX_CONDITION, MAX_KIND, MAX_NAME


class PlannedInvalidation(models.Model):
    """An invalidation that is to be made at a time; then it gets its line in the log, under the same id."""

    # What its line will be found by: sixteen bytes at random, in hex.
    uid = models.CharField(_("id"), max_length=32, unique=True, editable=False)
    namespace = models.CharField(_("name space"), max_length=64)
    # Conditions, as `Invalidation` has them.
    key = models.CharField(_("key"), max_length=64, blank=True)
    tenant = models.CharField(_("tenant"), max_length=MAX_CONDITION, blank=True)
    subject_hash = models.CharField(_("subject's hash"), max_length=64, blank=True)
    response_type = models.CharField(_("response type"), max_length=MAX_CONDITION, blank=True)
    model = models.CharField(_("model"), max_length=MAX_CONDITION, blank=True)
    tag = models.CharField(_("tag"), max_length=MAX_CONDITION, blank=True)
    kind = models.CharField(_("kind"), max_length=MAX_KIND, blank=True)
    due_at = models.DateTimeField(_("due at"))
    # Neither in force nor called off.
    is_open = models.BooleanField(_("to come"), default=True)
    in_force_at = models.DateTimeField(_("in force since"), null=True)
    made_at = models.DateTimeField(_("made at"))
    made_by = models.CharField(_("made by"), max_length=MAX_NAME, blank=True)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    called_off_at = models.DateTimeField(_("called off at"), null=True)
    called_off_by = models.CharField(_("called off by"), max_length=MAX_NAME, blank=True)

    class Meta:
        verbose_name = _("planned invalidation")
        verbose_name_plural = _("planned invalidations")
        ordering: ClassVar[list[str]] = ["-due_at", "-pk"]
        default_permissions = ("view",)
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["namespace", "is_open", "due_at"], name="llmcache_planned_due"),
        ]

    def __str__(self) -> str:
        return self.uid[:12]

    @property
    def is_overdue(self) -> bool:
        """Whether nobody has brought it into force although it is due."""
        return self.is_open and self.due_at <= timezone.now()
