"""A miss, journal with fsync included, beside the SDK sending the same body to the same server."""

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

import openai

import llmcache
from benchmarks.hits import Small, _point_to
from benchmarks.timing import interleaved
from llmcache.testing.sandbox import start_sandbox_process


def report(place: Path) -> Iterator[str]:
    """Yield the lines of the report."""
    with start_sandbox_process(charges=place / "charges.jsonl") as provider:
        _point_to(provider.base_url)
        client = openai.OpenAI(base_url=provider.base_url, api_key="sandbox", max_retries=0)
        body = _body()
        numbers = itertools.count()

        def sdk() -> object:
            messages = [{"role": "user", "content": f"A text of some sixty characters, number {next(numbers):20}"}]
            raw = client.chat.completions.with_raw_response.create(**{**body, "messages": messages})
            return raw.parse()

        def extract() -> object:
            return llmcache.extract(f"A text of some sixty characters, number {next(numbers):20}", Small)

        for _ in range(20):
            sdk()
            extract()
        found = interleaved({"sdk": sdk, "extract": extract}, number=40, rounds=15)
        more = statistics.median(b - a for a, b in zip(found["sdk"], found["extract"], strict=True))
        yield "Miss, journal with fsync and disk tier included"
        yield f"  with_raw_response.create of the same body  {statistics.median(found['sdk']) / 1e3:7.2f} ms"
        yield f"  llmcache.extract, miss                      {statistics.median(found['extract']) / 1e3:7.2f} ms"
        yield f"  more                                        {more / 1e3:7.2f} ms"
        yield ""
        client.close()


def _body() -> dict[str, object]:
    """Return the body of an extraction without its messages."""
    from llmcache.engine import process

    return dict(process.current().plan(Small, "openai/gpt-5-mini", None, None, {}).body)
