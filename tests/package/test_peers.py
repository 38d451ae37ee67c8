"""The race beside other caches: its figures, its table, and how a worker is spoken to."""

import asyncio
import contextlib
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hits
from benchmarks.peers import environments, figures, racing
from benchmarks.peers.cases import CASES
from benchmarks.peers.entrants import floors
from benchmarks.peers.roster import ENTRANTS, ENVIRONMENTS, GROUPS, OURS, Entrant, floor_of
from benchmarks.peers.worker import Seat
from llmcache.testing.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text()
FLOOR, OTHER = ENTRANTS[0], ENTRANTS[1]


def row(
    entrant: Entrant,
    *,
    small: float,
    large: float,
    ratio: float | None = 1.0,
    shared: bool = False,
    commands: float | None = None,
) -> Any:
    cells = {"small": {"us": small, "ratio": ratio}, "large": {"us": large, "ratio": ratio}}
    facts = {"name": entrant.name, "title": entrant.title, "group": entrant.group, "environment": entrant.environment}
    return {**facts, "floor": entrant.floor, "shared": shared, "hit_requests": 0, "commands": commands, **cells}


def results(*rows: Any, missing: tuple[Any, ...] = ()) -> Any:
    return {
        "made": "2026-11-21",
        "rounds": 2,
        "short": True,
        "redis": "6.2.14",
        "versions": {"": {"Python": "3.11.7"}},
        "machine": {"cpu": "a processor", "cores": 2, "pinned": True},
        "rows": list(rows),
        "missing": list(missing),
    }


def test_everybody_answers_the_calls_of_the_other_benchmark() -> None:
    of_hits = {
        "small": (hits.SMALL_TEXT, hits.Small.model_json_schema(), hits.SMALL),
        "large": (hits.LARGE_TEXT, hits.Large.model_json_schema(), hits.LARGE),
    }
    assert {name: (case.text, case.model.model_json_schema(), case.answer) for name, case in CASES.items()} == of_hits


def test_every_entrant_has_a_floor_and_pinned_packages() -> None:
    pins = {line.partition("==")[0].lower() for line in environments.CONSTRAINTS.read_text().splitlines()}
    assert {floor_of(group).group for group in GROUPS} == set(GROUPS)
    assert len({entrant.name for entrant in ENTRANTS}) == len(ENTRANTS)
    assert {entrant.environment for entrant in ENTRANTS} == {"", *ENVIRONMENTS}
    assert {package for packages in ENVIRONMENTS.values() for package in packages} <= pins
    assert "://" not in environments.CONSTRAINTS.read_text()


def test_ratios_are_of_the_same_round() -> None:
    times = {FLOOR.name: {"small": [1.0, 2.0, 4.0]}, OTHER.name: {"small": [3.0, 4.0, 20.0]}}
    found = figures.figures(times, OTHER)["small"]
    assert (found["us"], found["ratio"]) == (4.0, 3.0)
    alone = figures.figures({OTHER.name: times[OTHER.name]}, OTHER)["small"]
    assert (alone["us"], alone["ratio"]) == (4.0, None)


@pytest.mark.parametrize(
    ("value", "said"), [(0.0512, "0.05"), (1.046, "1.05"), (57.51, "57.5"), (132.4, "132"), (1976.0, "1,980")]
)
def test_figures_have_three_digits(value: float, said: str) -> None:
    assert figures.number(value) == said


def test_a_table_says_what_is_shared_and_what_was_not_run() -> None:
    slow = Entrant("a.slow", "Slow", "memory", "a")
    kept = Entrant("a.shared", "Shared", "memory", "a")
    gone = {"name": "b.gone", "title": "Gone", "group": "disk", "environment": "b", "reason": "not installed: no wheel"}
    made = results(
        row(slow, small=700, large=2_000, ratio=500.0),
        row(kept, small=0.05, large=0.05, ratio=None, shared=True),
        row(FLOOR, small=1.4, large=57.0),
        missing=(gone,),
    )
    page = figures.markdown(made)
    counted = figures.markdown(results(row(floor_of("redis"), small=30, large=90, commands=1.0)))
    assert "| fresh; 1 command |" in counted
    assert [line.split("|")[1].strip() for line in page.splitlines() if "µs" in line] == [FLOOR.title, "Shared", "Slow"]
    assert "| Slow | 700 µs | 500 × | 2,000 µs | 500 × | fresh |" in page  # noqa: RUF001
    assert "| Shared | 0.05 µs | - | 0.05 µs | - | one, shared |" in page
    assert "Gone (disk of the machine): not installed: no wheel." in page
    assert "SHORT RUN" in page
    printed = "\n".join(figures.text(made))
    assert "not run: Gone" in printed
    assert "one, shared" in printed


def test_a_page_gets_its_part_and_keeps_the_rest() -> None:
    made = results(row(FLOOR, small=1.4, large=57.0))
    page = f"before\n{figures.BEGIN}\nold \\1\n{figures.END}\nafter"
    once = figures.put_into(page, made)
    assert once == f"before\n{figures.markdown(made)}\nafter"
    assert figures.put_into(once, made) == once
    with pytest.raises(ValueError, match="has no part"):
        figures.put_into("before and after", made)


def test_the_documentation_shows_the_run_that_is_kept() -> None:
    kept = json.loads((ROOT / "benchmarks" / "peers" / "results.json").read_text())
    assert figures.put_into(PAGE, kept) == PAGE


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    """What a worker is told of its surroundings."""
    return {"base_url": "http://127.0.0.1:9/v1", "redis_port": 1, "folder": str(tmp_path / "worker")}


@pytest.fixture
def seat() -> Iterator[Seat]:
    """What a worker does, in this process."""
    with contextlib.closing(Seat()) as made:
        yield made


def test_a_worker_answers_orders(tmp_path: Path, place: dict[str, Any]) -> None:
    with racing.Worker(sys.executable, tmp_path / "worker") as worker:
        with pytest.raises(racing.FailedError, match="nothing is open"):
            worker.tell(do="ask", case="small")
        told = worker.tell(do="open", name="floors.disk", packages=["pydantic", "no-such-package"], place=place)
        assert told["versions"]["no-such-package"] is None
        assert told["versions"]["pydantic"]
        for case in CASES:
            assert worker.tell(do="ask", case=case) == {"right": True}
            assert worker.tell(do="compare", case=case) == {"right": True, "shared": False}
            assert worker.tell(do="time", case=case, hits=10)["us"] > 0
        with pytest.raises(racing.FailedError, match="no order"):
            worker.tell(do="dance")


def test_one_object_for_all_is_seen(seat: Seat, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(_: Any) -> Any:
        return lambda case: functools.cache(lambda: case.model(**case.answer))

    monkeypatch.setattr(floors, "memory", shared)
    seat.answer({"do": "open", "name": "floors.memory", "packages": [], "place": place})
    assert seat.answer({"do": "compare", "case": "small"}) == {"right": True, "shared": True}


def test_awaited_calls_are_awaited(seat: Seat, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong() -> Any:
        await asyncio.sleep(0)
        return CASES["small"].model(name="Charles", age=37)

    monkeypatch.setattr(floors, "memory", lambda _: lambda case: wrong)
    seat.answer({"do": "open", "name": "floors.memory", "packages": [], "place": place})
    assert seat.answer({"do": "ask", "case": "small"}) == {"right": False}
    assert seat.answer({"do": "time", "case": "small", "hits": 3})["us"] > 0


def test_a_race_has_a_figure_for_each_round(tmp_path: Path) -> None:
    with Sandbox() as provider:
        place = racing.Place(provider, 1, tmp_path, None)
        racers = [racing.ready(entrant, (), sys.executable, place, 1.0) for entrant in (FLOOR, floor_of("disk"))]
        try:
            told: list[str] = []
            racing.race(racers, provider, 3, told.append)
        finally:
            for racer in racers:
                racer.worker.stop()
    assert told == ["round 1 of 3", "round 2 of 3", "round 3 of 3"]
    for racer in racers:
        assert (racer.shared, racer.hit_requests, racer.first_requests) == (False, 0, {"small": 0, "large": 0})
        assert {case: len(found) for case, found in racer.times.items()} == {"small": 3, "large": 3}


def test_a_hit_that_asks_the_provider_is_none(tmp_path: Path) -> None:
    with (
        Sandbox(answers={case.text: case.answer for case in CASES.values()}) as provider,
        racing.Worker(sys.executable, tmp_path / "worker") as worker,
    ):
        # Stands for an entrant whose second call is paid for, by the SDK that is installed here.
        asking = {"base_url": provider.base_url, "redis_port": 1, "folder": str(tmp_path)}
        worker.tell(do="open", name="uncached.sdk", packages=[], place=asking)
        racer = racing.Racer(FLOOR, worker, {})
        with pytest.raises(racing.FailedError, match="two hits, small: 2 requests"):
            racing.first_calls(racer, "small", provider, 1.0)
    assert racer.first_requests == {"small": 1}


def test_a_worker_that_cannot_say_anything_has_failed(tmp_path: Path, place: dict[str, Any]) -> None:
    with racing.Worker(sys.executable, tmp_path / "worker") as worker:
        with pytest.raises(racing.FailedError, match="ModuleNotFoundError"):
            worker.tell(do="open", name="nobody.memory", packages=[], place=place)
        worker.stop()
        with pytest.raises(racing.FailedError, match="ended: "):
            worker.tell(do="ask", case="small")


def test_an_environment_that_cannot_be_made_is_told_to_all_who_ask(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("a file where a folder should be")
    pythons = environments.Pythons(kept)
    assert pythons.of("", OURS) == Path(sys.executable)
    errors = []
    for _ in range(2):
        with pytest.raises(environments.NotInstalledError, match="not installed: ") as failure:
            pythons.of("gptcache", ENVIRONMENTS["gptcache"])
        errors.append(failure.value)
    assert errors[0] is errors[1], "it was tried twice"


def test_a_turn_has_about_its_length() -> None:
    assert [racing.hits_in(100.0, us) for us in (1.0, 50.0, 1e9, 1e-6)] == [100_000, 2_000, 10, 200_000]
