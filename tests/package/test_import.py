"""What an import brings with it."""

import json
import subprocess
import sys

import pytest

from tests.cache_servers import RedisServer
from tests.conftest import child_environment

PROGRAM = """
import sys
import {module}
heavy = {{"openai", "httpx2", "celery", "genai_prices", "sqlite3", "redis", "django.http", "django.db.models"}}
print(*sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("module", ["llmcache", "llmcache.exceptions", "llmcache.conf"])
def test_nothing_heavy_comes_with_an_import(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


HIT = """
import sys, os, django
django.setup()
import llmcache, tempfile
from pydantic import BaseModel
from llmcache.testing.sandbox import Sandbox
class Person(BaseModel):
    name: str
if sys.argv[1] == "miss":
    with Sandbox(answers={"Ada": {"name": "Ada"}}) as provider:
        os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = provider.base_url, "sandbox"
        llmcache.extract("Ada", Person)
else:
    os.environ["OPENAI_BASE_URL"] = "http://127.0.0.1:1/v1"
    print(llmcache.extract_with_info("Ada", Person).tier)
    llmcache.extract("Ada", Person)
print(*sorted({"openai", "httpx2", "genai_prices"} & set(sys.modules)))
"""


@pytest.mark.parametrize("tier", ["disk", "shared"])
def test_a_hit_does_not_load_the_providers_sdk(tier: str, request: pytest.FixtureRequest) -> None:
    """Nor does the first of a process, from whatever tier."""
    environment = child_environment()
    if tier == "shared":
        server: RedisServer = request.getfixturevalue("redis_server")
        shared = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": server.url}
        default = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
        environment["LLMCACHE_TEST_CACHES"] = json.dumps({"default": default, "shared": shared})
        settings = json.loads(environment["LLMCACHE_TEST_SETTINGS"])
        environment["LLMCACHE_TEST_SETTINGS"] = json.dumps({**settings, "TIERS": ["shared"]})
    outputs = [
        subprocess.run(
            [sys.executable, "-c", HIT, word], capture_output=True, text=True, check=True, env=environment
        ).stdout.split()
        for word in ("miss", "hit")
    ]
    assert outputs == [["genai_prices", "httpx2", "openai"], [tier]]


def test_an_import_opens_and_starts_nothing(tmp_path: object) -> None:
    program = (
        "import os, threading, django; from django.conf import settings; "
        "settings.configure(INSTALLED_APPS=['llmcache'], LLMCACHE={'JOURNAL': os.getcwd() + '/journal'}); "
        "before = len(os.listdir('/proc/self/fd')); import llmcache; django.setup(); "
        "print(threading.active_count(), len(os.listdir('/proc/self/fd')) - before, os.listdir())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=str(tmp_path)
    )
    assert done.stdout.strip() == "1 0 []"
