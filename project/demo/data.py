"""The log: 20,000 requests for 12,182 real texts, with the answer to expect for each text.

``project/data/README.md`` says where they come from.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from project.demo.types import Ingredient

DATA: Final = Path(__file__).resolve().parent.parent / "data"
TEXTS: Final = DATA / "texts.jsonl"
REQUESTS: Final = DATA / "requests.csv"

ALL_REQUESTS: Final = 20_000

SAMPLES: Final = (
    "2 cups finely chopped onions",
    "3 to 4 cloves garlic",
    "2 28-ounce cans crushed tomatoes",
    "1 medium-size onion, peeled and chopped",
    "6 1/2 pounds mussels (about 6 dozen), scrubbed and beards removed",
)
"""Texts of the log that show what there is to read."""

A_RECIPE: Final = """\
Chestnut and squash soup, for four

1 1/4 cups cooked and pureed fresh butternut squash
1 cup peeled and cooked fresh chestnuts
1 medium-size onion, peeled and chopped
2 stalks celery, chopped coarse

Sweat the onion and the celery for 10 minutes. Add squash, chestnuts and a quart of water. Simmer for half an hour,
then puree.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the log."""

    text_id: str
    text: str
    at_ms: int
    """When it arrived, since the log's first."""
    tenant: str
    gold: Ingredient
    """What the text says, as people have labelled it."""


def read_log(count: int = ALL_REQUESTS) -> list[Request]:
    """Return the first requests of the log, in the order in which they arrived."""
    known: dict[str, tuple[str, Ingredient]] = {}
    with TEXTS.open(encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            known[item["id"]] = (item["text"], Ingredient.model_validate(item["gold"]))
    with REQUESTS.open(encoding="utf-8", newline="") as rows:
        return [
            Request(row["id"], known[row["id"]][0], int(row["t_ms"]), row["tenant"], known[row["id"]][1])
            for row in islice(csv.DictReader(rows), count)
        ]


def distinct(log: list[Request], *, separate_tenants: bool) -> int:
    """Return how many provider calls an empty cache needs at least for these requests."""
    return len({(request.text, request.tenant if separate_tenants else None) for request in log})
