"""Instructor: a cache for its ``cache=``, and its clients as providers of llmcache.

completions   what a completion says, whichever provider's it is
cache         ``DjangoCache``
provider      ``asking`` and ``aasking``
"""

from llmcache.exceptions import ConfigurationError

try:
    import instructor.cache as _  # noqa: F401  # pyright: ignore  # in an environment of its own
except ImportError as error:
    raise ConfigurationError(
        f"llmcache.contrib.instructor needs Instructor 1.17 or newer, which cannot be imported ({error}). Install it: "
        "pip install 'django-llmcache[instructor]'."
    ) from None

from llmcache.contrib.instructor.cache import DjangoCache
from llmcache.contrib.instructor.provider import aasking, asking

__all__ = ["DjangoCache", "aasking", "asking"]
