"""Whether what is not in a cassette is recorded: told by an argument, by pytest's option or by a variable."""

from __future__ import annotations

import os
from typing import Final, Literal, TypeGuard

from llmcache.testing.cassettes.errors import CassetteError

Mode = Literal["none", "new", "all"]
"""``none``: play only; ``new``: record what is missing; ``all``: record anew whatever is asked."""

MODES: Final = ("none", "new", "all")
VARIABLE: Final = "LLMCACHE_RECORD"
"""What pytest's option ``--llmcache-record`` sets too, so that it reaches every cassette of the run."""


def mode_of(told: str | None) -> Mode:
    """Return the mode: ``told``, else what the variable says, else ``none``; ``CassetteError`` where it cannot be."""
    mode = told if told is not None else os.environ.get(VARIABLE) or "none"
    source = "record=" if told is not None else f"the variable {VARIABLE} (pytest's --llmcache-record)"
    if not _is_mode(mode):
        raise CassetteError(f"{source} is {mode!r}; write 'none', 'new' or 'all', as in --llmcache-record=new.")
    if mode != "none" and _in_ci():
        raise CassetteError(
            f"{source} is {mode!r}, and the variable CI is set: nothing is recorded there, so that a request nobody "
            "has reviewed fails. Record on your own machine and commit the cassettes, or unset CI for this one run."
        )
    return mode


def _is_mode(mode: str) -> TypeGuard[Mode]:
    return mode in MODES


def _in_ci() -> bool:
    return os.environ.get("CI", "").strip().lower() not in ("", "0", "false", "no")
