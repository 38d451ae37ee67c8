"""Print the table: ``python -m benchmarks``, or parts of it: ``python -m benchmarks hits faults``.

Ratios are of one run; times belong to this machine and moment.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")
_place = tempfile.TemporaryDirectory(prefix="llmcache-bench-")
os.environ["LLMCACHE_BENCH_PLACE"] = _place.name
# Children find modules compiled, as an installed package is; where this process was told not to, it may be from source.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = f"{_place.name}/compiled"


def main() -> None:
    """Measure and print everything."""
    django.setup()
    from importlib.metadata import version

    from django.core.management import call_command

    from benchmarks import (
        asynchronous,
        batches,
        faults,
        footprint,
        hits,
        imports,
        ledger,
        log,
        misses,
        steps,
        streams,
        warming,
    )
    from llmcache.engine import process

    place = Path(_place.name)
    reports: dict[str, Callable[[], Iterator[str]]] = {
        "hits": hits.report,
        "steps": steps.report,
        "misses": lambda: misses.report(place),
        "ledger": ledger.report,
        "warming": lambda: warming.report(place),
        "asynchronous": lambda: asynchronous.report(place),
        "log": log.report,
        "batches": batches.report,
        "streams": streams.report,
        "faults": lambda: faults.report(place),
        "footprint": lambda: footprint.report(place),
        "imports": imports.report,
    }
    parts = sys.argv[1:] or list(reports)
    if unknown := set(parts) - set(reports):
        sys.exit(f"There is no part {', '.join(sorted(unknown))}. There are: {', '.join(reports)}.")
    with _place:
        call_command("migrate", verbosity=0)
        names = ("django", "pydantic", "openai")
        print(f"CPython {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
        print(f"{os.cpu_count()} cores, {platform.machine()}; medians of interleaved rounds\n")
        for part in parts:
            for line in reports[part]():
                print(line, flush=True)
        # Its threads write into the folder that goes now.
        process.finish(120)


if __name__ == "__main__":
    main()
