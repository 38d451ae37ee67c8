"""A database cache as a tier of somebody's project: it and the callers' transactions leave each other alone."""

import json
from collections.abc import Callable

import pytest

from llmcache.testing.sandbox import Sandbox
from tests.toys import DATABASES, Toy

MakeToy = Callable[..., Toy]

CACHES = json.dumps(
    {
        "default": {
            "BACKEND": "django.core.cache.backends.db.DatabaseCache",
            "LOCATION": "cached",
            "OPTIONS": {"MAX_ENTRIES": 10**6},
        }
    }
)

BEGIN = """
import json, os, sys, threading
import django
django.setup()
from django.core.cache import caches
from django.db import connection, transaction
import llmcache
from llmcache.engine import process
from notes.models import Note
from notes.types import Title
"""

CALLERS = """
class Over(Exception):
    pass

def note(text, fails):
    with transaction.atomic():
        before = Note.objects.count()
        # On SQLite another's write from here on would make the next statement but one fail.
        llmcache.extract(text, Title)
        Note.objects.create(text=text, title=str(before))
        # Now this transaction holds SQLite's one lock.
        llmcache.extract(text + " again", Title)
        Note.objects.create(text=text, title=str(before))
        if fails:
            raise Over

llmcache.extract("text outside", Title)
for number in range(6):
    try:
        note(f"text {number}", fails=number % 2)
    except Over:
        pass
# What the last one wrote may still wait; the end of the process waits for it.
print(Note.objects.count())
"""

AGAIN = """
texts = [f"text {number}{more}" for number in range(6) for more in ("", " again")] + ["text outside"]
infos = [llmcache.extract_with_info(text, Title) for text in texts]
_, completion = llmcache.extract_with_completion(texts[1], Title)
print(json.dumps([sorted({(info.outcome, info.tier) for info in infos}), completion is not None]))
"""


@pytest.mark.parametrize("database", DATABASES)
def test_what_a_caller_rolls_back_stays_paid_for(database: str, sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy(database, sandbox.base_url, TOY_CACHES=CACHES)
    toy.manage("createcachetable", "--verbosity=0")
    done = toy.run("-c", BEGIN + CALLERS)
    assert (done.stdout, done.stderr) == ("6\n", "")
    done = toy.run("-c", BEGIN + AGAIN)
    assert (json.loads(done.stdout), done.stderr) == ([[["hit", "default"]], True], "")
    assert sandbox.calls == 13


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_table_that_is_missing_fails_no_callers_transaction(
    database: str, sandbox: Sandbox, make_toy: MakeToy
) -> None:
    toy = make_toy(database, sandbox.base_url, TOY_CACHES=CACHES)
    done = toy.run("-c", BEGIN + CALLERS)
    assert done.stdout == "6\n"
    read, written = sorted(done.stderr.splitlines())
    assert read.startswith("The tier 'default' cannot be read: ")
    assert written.startswith("The tier 'default' cannot be written: ")


EXPIRED = """
from django.db import connection
llmcache.extract("a text", Title)
process.current().memory.clear()
with connection.cursor() as cursor:
    cursor.execute("UPDATE cached SET expires = '2001-01-01 00:00:00'")
with transaction.atomic():
    before = Note.objects.count()
    print(llmcache.extract_with_info("a text", Title).outcome)
    Note.objects.create(text="", title=str(before))
print(Note.objects.count())
"""


@pytest.mark.parametrize("database", ["sqlite-wal", "postgresql"])
def test_reading_what_has_expired_writes_nothing(database: str, sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy(database, sandbox.base_url, TOY_CACHES=CACHES)
    toy.manage("createcachetable", "--verbosity=0")
    done = toy.run("-c", BEGIN + EXPIRED)
    assert (done.stdout.split(), done.stderr) == (["miss", "1"], "")
    assert sandbox.calls == 2


THREADS = """
writing, errors = threading.Lock(), []

def work(thread):
    try:
        for step in range(8):
            # Of several transactions that have read, SQLite lets one write.
            with writing, transaction.atomic():
                before = Note.objects.count()
                llmcache.extract(f"thread {thread} step {step}", Title)
                Note.objects.create(text="", title=str(before))
            llmcache.extract(f"thread {thread} step {step} outside", Title)
    except Exception as error:
        errors.append(repr(error))
    finally:
        connection.close()

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
process.current().tiers.drain(30)
child = os.fork()
if child == 0:
    process.current().memory.clear()
    outcomes = [llmcache.extract_with_info(f"thread 1 step {step}", Title).outcome for step in range(8)]
    sys.exit(outcomes != ["hit"] * 8)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
process.current().memory.clear()
infos = [
    llmcache.extract_with_info(f"thread {thread} step {step}{where}", Title)
    for thread in range(4)
    for step in range(8)
    for where in ("", " outside")
]
print(json.dumps([errors, code, Note.objects.count(), sorted({(info.outcome, info.tier) for info in infos})]))
"""


@pytest.mark.parametrize("database", ["sqlite-wal", "postgresql"])
def test_threads_in_transactions_and_out_of_them(database: str, sandbox: Sandbox, make_toy: MakeToy) -> None:
    toy = make_toy(database, sandbox.base_url, TOY_CACHES=CACHES)
    toy.manage("createcachetable", "--verbosity=0")
    done = toy.run("-W", "ignore::DeprecationWarning", "-c", BEGIN + THREADS)
    assert (json.loads(done.stdout), done.stderr) == ([[], 0, 32, [["hit", "default"]]], "")
    assert sandbox.calls == 64
