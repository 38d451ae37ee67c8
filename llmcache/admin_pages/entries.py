"""Cache entries in an admin site: their list, the page of one, and what can be done with them."""

from __future__ import annotations

from llmcache.admin_pages.correcting import EntryCorrecting
from llmcache.admin_pages.entry_actions import EntryActions
from llmcache.admin_pages.entry_explain import EntryExplain
from llmcache.admin_pages.entry_export import EntryExport
from llmcache.admin_pages.entry_list import EntryList
from llmcache.admin_pages.entry_page import EntryPage


class CacheEntryAdmin(EntryCorrecting, EntryExport, EntryExplain, EntryActions, EntryPage, EntryList):
    """Entries as they were last written, and what their hits have saved."""

    actions = ("invalidate_selected", "refresh_selected", "retime_selected", "export")
