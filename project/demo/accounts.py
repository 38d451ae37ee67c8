"""The demo's ready admin: a superuser with a password of this clone's own, kept in ``var/admin_password``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.utils.crypto import get_random_string

from project.demo.secret_files import kept_secret

NAME: Final = "demo"
# None that looks like another when it is typed from a screen.
_CHARACTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
_LENGTH: Final = 16


def password_file() -> Path:
    """Return where the password is kept; without the file it is made anew at the next start."""
    return settings.VAR / "admin_password"


def admin_password() -> str | None:
    """Return the password of the demo's superuser, who is made where there is none.

    None where somebody has given that user another password: it is not known then, and not set back.
    """
    users: Any = get_user_model()._default_manager
    known = password_file().exists()
    password = kept_secret(password_file(), lambda: get_random_string(_LENGTH, _CHARACTERS))
    user = users.filter(username=NAME).first()
    if user is None:
        users.create_superuser(NAME, password=password)
        return password
    if not known:
        user.set_password(password)
        user.save(update_fields=["password"])
        return password
    return password if user.check_password(password) else None
