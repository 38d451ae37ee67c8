"""The demo project's settings, for the tests of package and project: what is written lies in a temporary folder."""

import tests.place  # noqa: F401 - tells the project's settings where to write, so it comes first

# isort: split
from project.settings import *  # noqa: F403 - Django reads a settings module's names

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SILENCED_SYSTEM_CHECKS: list[str] = []
