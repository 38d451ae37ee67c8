"""The form of ``llmcache.estimate_savings``: what a cache would save, by three numbers that nobody has measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from django import forms
from django.utils.translation import gettext_lazy as _

from llmcache.money.estimates import SavingsEstimate, estimate_savings

FIELDS: Final = ("calls", "rate", "cost")
_MOST_CALLS: Final = 10**12
_MOST_DOLLARS: Final = 10**6


def _number(example: str, mode: str = "decimal") -> forms.TextInput:
    # Not the input for numbers of HTML: it shows nothing of what it cannot read, so that nobody can mend it.
    return forms.TextInput({"inputmode": mode, "placeholder": example, "autocomplete": "off"})


class CalculatorForm(forms.Form):
    """Three numbers, sent with GET; the rate in percent, as people say it."""

    calls = forms.IntegerField(
        label=_("Calls per day"), min_value=0, max_value=_MOST_CALLS, widget=_number("1000", "numeric")
    )
    rate = forms.DecimalField(
        label=_("Hit rate in %"),
        min_value=Decimal(0),
        max_value=Decimal(100),
        max_digits=12,
        decimal_places=9,
        widget=_number("70"),
    )
    cost = forms.DecimalField(
        label=_("Cost of a call in US dollars"),
        min_value=Decimal(0),
        max_value=Decimal(_MOST_DOLLARS),
        max_digits=18,
        decimal_places=12,
        widget=_number("0.002"),
    )


@dataclass(frozen=True, slots=True)
class Calculated:
    """The form, and what came of it."""

    form: CalculatorForm
    estimate: SavingsEstimate | None
    """None without three numbers that can be used."""


def calculated(params: Mapping[str, str]) -> Calculated:
    """Return the form as an address fills it in, empty when it names no field, and the estimate."""
    asked = any(name in params for name in FIELDS)
    form = CalculatorForm(params if asked else None)
    if not asked or not form.is_valid():
        return Calculated(form, None)
    told = form.cleaned_data
    return Calculated(form, estimate_savings(told["calls"], told["rate"] / 100, told["cost"]))
