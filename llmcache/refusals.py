"""Why an entry can be neither asked for anew nor given another time, in words."""

from __future__ import annotations

from typing import Any, Final

from django.utils.translation import gettext_lazy as _

from llmcache.exceptions import NotRewritten

REASONS: Final[dict[str, Any]] = {
    "unknown": _("The ledger has no entry of this key in this project's name space."),
    "other_namespace": _("It belongs to another name space: only a process of that can do it."),
    "absent": _("No tier that this process reads has it: it was evicted, or lies in another process's memory."),
    "expired": _("Its time is over."),
    "invalidated": _("It was invalidated, and this would not bring it back."),
    "corrected": _("A human's answer stands in its place."),
    "crowded": _("More invalidations are about it than an entry can list."),
    "off": _("The cache is switched off (ENABLED, a TTL of zero), or bypassed."),
    "type_not_registered": _("Its response type is not registered: KINDS names no “type” for its kind."),
    "type_unusable": _("The response type that KINDS names for its kind cannot be used."),
    "schema_changed": _("Its response type has changed since: a new answer would have another form."),
    "request_not_kept": _("Its request is not there: it was not kept (KEEP_REQUESTS), or is gone."),
    "files_not_kept": _("Its images or files are not kept, only what they are told by: ask for it where they are."),
    "provider_gone": _("Its provider is not in PROVIDERS any more, or has another address."),
    "provider_unusable": _("Its provider cannot be called: there is no API key for it."),
    "calls_forbidden": _("Providers must not be called here (ALLOW_PROVIDER_CALLS)."),
    "version_changed": _("VERSION, or its kind's, has changed since: nobody asks for it under this key any more."),
    "other_request": _("The request that was kept does not make this very request again."),
}


def refused(reason: str, key: str) -> NotRewritten:
    """Return the error that says so."""
    return NotRewritten(str(REASONS[reason]), reason=reason, key=key)
