"""Prices: exact, dated, by the address that was called, and None rather than a guess."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as Told
from genai_prices import calc_price

from llmcache import conf
from llmcache.money.pricing import Cost, PriceBook, dollars
from llmcache.money.usage import Usage

OPENAI = "https://api.openai.com/v1"
NOW = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
USAGE = Usage(input_tokens=1_000, cache_read_tokens=500, output_tokens=200)


def book(prices: Any = None) -> PriceBook:
    return PriceBook(conf.read({"PRICES": prices or {}}).prices)


def cost(
    asked: str,
    *,
    answered: str | None = None,
    base_url: str = OPENAI,
    usage: Usage | None = USAGE,
    at: float = NOW,
    prices: Any = None,
) -> Cost | None:
    return book(prices).cost(asked, answered, base_url, usage, at)


POPULAR = [
    *(
        (OPENAI, name)
        for name in (
            *("gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-5.1", "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini"),
            *("gpt-4.1-nano", "o1", "o3", "o3-mini", "o4-mini", "gpt-4-turbo", "gpt-3.5-turbo"),
        )
    ),
    *(("https://api.groq.com/openai/v1", name) for name in ("llama-3.3-70b-versatile", "llama-3.1-8b-instant")),
    *(("https://api.mistral.ai/v1", name) for name in ("mistral-large-latest", "mistral-small-latest")),
    ("https://api.deepseek.com", "deepseek-chat"),
    ("https://api.deepseek.com", "deepseek-reasoner"),
    *(("https://us.openai.azure.com/openai", name) for name in ("gpt-4o", "gpt-4.1", "gpt-4o-mini")),
    *(("https://api.anthropic.com/v1", name) for name in ("claude-sonnet-4-5", "claude-opus-4-1", "claude-haiku-4-5")),
    *(
        ("https://generativelanguage.googleapis.com/v1beta/openai", name)
        for name in ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite")
    ),
]
CONTEXTS: list[tuple[str | None, dict[str, str] | None]] = [
    (None, None),
    ("default", None),
    ("flex", {"service_tier": "flex"}),
    ("priority", {"service_tier": "priority"}),
    ("batch", {"processing": "batch"}),
]


@pytest.mark.parametrize(("base_url", "model"), POPULAR)
def test_popular_models_cost_what_the_book_says(base_url: str, model: str) -> None:
    when = datetime.fromtimestamp(NOW, UTC)
    told = Told(input_tokens=1_500, cache_read_tokens=500, output_tokens=200)
    for tier, context in CONTEXTS:
        expected = calc_price(
            told, model_ref=model, provider_api_url=base_url, genai_request_timestamp=when, price_context=context
        )
        found = book().cost(f"openai/{model}", None, base_url, USAGE, NOW, tier)
        assert found is not None
        assert dollars(found.pico_usd) == expected.total_price
        assert found.source.startswith("genai-prices ")
        served = f" {tier}" if context else ""
        assert found.price_id == f"{expected.provider.id}/{expected.model.id}{served}"


def test_thirty_popular_models_and_half_price_for_batches() -> None:
    assert len(POPULAR) == 30
    whole, half = (book().cost("openai/gpt-5-mini", None, OPENAI, USAGE, NOW, tier) for tier in (None, "batch"))
    assert whole is not None
    assert half is not None
    assert whole.pico_usd == 2 * half.pico_usd


def test_the_bound_is_above_every_cost_of_the_request() -> None:
    prices = book()
    for asked, limit in (("openai/gpt-5-mini", None), ("openai/gpt-5-mini", 300), ("openai/o3", 1_000)):
        bound = prices.bound(asked, OPENAI, 4_000, limit, NOW)
        assert bound is not None
        for usage in (Usage(1_000, 0, limit or 128_000), Usage(0, 1_000, 300), Usage(4_000, 0, 0), Usage(0, 0, 0, 900)):
            for tier, _ in CONTEXTS:
                cost = prices.cost(asked, None, OPENAI, usage, NOW, tier)
                assert cost is not None
                assert cost.pico_usd <= bound


def test_there_is_no_bound_where_there_is_no_telling() -> None:
    assert book().bound("openai/of-our-own", OPENAI, 4_000, 300, NOW) is None
    priced = book({"openai/of-our-own": {"input": "1", "output": "2"}})
    assert priced.bound("openai/of-our-own", OPENAI, 4_000, None, NOW) is None
    assert priced.bound("openai/of-our-own", OPENAI, 4_000, 300, NOW) == 4_096 * 10**6 + 300 * 2 * 10**6


def test_the_price_is_the_one_in_force_when_the_call_was_made() -> None:
    early, late = (datetime(2025, 5, 1, tzinfo=UTC).timestamp(), datetime(2025, 8, 1, tzinfo=UTC).timestamp())
    usage = Usage(1_000, 0, 1_000)
    before, after = (cost("openai/o3", usage=usage, at=at) for at in (early, late))
    assert before is not None
    assert after is not None
    assert before.pico_usd == 5 * after.pico_usd  # on 2025-06-10 the price of o3 fell to a fifth


def test_the_model_that_answered_comes_before_the_one_that_was_asked() -> None:
    prices = {"openai/big": {"input": "9", "output": "9"}, "openai/small": {"input": "1", "output": "1"}}
    found = cost("openai/small", answered="big", prices=prices)
    assert found is not None
    assert found.price_id.startswith("openai/big")
    found = cost("openai/small", answered="small-2026-11-20", prices=prices)
    assert found is not None
    assert found.price_id.startswith("openai/small")


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:8000/v1", "https://llm.internal.example/v1"])
def test_a_server_of_ones_own_has_not_openais_prices(base_url: str) -> None:
    assert cost("openai/gpt-5", base_url=base_url) is None


def test_what_is_not_known_is_none() -> None:
    assert cost("openai/nobody-knows-this") is None
    assert cost("openai/gpt-5", usage=None) is None


def test_settings_come_first_and_are_dated() -> None:
    prices = {
        "openai/gpt-5": [
            {"input": "2", "cache_read": "0.5", "output": "10"},
            {"since": date(2026, 6, 1), "input": 1, "cache_read": Decimal("0.1"), "output": "5"},
            {"since": datetime(2027, 1, 1, tzinfo=UTC), "input": "0", "output": "0"},
        ]
    }
    found = cost("openai/gpt-5", prices=prices)
    assert found == Cost(
        1_000 * 1_000_000 + 500 * 100_000 + 200 * 5_000_000, "openai/gpt-5 since 2026-06-01", "settings"
    )
    found = cost("openai/gpt-5", prices=prices, at=datetime(2026, 5, 31, tzinfo=UTC).timestamp())
    assert found is not None
    assert found.pico_usd == 1_000 * 2_000_000 + 500 * 500_000 + 200 * 10_000_000
    assert found.price_id == "openai/gpt-5"
    found = cost("openai/gpt-5", prices=prices, at=datetime(2027, 1, 1, tzinfo=UTC).timestamp())
    assert found is not None
    assert found.pico_usd == 0  # free is known to be free


def test_a_cache_read_without_a_price_of_its_own_costs_what_input_costs() -> None:
    found = cost("openai/x", prices={"openai/x": {"input": "3", "output": "0"}})
    assert found is not None
    assert found.pico_usd == 1_500 * 3_000_000


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        ([], "must be a dict"),
        ({"gpt-5": {"input": 1, "output": 1}}, "not 'provider/model'"),
        ({"openai/x": 5}, "must be a dict, or a list"),
        ({"openai/x": {"input": 1}}, "needs 'input' and 'output'"),
        ({"openai/x": {"input": 1, "output": 0.1}}, "as a str, an int or a Decimal"),
        ({"openai/x": {"input": "-1", "output": 1}}, "as a str"),
        ({"openai/x": {"input": "nan", "output": 1}}, "as a str"),
        ({"openai/x": {"input": "a lot", "output": 1}}, "as a str"),
        ({"openai/x": {"input": True, "output": 1}}, "as a str"),
        ({"openai/x": {"input": 1, "output": 1, "cached": 1}}, "unknown key 'cached'"),
        ({"openai/x": {"input": 1, "output": 1, "since": "2026"}}, "must be a date"),
        ({"openai/x": {"input": 1, "output": 1, "since": datetime(2026, 1, 1)}}, "aware"),  # noqa: DTZ001
    ],
)
def test_prices_that_cannot_be_used_say_so(prices: Any, says: str) -> None:
    (problem,) = conf.problems({"PRICES": prices})
    assert problem.message.startswith("LLMCACHE['PRICES']")
    assert says in problem.message
