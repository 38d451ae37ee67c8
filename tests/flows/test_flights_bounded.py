"""The counts of what ``python -m chaos flights`` measures, on little of everything and by the same code; no times."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from chaos.flights import parts
from chaos.flights.crowds import Commands, Crowd, Forked, Thousands, commands, crowd, forked, thousands
from chaos.flights.leaders import Leaders, killed, stopped
from chaos.flights.lives import Churn, Life, Replay, churn, life, replay
from chaos.flights.outages import Outages, freezes, restarts
from chaos.flights.scene import Figure, Grounds, counted, timed
from llmcache.tiers import redis_leases
from tests.cache_servers import RedisServer
from tests.faults import proxy as faults
from tests.faults.proxy import Proxy
from tests.services import Postgres
from tests.waiting import until


@pytest.fixture(scope="module")
def grounds(redis_server: RedisServer, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Grounds:
    return Grounds(tmp_path_factory.mktemp("grounds"), redis_server, postgres)


@pytest.fixture(autouse=True)
def well(redis_server: RedisServer) -> Iterator[None]:
    """Leave the server as it was, also when a test ends while it is away."""
    yield
    redis_server.thaw()


PARTS: dict[str, Callable[[Grounds], list[Figure]]] = {
    "crowd": partial(crowd, size=Crowd(places=("postgresql",), times=1, many=32, processes=3, provider=0.1)),
    "thousands": partial(thousands, size=Thousands(threads=200, tasks=200)),
    "forked": partial(forked, size=Forked(children=6, provider=2.0, times=1)),
    "commands": partial(commands, size=Commands(misses=5, provider=1.2, waits=3.5, many=8)),
    "killed": partial(killed, size=Leaders(times=1, followers=2)),
    "stopped": partial(stopped, size=Leaders(times=1, followers=2)),
    "restarts": partial(restarts, size=Outages(calls=320, kills=3, texts=50, pause=0.03)),
    "freezes": partial(freezes, size=Outages(calls=320, freezes=1, texts=50, pause=0.06)),
    "churn": partial(churn, size=Churn(children=4, loops=20, cancelled=200)),
    "life": partial(life, size=Life(rounds=2, hits=1_000, misses=100, failures=20)),
    "replay": partial(replay, size=Replay(requests=300, processes=2, threads=8)),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_is_counted_is_kept(part: str, grounds: Grounds) -> None:
    figures = [figure for figure in PARTS[part](grounds) if not figure.is_time]
    assert figures
    assert [(figure.what, figure.found, figure.target) for figure in figures if not figure.kept] == []


def test_all_that_is_measured_is_counted_here() -> None:
    # Those about warming are in `test_warming_processes` and `test_warming_killed`.
    flights = {name for name in parts.PARTS if not name.startswith("warming-")}
    assert {name.removeprefix("flights-") for name in flights} == set(PARTS)


def test_who_waits_on_a_slow_server_goes_on_waiting(grounds: Grounds, redis_server: RedisServer) -> None:
    """Many looks take more time together than one call may spend on a server, and each is quick enough."""
    take = redis_leases._DIGESTS[redis_leases._TAKE].encode()
    with Proxy(redis_server.port) as proxy, grounds.scene(redis_port=proxy.port) as scene:
        leader, *others = scene.hands(3)
        proxy.fail(faults.latency(0.1), on=take, times=None)
        text, received = scene.text("waited for"), scene.sandbox.received
        scene.sandbox.hold()
        leader.tell("ask", text=text)
        scene.sandbox.wait_until_received(received + 1)
        others[0].tell("ask", text=text)
        others[1].tell("crowd", text=text, threads=0, tasks=4)
        until(lambda: len(proxy.met) >= 25)
        assert scene.sandbox.received == received + 1
        scene.sandbox.release()
        assert leader.hear()[:2] == [text, "miss"]
        assert others[0].hear()[:2] == [text, "collapsed"]
        assert others[1].hear()["outcomes"] == {f"{text} collapsed": 4}


def test_a_figure_of_time_says_when_it_is_not_kept() -> None:
    assert timed("", [0.1] * 99 + [0.3], 0.2, share=0.99).kept
    assert not timed("", [0.1] * 98 + [0.3] * 2, 0.2, share=0.99).kept
    assert not timed("", [0.1, 0.3], 0.2).kept
    assert (counted("", 1, 1).kept, counted("", 2, 1).kept) == (True, False)
