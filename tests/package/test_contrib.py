"""The adapters to other libraries, where those are not installed."""

import subprocess
import sys

from tests.conftest import child_environment

PROGRAM = """
import sys
import llmcache
print(sorted(name for name in sys.modules if name.startswith("llmcache.contrib")))
for name in ("instructor", "langchain"):
    try:
        __import__(f"llmcache.contrib.{name}")
    except llmcache.ConfigurationError as error:
        print(error)
"""


def test_an_adapter_without_its_library_says_what_to_install() -> None:
    """And the package by itself loads none."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=child_environment()
    )
    loaded, instructor, langchain = done.stdout.splitlines()
    assert loaded == "[]"
    assert "No module named 'instructor'" in instructor
    assert instructor.endswith("pip install 'django-llmcache[instructor]'.")
    assert "No module named 'langchain_core'" in langchain
    assert langchain.endswith("pip install 'django-llmcache[langchain]'.")
