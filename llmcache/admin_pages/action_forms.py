"""What is asked before something is done with entries: for what time, and why."""

from __future__ import annotations

from typing import Any, Final

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache.invalidation import MAX_REASON

_UNITS: Final = {
    "60": gettext_lazy("minutes"),
    "3600": gettext_lazy("hours"),
    "86400": gettext_lazy("days"),
}
_MOST: Final = 10_000


class ActionForm(forms.Form):
    """Nothing is asked."""

    required_css_class = "required"


class ReasonForm(ActionForm):
    """Why entries are invalidated."""

    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        help_text=gettext_lazy("For those who read the log later."),
        max_length=MAX_REASON,
        required=False,
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
    )


class TimeForm(ActionForm):
    """For how long entries are to be fresh from now on."""

    amount = forms.IntegerField(
        label=gettext_lazy("Fresh for"),
        min_value=1,
        max_value=_MOST,
        required=False,
        widget=forms.NumberInput(attrs={"class": "vIntegerField", "inputmode": "numeric"}),
    )
    unit = forms.ChoiceField(label=gettext_lazy("Unit"), choices=list(_UNITS.items()), initial="3600", required=False)
    forever = forms.BooleanField(
        label=gettext_lazy("Never expires"),
        help_text=gettext_lazy("Nothing is served for longer than the log of invalidations is kept."),
        required=False,
    )

    def clean(self) -> dict[str, Any]:
        """Refuse what says nothing, or two things at once."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors and bool(cleaned.get("amount")) == bool(cleaned.get("forever")):
            raise forms.ValidationError(_("Give a time, or say that they never expire."))
        return cleaned

    @property
    def seconds(self) -> float | None:
        """What was asked for; None for no end."""
        cleaned = self.cleaned_data
        return None if cleaned["forever"] else float(cleaned["amount"] * int(cleaned["unit"] or "3600"))
