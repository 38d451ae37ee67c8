"""Users, as the rows of what they did name them."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from llmcache.models import MAX_NAME


def name_of(request: HttpRequest) -> str:
    """Return by what name a user stands in rows."""
    user: Any = request.user
    # A project may have a user model of its own, with longer names.
    return str(user.get_username())[:MAX_NAME]
