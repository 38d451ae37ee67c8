"""The form by which a person corrects an answer: JSON that has to pass the type's own validation, and a note."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_variables
from pydantic import ValidationError

from llmcache.exceptions import InvalidRequest
from llmcache.invalidation import MAX_REASON

MOST_ERRORS: Final = 20
_ROWS: Final = 18


class CorrectionForm(forms.Form):
    """A human's answer. ``check`` raises pydantic's ``ValidationError`` for one that does not pass."""

    required_css_class = "required"

    answer = forms.CharField(
        label=gettext_lazy("Answer"),
        help_text=gettext_lazy(
            "JSON, as the model would have written it. It is kept in the database as it stands here."
        ),
        strip=False,
        widget=forms.Textarea(
            attrs={"class": "vLargeTextField", "rows": _ROWS, "autocomplete": "off", "spellcheck": "false"}
        ),
    )
    note = forms.CharField(
        label=gettext_lazy("Note"),
        help_text=gettext_lazy("For those who read the list later."),
        max_length=MAX_REASON,
        required=False,
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, check: Callable[[str], Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check = check

    @sensitive_variables()
    def clean_answer(self) -> str:
        """Return the answer, with the line ends that JSON has everywhere."""
        answer = self.cleaned_data["answer"].replace("\r\n", "\n")
        try:
            self._check(answer)
        except ValidationError as error:
            raise forms.ValidationError(_said(error)) from None
        except InvalidRequest as error:
            raise forms.ValidationError(str(error)) from None
        except Exception as error:  # noqa: BLE001  # the type's own validators run here
            told = _("The type's validation raised %(error)s.") % {"error": type(error).__name__}
            raise forms.ValidationError(told) from None
        return answer


def _said(error: ValidationError) -> list[str]:
    """Return what does not pass, a line for each field; for the eyes of who has typed it."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{_path(item['loc'])}: {item['msg']}" if item["loc"] else item["msg"] for item in found[:MOST_ERRORS]]
    if len(found) > MOST_ERRORS:
        lines.append(_("And %(count)s more.") % {"count": len(found) - MOST_ERRORS})
    return lines


def _path(loc: tuple[int | str, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return path.removeprefix(".")


@sensitive_variables()
def editable(text: str) -> str:
    """Return JSON indented, to be edited; what would not come through that unchanged as it is."""
    try:
        found = json.loads(text, parse_float=_same(float), parse_int=_same(int), object_pairs_hook=_each_once)
        shown = json.dumps(found, ensure_ascii=False, indent=2, allow_nan=False)
        shown.encode()
    except (ValueError, RecursionError):
        return text.encode(errors="replace").decode()
    return shown


def _same(number: Callable[[str], float]) -> Callable[[str], float]:
    """Return what reads a number, with ValueError for one that would be written in another way: 19.90 as 19.9."""

    def read(text: str) -> float:
        value = number(text)
        if json.dumps(value) != text:
            raise ValueError
        return value

    return read


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found
