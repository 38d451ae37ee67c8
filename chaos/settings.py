"""Settings of the processes that are measured, as the arm that has started them says."""

import json
import os

_told = json.loads(os.environ["LLMCACHE_CHAOS"])

INSTALLED_APPS = ["llmcache"]
DATABASES = {"default": _told["database"]}
CACHES = _told["caches"]
LLMCACHE = _told["llmcache"]
SECRET_KEY = "chaos"
USE_TZ = True
