"""No cache: each call is paid for. It takes no part in the race; its test does."""

from typing import Any

from openai import OpenAI

from benchmarks.peers.cases import Case
from benchmarks.peers.entrants import KEY, MODEL, Asker, Call, Place, messages


def sdk(place: Place) -> Asker:
    """OpenAI's SDK."""
    client = OpenAI(base_url=place.base_url, api_key=KEY)

    def ask(case: Case) -> Call:
        def call() -> Any:
            parse = client.chat.completions.parse
            made = parse(model=MODEL, response_format=case.model, messages=messages(case.text))
            return made.choices[0].message.parsed

        return call

    return ask
