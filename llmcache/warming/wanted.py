"""What a run asks: which response type of which model, for whom, under what."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache import request
from llmcache.column_sizes import MAX_KIND, MAX_NAME
from llmcache.exceptions import ConfigurationError, InvalidRequest
from llmcache.kinds import registered_type
from llmcache.request import NONE_GIVEN, NOT_GIVEN, NotGiven

if TYPE_CHECKING:
    from llmcache.engine.call import Call
    from llmcache.engine.runtime import Runtime
    from llmcache.warming.texts import WarmingText

WARMING: Final = "warming"
"""What calls are made for, and where their answers come from."""
_TENANT: Final = request.OPTIONS.index("tenant")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What holds for all items of a run."""

    annotation: Any
    kind: str | None = None
    model: str | NotGiven = NOT_GIVEN
    system: str | None = field(default=None, repr=False)
    tenant: str | NotGiven | None = NOT_GIVEN
    tags: tuple[str, ...] = ()
    ttl: float | timedelta | NotGiven | None = NOT_GIVEN

    def named(self, now: Runtime, text: WarmingText) -> WarmingText:
        """Return a text with the tenant that it is asked for, where somebody has to tell it.

        Raises ``TenantMissing``.
        """
        tenant = self.tenant if text.tenant is None else text.tenant
        if now.tenancy is not None:
            options = (*NONE_GIVEN[:_TENANT], tenant, *NONE_GIVEN[_TENANT + 1 :])
            tenant = now.tenancy.named(options)[_TENANT]
        return replace(text, tenant=None if isinstance(tenant, NotGiven) else tenant)

    @sensitive_variables()
    def call(self, now: Runtime, text: WarmingText) -> Call:
        """Return the call that asks for a text that was ``named``. Raises what ``llmcache.extract`` does of arguments.

        It is answered by what is there, also where the text is to be asked ``anew``.
        """
        told = {
            "model": self.model,
            "kind": NOT_GIVEN if self.kind is None else self.kind,
            "ttl": self.ttl,
            "system": self.system if text.system is None else text.system,
            "tenant": text.tenant,
            "subject": text.subject,
            "version": text.version,
            "variant": text.variant,
        }
        options: dict[str, Any] = {
            name: value for name, value in told.items() if value is not None and value is not NOT_GIVEN
        }
        if self.ttl is None:
            options["ttl"] = None
        options |= {"tags": tuple({*self.tags, *text.tags}), "cache": "use"}
        # Here, for the admin is loaded in processes that never call.
        from llmcache.answering import checked

        call = checked(now, text.content, self.annotation, options, text.params, needs_completion=False)
        if not call.stores:
            why = "ttl= is 0" if call.ttl == 0 else "LLMCACHE['ENABLED'] is False, or this is inside llmcache.bypass()"
            raise InvalidRequest(f"Nothing can be warmed where nothing is kept: {why}.")
        return replace(call, ahead=WARMING, waits=False)


def wanted_of(
    now: Runtime,
    *,
    kind: str | None = None,
    response_model: Any = None,
    model: str | NotGiven = NOT_GIVEN,
    system: str | None = None,
    tenant: str | NotGiven | None = NOT_GIVEN,
    tags: Collection[str] = (),
    ttl: float | timedelta | NotGiven | None = NOT_GIVEN,
) -> Wanted:
    """Return what these arguments want, each of them checked.

    Without a ``response_model`` it is the one that ``KINDS`` names for the ``kind``. Raises ``InvalidRequest`` and
    ``ConfigurationError``.
    """
    if kind is not None:
        kind = request.word("kind", kind, most=MAX_KIND)
    if response_model is None:
        response_model = _registered(now, kind)
    if ttl is not NOT_GIVEN:
        ttl = request.lifetime(ttl)
    return Wanted(
        annotation=response_model,
        kind=kind,
        model=model if isinstance(model, NotGiven) else request.word("model", model, most=MAX_NAME),
        system=None if system is None else request.system_text(system),
        tenant=tenant if tenant is None or isinstance(tenant, NotGiven) else request.word("tenant", tenant),
        tags=request.tag_names(list(tags) if not isinstance(tags, str) else tags),
        ttl=ttl,
    )


def _registered(now: Runtime, kind: str | None) -> Any:
    if kind is None:
        raise InvalidRequest("Warming needs response_model=, or the kind= of one that LLMCACHE['KINDS'] names.")
    annotation = registered_type(now.settings, kind)
    if annotation is None:
        raise ConfigurationError(
            f"LLMCACHE['KINDS'] names no response type for the kind {kind!r}. "
            f"Set LLMCACHE['KINDS'][{kind!r}]['type'] to the type or its dotted path."
        )
    return annotation
