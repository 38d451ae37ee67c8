"""The pages over a large ledger: ``python -m benchmarks.pages``. Server time through Django's test client, and plans.

Starts a PostgreSQL of its own, fills it with 1,000,000 provider calls and 100,000 entries (``--calls``, ``--entries``)
and asks for each page of the admin and for the dashboard: as it opens, with each of its filters and orders, and for
what is searched and paged. Ends with 1 if one is too slow, makes too many queries, or scans the ledger.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

LEDGER = "llmcache_providercall"
LARGE = (LEDGER, "llmcache_cacheentry", "llmcache_entrytag")
MOST_MS = 300.0
MOST_MS_OF_400_DAYS = 1_000.0
"""The longest period reads every hour that there is, and draws 400 days."""
LONGEST = f"from={time.gmtime().tm_year - 2}-01-01"
MOST_QUERIES = 10
MOST_READ = 20_000
"""Rows. A count that ends at 10,001 may begin at the front of a table where nearly every row counts."""
ROUNDS = 15
VARIANT_ROUNDS = 5


@dataclass
class Measured:
    """What one address takes."""

    name: str
    address: str
    status: int
    times_ms: list[float]
    cpu_ms: float
    """Of this process and the database together, on average: the time on a machine that does nothing else."""
    queries: int
    kilobytes: float
    scans: dict[str, str] = field(default_factory=dict)
    """Queries that scan a whole large table, by its name."""
    slowest: str = ""
    """The slowest query."""

    @property
    def median(self) -> float:
        """In ms."""
        return statistics.median(self.times_ms)

    @property
    def p95(self) -> float:
        """In ms; of few rounds the slowest one."""
        return sorted(self.times_ms)[max(0, round(len(self.times_ms) * 0.95) - 1)]

    @property
    def most_ms(self) -> float:
        """The target."""
        return MOST_MS_OF_400_DAYS if self.address.endswith(LONGEST) else MOST_MS

    @property
    def wrong(self) -> list[str]:
        """Which of the targets it misses."""
        found = [f"status {self.status}"] if self.status != 200 else []
        # What other programs do meanwhile is in the one, what a disk or a lock takes is in the other.
        found += [f"{self.median:.0f} ms"] if min(self.median, self.cpu_ms) > self.most_ms else []
        found += [f"{self.queries} queries"] if self.queries > MOST_QUERIES else []
        return found + ([f"scans {LEDGER}"] if LEDGER in self.scans else [])


def main() -> None:
    """Make the ledger, measure and print."""
    options = _options()
    from tests.services import Postgres

    server = Postgres()
    try:
        with tempfile.TemporaryDirectory(prefix="llmcache-bench-") as place:
            os.environ["LLMCACHE_BENCH_PLACE"] = place
            os.environ["LLMCACHE_BENCH_DATABASE"] = json.dumps(server.database("pages"))
            os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.pages_settings"
            failed = _measure_all(
                options, Processor(int((server.folder / "data" / "postmaster.pid").read_text().split()[0]))
            )
            from django.db import connections

            connections.close_all()
    finally:
        server.close()
    sys.exit(1 if failed else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages")
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--only", default="", help="measure only pages whose name has this in it")
    parser.add_argument("--all", action="store_true", help="print every filter and order, not the slowest of a page")
    return parser.parse_args()


class Processor:
    """How long the processors worked for us: in this process, in the connection's server process, in its workers."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = Path(f"/proc/{postmaster}/stat")

    def spent_ms(self) -> float:
        """Return it, since some moment; where the system does not tell of other processes, of this one alone."""
        from django.db import connection

        found = time.process_time() * 1e3
        if self._postmaster.exists() and connection.connection is not None:
            backend = Path(f"/proc/{connection.connection.info.backend_pid}/stat")
            # Fields 14 to 17 of proc(5): its own time, and that of children that have ended, as parallel workers do.
            found += _ticks(backend, 14, 15) + _ticks(self._postmaster, 16, 17)
        return found


def _ticks(stat: Path, *fields: int) -> float:
    told = stat.read_text().rpartition(")")[2].split()
    return sum(int(told[number - 3]) for number in fields) * 1e3 / os.sysconf("SC_CLK_TCK")


def _measure_all(options: argparse.Namespace, processor: Processor) -> bool:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.test import Client

    from benchmarks.filling import fill

    call_command("migrate", verbosity=0)
    began = time.perf_counter()
    fill("default", calls=options.calls, entries=options.entries)
    version = f"PostgreSQL {connection.pg_version // 10_000}, {os.cpu_count()} cores"  # type: ignore[attr-defined]
    print(f"{version}; filled in {time.perf_counter() - began:.0f} s:")
    for name, rows in _rows():
        print(f"  {name:<26} {rows:>10,} rows")
    client = Client(raise_request_exception=False)
    client.force_login(_superuser())
    print(f"\n{'page':<58} {'median':>8} {'p95':>8} {'cpu':>8} {'queries':>8} {'kB':>6}   (ms)")
    failed = False
    for name, address in _pages():
        if options.only not in name:
            continue
        found = _measure(client, processor, name, address, ROUNDS)
        variants = [
            _measure(client, processor, label, each, VARIANT_ROUNDS) for label, each in _variants(client, name, address)
        ]
        shown = variants if options.all else sorted(variants, key=lambda each: -each.median)[:3]
        for each in (found, *variants):
            failed = failed or bool(each.wrong)
            if each is found or each in shown or each.wrong:
                _print(each, indent=each is not found)
    return failed


def _rows() -> Iterator[tuple[str, int]]:
    from django.apps import apps
    from django.db import connection

    for model in apps.get_app_config("llmcache").get_models():
        if model._meta.proxy:
            continue
        with connection.cursor() as cursor:
            cursor.execute(f'SELECT count(*) FROM "{model._meta.db_table}"')
            yield model._meta.object_name or "", cursor.fetchone()[0]


def _superuser() -> Any:
    from django.contrib.auth import get_user_model

    return get_user_model()._default_manager.create_superuser("admin", "", "admin")  # type: ignore[attr-defined]


def _pages() -> Iterator[tuple[str, str]]:
    """Yield each page's name and address: the dashboard, and of each model of the admin its list and one row."""
    from django.contrib import admin
    from django.urls import NoReverseMatch, reverse

    for name in ("llmcache:dashboard", "llmcache:dashboard-json", "admin:llmcache_dashboard", "admin:index"):
        try:
            yield name, reverse(name)
        except NoReverseMatch:
            print(f"{name:<58} is not there")
    for model in admin.site._registry:
        if model._meta.app_label != "llmcache" or model._meta.proxy:
            continue
        info = f"admin:llmcache_{model._meta.model_name}"
        yield f"{info}_changelist", reverse(f"{info}_changelist")
        row = model._default_manager.order_by("-pk").first()
        if row is not None:
            yield f"{info}_change", reverse(f"{info}_change", args=[row.pk])


def _variants(client: Any, name: str, address: str) -> Iterator[tuple[str, str]]:
    """Yield what can be asked of a page besides: periods and kinds, filters, orders, searches, other pages."""
    if name.startswith("llmcache:") or name.endswith("_dashboard"):
        yield from ((query, f"{address}?{query}") for query in _DASHBOARD)
    if not name.endswith("_changelist"):
        return
    page = client.get(address).content.decode()
    # Of a filter with many values the first ones and the last one are enough.
    by_filter: dict[str, list[str]] = {}
    for query in dict.fromkeys(unescape(each) for each in re.findall(r'href="\?([^"]+)"', page)):
        by_filter.setdefault(re.sub(r"=[^&]*", "", query), []).append(query)
    for queries in by_filter.values():
        yield from (
            (query, f"{address}?{query}") for query in (queries if len(queries) < 8 else queries[:5] + queries[-1:])
        )
    yield from ((query, f"{address}?{query}") for query in _searches(name))


_DASHBOARD = (
    *("period=7d", "period=90d", "period=month", "kind=Kind0", "kind=Kind11", "period=90d&kind=Kind3"),
    *(LONGEST, "from=2020-01-01&to=2020-02-01", "kind=nobody"),
)


def _searches(name: str) -> Iterator[str]:
    from llmcache.models import CacheEntry, ProviderCall

    key = CacheEntry._default_manager.order_by("pk")[50].key
    yield from ("p=2", "p=100", "p=1000", "p=100000000", f"q={key}", f"q={key[:12]}", "q=tag+7", "q=prod", "q=nothing")
    yield from ("q=Kind3", "q=" + "x" * 10_000, "q=%00", "all=", "o=1", "o=-2.3", "e=1")
    if "providercall" in name:
        call = ProviderCall._default_manager.order_by("pk")[7]
        yield from (f"q={call.call_id}", f"q={call.request_id}", f"key={call.key}")


def _measure(client: Any, processor: Processor, name: str, address: str, rounds: int) -> Measured:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as captured:
        response = client.get(address, follow=True)
        # Now: the next request empties the log that it looks into.
        queries = [query["sql"] for query in captured]
    times: list[float] = []
    before = processor.spent_ms()
    for _ in range(rounds):
        began = time.perf_counter()
        client.get(address, follow=True)
        times.append((time.perf_counter() - began) * 1e3)
    cpu = (processor.spent_ms() - before) / rounds
    body = b"".join(response.streaming_content) if response.streaming else response.content
    found = Measured(name, address, response.status_code, times, cpu, len(queries), len(body) / 1e3)
    _explain(found, queries)
    return found


def _explain(found: Measured, queries: list[str]) -> None:
    from django.db import connection

    slowest = 0.0
    for sql in queries:
        if not sql.startswith("SELECT") or "llmcache_" not in sql:
            continue
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + sql)
            told = cursor.fetchone()[0]
        (plan,) = json.loads(told) if isinstance(told, str) else told
        for node in _nodes(plan["Plan"]):
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE and _read(node) > MOST_READ:
                found.scans[node["Relation Name"]] = sql
        if plan["Execution Time"] > slowest:
            slowest = plan["Execution Time"]
            found.slowest = f"{slowest:.0f} ms: {sql}"


def _read(scan: dict[str, Any]) -> int:
    return (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


def _print(found: Measured, *, indent: bool) -> None:
    name = f"  {found.name}" if indent else found.name
    name = name if len(name) <= 58 else f"{name[:57]}…"
    wrong = f"  !! {', '.join(found.wrong)}" if found.wrong else ""
    figures = f"{found.median:8.1f} {found.p95:8.1f} {found.cpu_ms:8.1f} {found.queries:8} {found.kilobytes:6.0f}"
    print(f"{name:<58} {figures}{wrong}", flush=True)
    if found.wrong:
        print(f"      slowest query {found.slowest[:1_000]}")
    for table, sql in found.scans.items():
        print(f"      scans {table}: {sql[:600]}")


if __name__ == "__main__":
    main()
