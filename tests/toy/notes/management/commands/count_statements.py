"""Counts statements on llmcache's tables while calls are made: on every connection of the process."""

import json
import threading
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction
from django.db.backends.signals import connection_created

import llmcache
from llmcache.models import ProviderCall
from notes.models import Note
from notes.types import Title


class Command(BaseCommand):
    """Makes four calls in transactions and four outside of any."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Print what was counted."""
        ours: list[str] = []
        by_the_log: list[str] = []

        def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if "llmcache_" in sql:
                is_the_log = threading.current_thread().name == "llmcache-log"
                (by_the_log if is_the_log else ours).append(sql)
            return execute(sql, params, many, context)

        connection_created.connect(lambda connection, **_: connection.execute_wrappers.append(watch), weak=False)
        for number in range(4):
            with transaction.atomic():
                count = Note.objects.count()
                llmcache.extract(f"text {number} in a transaction", Title)
                Note.objects.create(text="", title=str(count))
            llmcache.extract(f"text {number} outside", Title)
        during, before = list(ours), len(ours)
        flushed = llmcache.flush(timeout=30)
        rows = ProviderCall.objects.count()
        told = {"calls": 8, "during": during, "before_flush": before, "rows": rows, "flushed": flushed}
        self.stdout.write(json.dumps({**told, "by_the_log": by_the_log}))
