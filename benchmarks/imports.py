"""What ``import llmcache`` takes beyond ``django.core.cache`` and pydantic, in fresh processes."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

_PROGRAM = """
import sys, time
import django.core.cache, pydantic
from pydantic import BaseModel
began = time.perf_counter()
import llmcache
heavy = {"openai", "celery", "httpx2", "genai_prices", "sqlite3"} & set(sys.modules)
print((time.perf_counter() - began) * 1e3, *sorted(heavy))
"""


def report() -> Iterator[str]:
    """Yield the lines of the report."""
    runs = [
        subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(11)
    ]
    yield "Import beyond django.core.cache and pydantic"
    yield f"  import llmcache  {statistics.median(float(run[0]) for run in runs):7.1f} ms"
    yield f"  heavy modules that came with it: {', '.join(runs[0][1:]) or 'none'}"
