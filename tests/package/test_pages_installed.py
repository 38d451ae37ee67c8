"""The pages in projects that have installed the wheel: with and without the admin, with and without time zones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = '''
"""A project in one file: opens each page as its superuser and prints what came."""

import json
import sys

import django
from django.conf import settings
from django.urls import include, path

told = json.loads(sys.argv[1])
settings.configure(
    SECRET_KEY="one file",
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF="__main__",
    USE_TZ=told["tz"],
    TIME_ZONE="Europe/Berlin",
    STATIC_URL="static/",
    LOGIN_URL="/login/",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[*told["apps"], "llmcache"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": told["folder"] + "/db.sqlite3"}},
    LLMCACHE={"DISK_PATH": told["folder"] + "/tier", "JOURNAL": told["folder"] + "/journal"},
)
django.setup()

urlpatterns = [path("llm/", include("llmcache.urls"))]
if "django.contrib.admin" in told["apps"]:
    from django.contrib import admin

    site = admin.site
    if told["own_site"]:
        import llmcache.admin

        site = admin.AdminSite("own")
        llmcache.admin.register(site)
    urlpatterns.append(path("manage/", site.urls))

from django.contrib.auth import get_user_model
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

import llmcache

call_command("check", verbosity=0)
call_command("migrate", verbosity=0)
client = Client()
client.force_login(get_user_model().objects.create_superuser("ada", "", "secret"))
pages = ["/llm/", "/llm/dashboard.json"]
if len(urlpatterns) > 1:
    name = site.name
    pages += [reverse("admin:index", current_app=name), reverse("admin:llmcache_dashboard", current_app=name)]
    for model in ("cacheentry", "providercall", "usagebucket", "tenantday", "schemaversion"):
        pages.append(reverse(f"admin:llmcache_{model}_changelist", current_app=name))
print(
    json.dumps(
        {
            "file": llmcache.__file__,
            "statuses": {page: client.get(page).status_code for page in pages},
            "static": [finders.find(f"llmcache/{name}") is not None for name in ("dashboard.css", "admin.css")],
        }
    )
)
'''

BARE = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.staticfiles"]
WITH_ADMIN = ["django.contrib.admin", "django.contrib.messages", *BARE]


def opened(wheel: Path, folder: Path, **told: Any) -> dict[str, Any]:
    """Run the project over the wheel, in a home of its own, and return what it printed."""
    script = folder / "site_of_one_file.py"
    script.write_text(PROJECT)
    done = subprocess.run(
        [sys.executable, script, json.dumps({"folder": str(folder), "own_site": False, "tz": True, **told})],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(wheel)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["file"]).is_relative_to(wheel)
    return found


def test_without_the_admin(wheel: Path, tmp_path: Path) -> None:
    found = opened(wheel, tmp_path, apps=BARE)
    assert found["statuses"] == {"/llm/": 200, "/llm/dashboard.json": 200}
    assert found["static"] == [True, True]


@pytest.mark.parametrize("own_site", [False, True])
@pytest.mark.parametrize("tz", [False, True])
def test_with_the_admin(wheel: Path, tmp_path: Path, own_site: bool, tz: bool) -> None:
    found = opened(wheel, tmp_path, apps=WITH_ADMIN, own_site=own_site, tz=tz)
    assert set(found["statuses"].values()) == {200}
    assert len(found["statuses"]) == 9
