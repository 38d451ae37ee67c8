"""The demo project's settings over databases that a variable names."""

import json
import os

from tests.settings import *  # noqa: F403 - Django reads a settings module's names

DATABASES = json.loads(os.environ["OUTAGE_DATABASES"])
LLMCACHE |= {"DATABASE": os.environ["OUTAGE_LEDGER"]}  # noqa: F405
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
