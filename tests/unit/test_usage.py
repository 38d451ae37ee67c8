"""Token counts as providers tell them: disjoint classes whose sum is the total, or nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcache.money.usage import Usage, told_usage
from llmcache.providers.base import Reply
from llmcache.providers.chat import ChatFace

TOLD: dict[str, tuple[Any, Usage | None]] = {
    "openai": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 30,
            "total_tokens": 130,
            "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(60, 40, 30),
    ),
    "openai without details": ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, Usage(7, 0, 3)),
    "azure with null details": (
        {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": None},
        Usage(7, 0, 3),
    ),
    "null cached": (
        {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": None}},
        Usage(7, 0, 3),
    ),
    "cache writes inside the input": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 50},
        },
        Usage(10, 40, 5, 50),
    ),
    "other names, cached inside": (
        {"input_tokens": 100, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 40}, "total_tokens": 105},
        Usage(60, 40, 5),
    ),
    "cached beside the input": (
        {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 50},
        Usage(10, 40, 5, 50),
    ),
    "deepseek": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "total_tokens": 105,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
        },
        Usage(36, 64, 5),
    ),
    "reasoning beside the output": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 115,
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
        Usage(10, 0, 105),
    ),
    "all cached": (
        {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 10}},
        Usage(0, 10, 1),
    ),
    "nothing": ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0, 0)),
    "a total that does not agree": ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 99}, None),
    "more cached than input": (
        {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}},
        None,
    ),
    "negative": ({"prompt_tokens": -1, "completion_tokens": 5}, None),
    "strings": ({"prompt_tokens": "10", "completion_tokens": 5}, None),
    "floats": ({"prompt_tokens": 10.0, "completion_tokens": 5}, None),
    "not a number": ({"prompt_tokens": float("nan"), "completion_tokens": 5}, None),
    "bools": ({"prompt_tokens": True, "completion_tokens": 5}, None),
    "absurd": ({"prompt_tokens": 10**30, "completion_tokens": 5}, None),
    "half of it": ({"prompt_tokens": 10}, None),
    "empty": ({}, None),
    "none": (None, None),
    "a list": ([1, 2], None),
}


@pytest.mark.parametrize("name", TOLD)
def test_every_shape(name: str) -> None:
    told, expected = TOLD[name]
    assert told_usage(told) == expected


values = st.none() | st.integers(-3, 50) | st.floats() | st.text(max_size=2) | st.booleans()
names = st.sampled_from(
    ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cache_read_input_tokens"]
)
details = st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "cache_write_tokens"]), values)


@given(st.dictionaries(names, values), details, details)
def test_whatever_is_told_is_disjoint_or_nothing(told: dict[str, Any], inside: Any, beside: Any) -> None:
    usage = told_usage({**told, "prompt_tokens_details": inside, "completion_tokens_details": beside})
    if usage is not None:
        classes = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens)
        assert all(type(count) is int and count >= 0 for count in classes)
        assert sum(classes) == usage.total_tokens
        if type(told.get("total_tokens")) is int:
            assert usage.total_tokens == told["total_tokens"]


@pytest.mark.parametrize(
    ("facts", "tier"),
    [
        ({"service_tier": "flex"}, "flex"),
        ({"usage": {"service_tier": "batch"}}, "batch"),
        ({"service_tier": None, "usage": None}, None),
        ({"service_tier": 1, "usage": [1]}, None),
        ({"service_tier": "x" * 51}, None),
        ({}, None),
    ],
)
def test_how_a_request_was_served_is_told_in_two_places(facts: dict[str, Any], tier: str | None) -> None:
    completion = {"choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}], **facts}
    reply = ChatFace("json_schema").reply(json.dumps(completion).encode(), {}, None, 200)
    assert isinstance(reply, Reply)
    assert reply.service_tier == tier
