"""``LEDGER_SYNC``: an attempt is in the database before it leaves, whatever becomes of its machine's disk."""

import json
import signal
from collections.abc import Callable

import pytest

from llmcache.testing.sandbox import Sandbox
from tests.services import Postgres
from tests.toys import Toy

MakeToy = Callable[..., Toy]

ASK = """
import asyncio, logging, sys
import django
django.setup()
from django.conf import settings
from llmcache.money import writer
import llmcache
from notes.types import Title
settings.LLMCACHE["LEDGER_SYNC"] = True
writer.IMPORT_SECONDS = 3600
way, text = sys.argv[1:]
if way == "async":
    title = asyncio.run(llmcache.aextract(text, Title, kind="asked"))
else:
    title = llmcache.extract(text, Title, kind="asked")
print(title.title, flush=True)
"""


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_attempt_is_in_the_database_before_it_leaves(way: str, sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy("postgresql", sandbox.base_url)
    sandbox.hold()
    with pytest.raises(AssertionError), toy.started("-c", ASK, way, "a note") as process:
        sandbox.wait_until_received(1)
        (call,) = json.loads(toy.manage("shell", "--no-imports", "--verbosity=0", "--command", ROWS))
        process.send_signal(signal.SIGKILL)
        process.wait()
    sandbox.release()
    assert call["kind"] == "asked"
    assert call["outcome"] == "under_way"
    assert call["bound_pico_usd"] > 0
    # Its end is what the journal says: the next process of the machine finds it.
    (call,) = toy.told("ledger")["calls"]
    assert call["outcome"] == "in_doubt"


ROWS = (
    "import json; from llmcache.models import ProviderCall; "
    "print(json.dumps(list(ProviderCall.objects.values('kind', 'outcome', 'bound_pico_usd'))))"
)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_database_that_is_down_keeps_no_call_from_its_answer(
    way: str, sandbox: Sandbox, make_toy: MakeToy, postgres: Postgres
) -> None:
    toy = make_toy("postgresql", sandbox.base_url)
    postgres.stop()
    try:
        done = toy.run("-c", ASK, way, "a note")
    finally:
        postgres.start()
    assert done.stdout.strip()
    assert done.stderr.count("LEDGER_SYNC") == 1
    assert [call["kind"] for call in toy.told("ledger")["calls"]] == ["asked"]
