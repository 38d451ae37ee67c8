"""Which provider an alias of ``PROVIDERS`` is: a server that speaks OpenAI's API, or a function of the project's."""

from __future__ import annotations

from llmcache.providers.base import Provider
from llmcache.setting_values import ProviderSettings


def configured_provider(alias: str, settings: ProviderSettings) -> Provider:
    """Return the provider of an alias; raises ``ConfigurationError`` for one that cannot be used."""
    if settings.call is not None or settings.acall is not None:
        from llmcache.providers.callables import CallableProvider

        return CallableProvider(alias, settings)
    from llmcache.providers.openai_provider import OpenAIProvider

    return OpenAIProvider(alias, settings)
