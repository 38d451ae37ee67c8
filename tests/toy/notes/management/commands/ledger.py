"""Says what the ledger holds once everything in the journal of this machine is in it."""

import json
import time
from typing import Any

from django.core.management.base import BaseCommand

import llmcache
from llmcache.models import ProviderCall

_SECONDS = 60


class Command(BaseCommand):
    """Prints the calls and the totals as JSON."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Flush and print."""
        before = ProviderCall.objects.count()
        deadline = time.monotonic() + _SECONDS
        while not (flushed := llmcache.flush(timeout=_SECONDS)) and time.monotonic() < deadline:
            time.sleep(0.05)
        stats = llmcache.stats()
        told = {
            "before": before,
            "flushed": flushed,
            "calls": list(ProviderCall.objects.values()),
            "stats": {name: getattr(stats, name) for name in stats.__dataclass_fields__},
        }
        self.stdout.write(json.dumps(told, default=str))
