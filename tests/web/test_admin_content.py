"""An entry about an image in the admin: it is told by its digest, and that it cannot be asked for here is said."""

import hashlib
from collections.abc import Iterator

import pytest
from django.test import Client
from pydantic import BaseModel

import llmcache
from llmcache.admin_pages import whereabouts
from llmcache.models import CacheEntry
from llmcache.refusals import REASONS
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.web.page import Page

pytestmark = pytest.mark.django_db
PNG = b"\x89PNG\r\n\x1a\n" + b"Canary"


class Receipt(BaseModel):
    """What was paid."""

    total: int


@pytest.fixture
def entry(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[CacheEntry]:
    # A machine that is busy with other tests is no tier that hangs.
    monkeypatch.setattr(whereabouts, "LOOK_SECONDS", 20.0)
    with llmcache_settings(KINDS={"Receipt": {"type": Receipt}}):
        made = llmcache.extract_with_info(["Read this:", llmcache.Image(PNG, detail="low")], Receipt)
        assert llmcache.flush()
        yield CacheEntry.objects.get(key=made.key)


def test_it_is_shown_by_its_digest_and_not_asked_for(entry: CacheEntry, admin_client: Client) -> None:
    page = Page(admin_client.get(f"/admin/llmcache/cacheentry/{entry.pk}/change/").content.decode())
    assert page.text.count(str(REASONS["files_not_kept"])) == 1
    shown = Page(admin_client.post(f"/admin/llmcache/cacheentry/{entry.pk}/reveal/").content.decode())
    for told in ("Read this:", hashlib.sha256(PNG).hexdigest(), f"size={len(PNG)}", '"detail": "low"'):
        assert told in shown.text
    assert "base64" not in shown.text
    assert "Images and files are not kept" in shown.text


def test_of_a_text_nothing_is_said_of_files(sandbox: Sandbox, admin_client: Client) -> None:
    made = llmcache.extract_with_info("data:image/png;sha256=0;size=1,", Receipt)
    assert llmcache.flush()
    entry = CacheEntry.objects.get(key=made.key)
    shown = Page(admin_client.post(f"/admin/llmcache/cacheentry/{entry.pk}/reveal/").content.decode())
    assert "Without the schema" in shown.text
    assert "not kept" not in shown.text
