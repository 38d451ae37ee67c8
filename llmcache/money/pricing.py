"""Prices: what an attempt cost, by the price that was in force when it was made.

The book is genai-prices, which is data in a package: it fetches nothing by itself. Prices from ``LLMCACHE['PRICES']``,
dated, come first. What is not known is None, never zero: a cost that was guessed cannot be told from one that was paid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import Final

from llmcache.money.usage import Usage

PICO: Final = 10**12
"""Costs are whole numbers of 10**-12 US dollars: sums of them are exact."""
_TOKENS: Final = 10**6
_STANDARD: Final = (None, "default", "standard", "auto")


@dataclass(frozen=True, slots=True)
class DatedPrice:
    """US dollars for a million tokens of each class, from a moment on."""

    since: datetime
    input: Decimal
    cache_read: Decimal
    output: Decimal
    cache_write: Decimal

    def cost(self, usage: Usage) -> int:
        """Return what this usage costs, in 10**-12 US dollars."""
        dollars = (
            usage.input_tokens * self.input
            + usage.cache_read_tokens * self.cache_read
            + usage.output_tokens * self.output
            + usage.cache_write_tokens * self.cache_write
        )
        return round(dollars * (PICO // _TOKENS))


@dataclass(frozen=True, slots=True)
class Cost:
    """What an attempt cost, and by which price."""

    pico_usd: int
    """10**-12 US dollars."""
    price_id: str
    """Which price of its source was used."""
    source: str
    """``settings``, or the name and version of the book."""


def told_cost(cost_usd: Decimal | None) -> Cost | None:
    """Return a cost that the reply itself tells; None where it tells none."""
    return None if cost_usd is None else Cost(round(cost_usd * PICO), "", "reply")


def dollars(pico_usd: int | None) -> Decimal | None:
    """Return a cost in US dollars; None stays None."""
    return None if pico_usd is None else Decimal(pico_usd) / PICO


class PriceBook:
    """The prices in force: those of the settings before those of genai-prices."""

    def __init__(self, overrides: Mapping[str, tuple[DatedPrice, ...]]) -> None:
        self._overrides = overrides
        self._bound = lru_cache(1_024)(self._bound_of)

    def cost(
        self,
        asked: str,
        answered: str | None,
        base_url: str,
        usage: Usage | None,
        at: float,
        service_tier: str | None = None,
    ) -> Cost | None:
        """Return what an attempt at ``at`` (seconds since the epoch) cost; None when usage or price is not known.

        ``asked`` is ``alias/model``, ``answered`` the model that the reply names. It is looked up first, then the one
        that was asked: a provider may answer with a snapshot that is newer than the book. The book's provider is found
        by the address that was called: a server of one's own under the alias ``openai`` has not OpenAI's prices.
        ``service_tier`` is the one that the reply names, such as ``"flex"`` or ``"batch"``; prices of the settings hold
        for all of them.
        """
        if usage is None:
            return None
        when = datetime.fromtimestamp(at, UTC)
        alias, _, model = asked.partition("/")
        for name in dict.fromkeys(each for each in (answered, model) if each):
            cost = self._from_settings(f"{alias}/{name}", usage, when) or _from_book(
                base_url, name, usage, when, service_tier
            )
            if cost is not None:
                return cost
        return None

    def bound(self, asked: str, base_url: str, sent_bytes: int, output_tokens: int | None, at: float) -> int | None:
        """Return the most that an attempt can cost, in 10**-12 US dollars; None when there is no telling.

        ``sent_bytes``: of the request's body, no token of which is shorter than a byte. ``output_tokens``: what the
        request allows. Without that it is as much as the model's context holds.
        """
        most = output_tokens or _context_window(asked.partition("/")[2])
        if most is None:
            return None
        # Rounded up, so that it is found again: finding a price takes far longer.
        return self._bound(asked, base_url, 1 << sent_bytes.bit_length(), most, at // 3_600 * 3_600)

    def _bound_of(self, asked: str, base_url: str, read: int, written: int, at: float) -> int | None:
        # As what its input will be charged is not known, nor who will serve it: the dearest.
        classes = (Usage(read, 0, written), Usage(0, read, written), Usage(0, 0, written, read))
        costs = [
            self.cost(asked, None, base_url, usage, at, tier)
            for usage in classes
            for tier in (None, "priority", "fast")
        ]
        return max((cost.pico_usd for cost in costs if cost is not None), default=None)

    def _from_settings(self, name: str, usage: Usage, when: datetime) -> Cost | None:
        in_force = [price for price in self._overrides.get(name, ()) if price.since <= when]
        if not in_force:
            return None
        price = max(in_force, key=lambda each: each.since)
        since = "" if price.since.date() == date.min else f" since {price.since:%Y-%m-%d}"
        return Cost(price.cost(usage), f"{name}{since}", "settings")


def _from_book(base_url: str, model: str, usage: Usage, when: datetime, service_tier: str | None) -> Cost | None:
    # Loaded at the first attempt that is paid for: 0.1 s that no hit should wait for.
    from genai_prices import Usage as Told
    from genai_prices import calc_price

    # The book counts cached input inside the input, as OpenAI tells it.
    told = Told(
        input_tokens=usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    try:
        found = calc_price(
            told,
            model_ref=model,
            provider_api_url=base_url,
            genai_request_timestamp=when,
            price_context=_context(service_tier),
        )
    except (LookupError, ValueError):
        return None
    served = "" if service_tier in _STANDARD else f" {service_tier}"
    return Cost(round(found.total_price * PICO), f"{found.provider.id}/{found.model.id}{served}", _book_name())


def _context(service_tier: str | None) -> dict[str, str] | None:
    """Return what the book calls a service tier; one that it does not know has the standard price."""
    if service_tier is None:
        return None
    return {"processing": "batch"} if service_tier == "batch" else {"service_tier": service_tier}


@lru_cache(1_024)
def _context_window(model: str) -> int | None:
    """Return how many tokens a model reads and writes at most, whoever runs it; None when the book does not say."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider_model(model, None, None, None)[1].context_window
    except LookupError:
        return None


@cache
def _book_name() -> str:
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')}"
