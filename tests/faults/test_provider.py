"""Faults on the way to the provider that it cannot make itself: of the connection, and at any byte of a reply.

The provider's own file, the ledger and the callers tell of the same calls.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.models import ProviderCall
from llmcache.testing.sandbox import Sandbox
from tests.conftest import llmcache_settings
from tests.faults import proxy as faults
from tests.faults.proxy import Fault, Proxy

pytestmark = pytest.mark.django_db

ANSWER = {"name": "Ada"}
ASKED = b"POST "


class Person(BaseModel):
    """A person."""

    name: str


@pytest.fixture
def proxy(sandbox: Sandbox) -> Iterator[Proxy]:
    """The way to the provider, over which a call has gone."""
    sandbox.answers |= dict.fromkeys(("warm", "Ada", "Bob"), ANSWER)
    with Proxy(urlsplit(sandbox.base_url).port or 0) as made:
        over = {"base_url": f"http://127.0.0.1:{made.port}/v1", "api_key": "sandbox"}
        with llmcache_settings(PROVIDERS={"openai": over}):
            llmcache.extract("warm", Person)
            yield made
            # Its clients hang up before the proxy does.
            process.install(None)


def blocking(text: str, **options: Any) -> llmcache.Extraction[Person]:
    return llmcache.extract_with_info(text, Person, **options)


def awaited(text: str, **options: Any) -> llmcache.Extraction[Person]:
    return asyncio.run(llmcache.aextract_with_info(text, Person, **options))


@pytest.fixture(params=[blocking, awaited])
def ask(request: pytest.FixtureRequest) -> Callable[..., llmcache.Extraction[Person]]:
    return request.param


def ledger() -> Counter[str]:
    """Return how many calls of the ledger have each outcome, but for the one that was made beforehand."""
    assert llmcache.flush()
    return Counter(ProviderCall.objects.values_list("outcome", flat=True)) - Counter(["answered"])


@pytest.mark.parametrize("fault", [faults.latency(0.02), faults.drip(0.0005)], ids=lambda fault: fault.name)
def test_a_slow_way_is_no_fault(proxy: Proxy, sandbox: Sandbox, fault: Fault, ask: Any) -> None:
    """The control arm: the same way, and nothing is lost on it."""
    proxy.fail(fault, on=ASKED)
    info = ask("Ada")
    assert (info.value, info.attempts, proxy.met) == (Person(**ANSWER), 1, [fault])
    assert (len(sandbox.charges()) - 1, ledger()) == (1, Counter(answered=1))


# In the status line, in the head, in the body, and before all of them.
@pytest.mark.parametrize("count", [0, 5, 60, 400])
def test_a_reply_that_is_cut_is_asked_for_again_and_both_are_told(
    proxy: Proxy, sandbox: Sandbox, count: int, ask: Any
) -> None:
    proxy.fail(faults.cut(count), on=ASKED)
    info = ask("Ada")
    assert (info.value, info.attempts, proxy.met) == (Person(**ANSWER), 2, [faults.cut(count)])
    assert (len(sandbox.charges()) - 1, ledger()) == (2, Counter(answered=1, in_doubt=1))
    assert ask("Ada").outcome == "hit"


def test_a_kept_connection_that_has_gone_costs_nothing_at_the_provider(
    proxy: Proxy, sandbox: Sandbox, ask: Any
) -> None:
    assert ask("Bob").attempts == 1
    proxy.fail(faults.UNREACHABLE, on=ASKED)
    info = ask("Ada")
    assert (info.value, info.attempts, proxy.met) == (Person(**ANSWER), 2, [faults.UNREACHABLE])
    # Nobody here can know that it was not charged.
    assert (len(sandbox.charges()) - 2, ledger()) == (1, Counter(answered=2, in_doubt=1))


def test_who_meets_a_connection_that_nobody_answers_keeps_no_other_from_its_answer(
    proxy: Proxy, sandbox: Sandbox
) -> None:
    """The leader's own time is over; who waited for it has its own."""
    proxy.fail(faults.HALF_OPEN, on=ASKED)
    told, waiting = list[Any](), list[threading.Thread]()

    def lead() -> None:
        with pytest.raises(llmcache.ProviderTimeout) as caught:
            blocking("Ada", timeout=3)
        told.append((caught.value.code, caught.value.attempts))

    def follow() -> None:
        info = blocking("Ada", timeout=60)
        told.append((info.value, info.attempts))

    leader = threading.Thread(target=lead)
    leader.start()
    while not proxy.met:
        leader.join(0.005)
        assert leader.is_alive()
    waiting = [threading.Thread(target=follow) for _ in range(8)]
    for thread in waiting:
        thread.start()
    for thread in [leader, *waiting]:
        thread.join(60)
    ada = Person(**ANSWER)
    assert Counter(map(str, told)) == Counter(map(str, [("provider_timeout", 1), (ada, 1), *[(ada, 0)] * 7]))
    assert (len(sandbox.charges()) - 1, ledger()) == (1, Counter(answered=1, in_doubt=1))
