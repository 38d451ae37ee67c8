"""The demo project's commands, run as a newcomer runs them: in processes of their own, with nothing set."""

import os
import subprocess
from pathlib import Path

from llmcache.testing.sandbox import Sandbox
from tests import forks

ROOT = Path(__file__).resolve().parents[2]


def environment(var: Path, **more: str) -> dict[str, str]:
    """The environment of a newcomer, who has set nothing."""
    ours = ("LLMCACHE_", "OPENAI_", "DJANGO_", "TENANTS", "PYTEST", "COLUMNS", "LINES")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**clean, "LLMCACHE_DEMO_VAR": str(var), **more}


def real_api(provider: Sandbox) -> dict[str, str]:
    """The environment of somebody who asks for the real API; the address is where a test can look at what comes."""
    return {
        "LLMCACHE_DEMO_PROVIDER": "openai",
        "OPENAI_API_KEY": "a-key",
        "OPENAI_BASE_URL": provider.base_url,
    }


def manage(var: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return forks.run(["manage.py", *arguments], cwd=ROOT, env=environment(var, **more), timeout=120)
