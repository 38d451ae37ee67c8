"""What is kept of the demo's runs."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class DemoRun(models.Model):
    """One run of ``manage.py demo``."""

    class Mode(models.TextChoices):
        """Whose answers a tenant is given."""

        SHARED = "shared", "tenants share one name space"
        SEPARATE = "separate", "one name space per tenant"

    class Provider(models.TextChoices):
        """Who was asked."""

        SANDBOX = "sandbox", "sandbox"
        OPENAI = "openai", "OpenAI's API"

    started_at = models.DateTimeField(db_index=True)
    # The time that its requests were recorded at, where that was made up; null where it was the real one.
    simulated_from = models.DateTimeField(null=True)
    simulated_until = models.DateTimeField(null=True)
    seconds = models.FloatField()
    threads = models.PositiveSmallIntegerField()
    mode = models.CharField(max_length=10, choices=Mode.choices)
    provider = models.CharField(max_length=10, choices=Provider.choices)
    requests = models.PositiveIntegerField()
    # How many calls each tier answered, and how many were "collapsed", "miss" or "error".
    outcomes = models.JSONField()
    # What the sandbox has charged; of OpenAI's API, the misses.
    provider_calls = models.PositiveIntegerField()
    # What the ledger says of the run, money in 10**-12 US dollars; null where it says nothing.
    spent_pico_usd = models.BigIntegerField(null=True)
    saved_pico_usd = models.BigIntegerField(null=True)
    # Calls that saved what is not known.
    saved_unknown = models.IntegerField(null=True)
    calls_in_doubt = models.IntegerField(null=True)
    # The most that calls in doubt can have cost; null where that has no bound.
    in_doubt_pico_usd = models.BigIntegerField(null=True)
    calls_unpriced = models.IntegerField(null=True)
    # How many values differed from what people read in the text.
    unlike_gold = models.PositiveIntegerField()
    # By outcome, and of all hits together as "hit": what latencies.measured returns.
    latencies = models.JSONField()
    # Whether the run came to the end of its requests.
    complete = models.BooleanField()

    class Meta:
        ordering: ClassVar = ["-started_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.requests:,} requests at {self.started_at:%Y-%m-%d %H:%M:%S}"
