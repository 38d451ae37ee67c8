"""The form of a plan of warming: what a row may name is what the settings have."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from llmcache import request
from llmcache.engine import process
from llmcache.exceptions import ConfigurationError, InvalidRequest
from llmcache.models import WarmingPlan
from llmcache.setting_values import UnusableError, model_name
from llmcache.warming.plans import parsed

Source = WarmingPlan.Source


class WarmingPlanForm(forms.ModelForm):
    """A plan, with sources and kinds to choose from."""

    source = forms.ChoiceField(label=gettext_lazy("Source"))
    kind = forms.ChoiceField(
        label=gettext_lazy("Kind"),
        help_text=gettext_lazy("Of those whose response type LLMCACHE['KINDS'] names."),
    )
    tags = forms.CharField(
        label=gettext_lazy("Tags"),
        help_text=gettext_lazy("Separated by commas, as your calls pass them."),
        required=False,
    )

    class Meta:
        model = WarmingPlan
        fields: ClassVar[list[str]] = [
            *("name", "enabled", "source", "texts", "days", "most"),
            *("kind", "model", "system", "tenant", "tags"),
            *("max_usd", "max_calls", "per_minute", "concurrency", "crontab"),
        ]
        help_texts: ClassVar[dict[str, Any]] = {
            "texts": gettext_lazy("One a line. They are kept as long as the plan."),
            "days": gettext_lazy("How many days misses are looked for in, or within how many days answers expire."),
            "most": gettext_lazy("Empty: all."),
            "model": gettext_lazy("As provider/model. Empty: what LLMCACHE['MODEL'] says."),
            "system": gettext_lazy("As your calls pass it. Empty: none."),
            "tenant": gettext_lazy("Of texts that name none."),
            "max_usd": gettext_lazy("A call under way counts as the dearest so far. Empty: no limit."),
            "max_calls": gettext_lazy("With retries and questions asked again. Empty: no limit."),
            "per_minute": gettext_lazy("Of all processes together. Empty: no limit."),
            "concurrency": gettext_lazy("Of one process."),
            "crontab": gettext_lazy(
                "Minute, hour, day of the month, month, day of the week, as in 30 3 * * mon-fri. Empty: by hand alone."
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings, row = process.current().settings, self.instance
        own = [*Source.choices, *((name, name) for name in settings.warming)]
        kinds = [(name, name) for name, told in settings.kinds.items() if told.type is not None]
        self.fields["source"].choices = _with(own, row.source)  # type: ignore[attr-defined]
        self.fields["kind"].choices = _with(kinds, row.kind)  # type: ignore[attr-defined]
        if row.max_usd is not None:
            self.initial["max_usd"] = _plain(row.max_usd)
        if isinstance(row.tags, list):
            self.initial["tags"] = ", ".join(map(str, row.tags))

    def clean_tags(self) -> list[str]:
        """Return the tags one by one."""
        try:
            return list(
                request.tag_names([tag for each in self.cleaned_data["tags"].split(",") if (tag := each.strip())])
            )
        except InvalidRequest as error:
            raise forms.ValidationError(error.message) from None

    def clean_model(self) -> str:
        """Return the model; one that names no provider of the settings is refused."""
        model: str = self.cleaned_data["model"]
        if not model:
            return ""
        try:
            alias = model_name(model).partition("/")[0]
        except UnusableError:
            raise forms.ValidationError(_("Write it as provider/model.")) from None
        if alias not in process.current().settings.providers:
            raise forms.ValidationError(_("LLMCACHE['PROVIDERS'] has no such provider."))
        return model

    def clean_crontab(self) -> str:
        """Return the crontab as it is read."""
        crontab = " ".join(self.cleaned_data["crontab"].split())
        try:
            if crontab:
                parsed(crontab)
        except (InvalidRequest, ConfigurationError) as error:
            raise forms.ValidationError(error.message) from None
        return crontab

    def clean(self) -> dict[str, Any]:
        """Refuse a plan of texts without any."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("source") == Source.TEXTS and not (cleaned.get("texts") or "").strip():
            self.add_error("texts", _("Give at least one text, or another source."))
        return cleaned


def _plain(dollars: Decimal) -> Decimal:
    """Return an amount without the zeros that a column of six places adds, to the cent at least."""
    cents = dollars.quantize(Decimal("0.01"))
    return cents if cents == dollars else dollars.normalize()


def _with(choices: list[tuple[str, Any]], value: str) -> list[tuple[str, Any]]:
    """Return choices, and among them what a row says though the settings have it no more."""
    known = value in dict(choices)
    return choices if known or not value else [*choices, (value, _("%(name)s (not in the settings)") % {"name": value})]
