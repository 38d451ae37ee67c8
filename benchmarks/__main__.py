"""Print the table: ``python -m benchmarks``. Ratios are of one run; times belong to this machine and moment."""

import itertools
import os
import platform
import tempfile
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
_place = tempfile.TemporaryDirectory(prefix="llmcache-bench-")
os.environ["LLMCACHE_BENCH_PLACE"] = _place.name


def main() -> None:
    """Measure and print everything."""
    django.setup()
    from importlib.metadata import version

    from django.core.management import call_command

    from benchmarks import asynchronous, hits, imports, ledger, misses

    with _place:
        call_command("migrate", verbosity=0)
        names = ("django", "pydantic", "openai")
        print(f"CPython {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
        print(f"{os.cpu_count()} cores, {platform.machine()}; medians of interleaved rounds\n")
        place = Path(_place.name)
        reports = (hits.report(), misses.report(place), ledger.report(), asynchronous.report(place), imports.report())
        for line in itertools.chain(*reports):
            print(line, flush=True)


if __name__ == "__main__":
    main()
