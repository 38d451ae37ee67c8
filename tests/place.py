"""A temporary folder for all that the project writes while it is tested; child processes share it."""

import atexit
import os
import shutil
import tempfile

_VARIABLE = "LLMCACHE_TESTS_VAR"


def _made() -> str:
    folder, owner = tempfile.mkdtemp(prefix="llmcache-tests-"), os.getpid()
    # A forked child runs its parent's exit handlers too.
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    return folder


if _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = _made()
os.environ["LLMCACHE_DEMO_VAR"] = os.environ[_VARIABLE]
