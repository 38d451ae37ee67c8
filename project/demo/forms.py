"""What a person types on the home page."""

from __future__ import annotations

from typing import Final

from django import forms

MOST_CHARACTERS: Final = 1_000
"""Of a text that the page sends: five times the log's longest."""


class TextForm(forms.Form):
    """A line of a recipe."""

    text = forms.CharField(
        max_length=MOST_CHARACTERS,
        error_messages={
            "required": "There is no text yet. Type a line of a recipe, or take one of those below.",
            "max_length": "This text has %(show_value)d characters; the page takes %(limit_value)d. Send a part of it.",
            "null_characters_not_allowed": "This text has a NUL character. Take it out.",
        },
    )
