"""The form by which a person invalidates: conditions, of which all must hold, and a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from django import forms
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache import planned
from llmcache.exceptions import InvalidRequest
from llmcache.invalidation import MAX_REASON
from llmcache.models import MAX_CONDITION, MAX_KIND

KEY_DIGITS: Final = 64
_KEY: Final = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}")
FROM_ADDRESS: Final = ("kind", "model", "response_type", "tenant", "tag", "key")
"""What an address can fill in. A subject may be a person's name, and addresses are kept in many places."""


def _condition(label: Any, help_text: Any = "", most: int = MAX_CONDITION) -> forms.CharField:
    # Not stripped: a tenant with a space at its end is another one.
    return forms.CharField(label=label, help_text=help_text, max_length=most, required=False, strip=False)


class InvalidationForm(forms.Form):
    """Conditions and a reason; an empty field is no condition."""

    required_css_class = "required"

    kind = _condition(gettext_lazy("Kind"), most=MAX_KIND)
    model = _condition(gettext_lazy("Model"), gettext_lazy("As provider/model, for example openai/gpt-5-mini."))
    response_type = _condition(gettext_lazy("Response type"), gettext_lazy("Its name, as entries show it."))
    tenant = _condition(gettext_lazy("Tenant"))
    tag = _condition(gettext_lazy("Tag"), gettext_lazy("One whole tag."))
    subject = _condition(
        gettext_lazy("Subject"),
        gettext_lazy("As it was passed to the call. Only a hash of it is kept, and no page shows it."),
    )
    key = _condition(gettext_lazy("Key"), gettext_lazy("Of one answer: its 64 hex digits."))
    everything = forms.BooleanField(
        label=gettext_lazy("Everything"), help_text=gettext_lazy("All answers, without conditions."), required=False
    )
    at = forms.DateTimeField(
        label=gettext_lazy("From"),
        help_text=gettext_lazy("When it comes into force; empty: now. For a later time house-keeping has to run."),
        required=False,
    )
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        help_text=gettext_lazy("For those who read the list later."),
        max_length=MAX_REASON,
        required=False,
    )

    CONDITIONS: ClassVar = ("kind", "model", "response_type", "tenant", "tag", "subject", "key")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in (*self.CONDITIONS, "at", "reason"):
            self.fields[name].widget.attrs |= {"class": "vTextField", "autocomplete": "off", "spellcheck": "false"}

    @classmethod
    def filled(cls, query: Mapping[str, str]) -> InvalidationForm:
        """Return the form with what an address tells; what no field takes is left out."""
        fields = {name: cls.base_fields[name] for name in FROM_ADDRESS}
        told = {name: query.get(name, "") for name in fields}
        good = {
            name: value
            for name, value in told.items()
            if "\0" not in value and len(value) <= (getattr(fields[name], "max_length", None) or 0)
        }
        return cls(initial=good)

    @classmethod
    def again(cls, data: Mapping[str, str]) -> InvalidationForm:
        """Return the form as it was sent, to be changed."""
        return cls(initial={name: data.get(name, "").replace("\0", "") for name in cls.base_fields})

    def clean_key(self) -> str:
        """Return the key as entries have it."""
        key = self.cleaned_data["key"].strip().lower()
        if key and not _KEY.fullmatch(key):
            raise forms.ValidationError(_("A key has 64 hex digits."))
        return key

    def clean_model(self) -> str:
        """Return the model, which names its provider."""
        model = self.cleaned_data["model"]
        if model and "/" not in model:
            raise forms.ValidationError(_("Write provider/model, for example openai/gpt-5-mini."))
        return model

    def clean(self) -> dict[str, Any]:
        """Refuse what says nothing, or two things at once."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        named = self.named()
        if cleaned["everything"] and named:
            raise forms.ValidationError(_("“Everything” has no conditions: leave these empty, or take it off."))
        if not cleaned["everything"] and not named:
            raise forms.ValidationError(_("Give at least one condition, or say that it is about everything."))
        return cleaned

    def named(self) -> dict[str, str]:
        """Return the conditions that were given, by the names of their fields."""
        return {name: self.cleaned_data[name] for name in self.CONDITIONS if self.cleaned_data.get(name)}

    def clean_at(self) -> Any:
        """Return the time, if it is one that can be planned for."""
        at = self.cleaned_data["at"]
        if at is not None:
            if timezone.is_naive(at):
                # In a project without time zones.
                at = timezone.make_aware(at, timezone.get_default_timezone())
            try:
                planned.is_to_come(at)
            except InvalidRequest:
                raise forms.ValidationError(_("Give a time within the next ten years.")) from None
        return at

    def arguments(self) -> dict[str, Any]:
        """Return what ``invalidate`` takes for it."""
        named = self.named()
        if "response_type" in named:
            named["response_model"] = named.pop("response_type")
        at = {"at": self.cleaned_data["at"]} if self.cleaned_data["at"] else {}
        return {**named, **at, "everything": True} if self.cleaned_data["everything"] else {**named, **at}

    @property
    def has_outer_space(self) -> bool:
        """Whether a condition begins or ends with white space, which nobody sees."""
        return any(value != value.strip() for value in self.named().values())
