"""Cache entries in an admin site: their list, the page of one, and what can be done with them."""

from __future__ import annotations

from llmcache.admin_pages.entry_export import EntryExport
from llmcache.admin_pages.entry_list import EntryList
from llmcache.admin_pages.entry_page import EntryPage


class CacheEntryAdmin(EntryExport, EntryPage, EntryList):
    """Entries as they were last written, and what their hits have saved."""

    actions = ("export",)
