"""``manage.py llmcache_schema``: what a deploy has left behind, and what the code as it is now would leave behind."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import BaseModel, Field, create_model

import llmcache
from llmcache.engine.schemas import Seen
from llmcache.models import CacheEntry, SchemaVersion
from llmcache.money.pricing import dollars
from llmcache.schema_history import prompts, reports
from llmcache.schema_history.reports import Live, live_entries
from llmcache.schema_history.versions import write_seen
from llmcache.testing.sandbox import Sandbox
from tests import forks
from tests.conftest import child_environment, llmcache_settings
from tests.flows.newcomer import ROOT, manage
from tests.flows.test_costs import SANDBOX_PRICES
from tests.web.ledger_rows import copies

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


class Ticket(BaseModel):
    """A mail to the support."""

    title: str


Old = Ticket


def newer(**fields: Any) -> type[BaseModel]:
    """Return ``Ticket`` as a deploy has changed it."""
    return create_model("Ticket", __base__=BaseModel, title=(str, ...), **fields)


New = newer(urgent=(bool, Field(description="Größe\x9b2J ‮zählt")))
TEXTS = ("The printer is on fire", "Where is my parcel?", "I cannot sign in")


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    sandbox.answers.update({text: {"title": text, "urgent": True} for text in TEXTS})
    # The project's own kinds are of no matter here.
    with llmcache_settings(PRICES=SANDBOX_PRICES, KINDS={}):
        yield sandbox


def told(*arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command("llmcache_schema", *arguments, stdout=out, **options)
    return out.getvalue()


def data(*arguments: str) -> dict[str, Any]:
    return json.loads(told("--json", *arguments))


def refused(*arguments: str) -> CommandError:
    with pytest.raises(CommandError) as error:
        told(*arguments)
    assert len(str(error.value).splitlines()) == 1
    return error.value


def deployed() -> tuple[SchemaVersion, SchemaVersion]:
    """Ask three times with the old form and once with the new one; return the rows of both."""
    for text in TEXTS:
        llmcache.extract(text, Old, ttl=3600)
    # What was asked in one second is in the order of its rows.
    assert llmcache.flush()
    llmcache.extract(TEXTS[0], New)
    assert llmcache.flush()
    old, new = SchemaVersion.objects.order_by("first_seen_at", "pk")
    return old, new


def cost_of(form: SchemaVersion) -> str:
    found = CacheEntry.objects.filter(schema=form.fingerprint).aggregate(cost=Sum("cost_pico_usd"))["cost"]
    assert found
    return str(dollars(found))


def test_a_deploy_says_what_it_has_left_behind_and_what_differs() -> None:
    old, new = deployed()
    CacheEntry.objects.filter(schema=old.fingerprint, key__in=[entry_of(old).key]).update(cost_pico_usd=None)
    said = told()
    assert f"Ticket: {old.fingerprint[:12]} -> {new.fingerprint[:12]}, first seen " in said
    assert re.search(r"left behind: 3 entries, \$[0-9.]+ and 1 of unknown cost to make anew", said)
    assert "of the new form: 1 entries" in said
    assert re.search(r'\+ properties\.urgent: \{.*"boolean"', said)
    assert '~ required: ["title"] -> ["title", "urgent"]' in said
    assert "1 changes since " in said
    # What moves a terminal's cursor, or turns its lines round, does not; letters stay letters.
    assert "Größe" in said
    assert not set(said) & {"\x9b", "‮"}
    assert not any(text in said for text in TEXTS)


def entry_of(form: SchemaVersion) -> CacheEntry:
    entry = CacheEntry.objects.filter(schema=form.fingerprint).order_by("pk").first()
    assert entry is not None
    return entry


def test_as_json_it_is_one_object() -> None:
    old, new = deployed()
    found = data("Ticket", "--all")
    (change,) = found["changes"]
    assert (found["since"], found["differs"], found["registered"]) == (None, False, [])
    assert (change["type"], change["before"], change["after"]) == ("Ticket", old.fingerprint, new.fingerprint)
    assert datetime.fromisoformat(change["first_seen_at"]) == new.first_seen_at
    assert change["left_behind"] == {"entries": 3, "cost_usd": cost_of(old), "of_unknown_cost": 0}
    assert change["of_new_form"] == {"entries": 1, "cost_usd": cost_of(new), "of_unknown_cost": 0}
    places = {each["path"]: each["change"] for each in change["changes"]}
    assert places == {"properties.urgent": "added", "required": "changed", "description": "removed"}
    assert not any(text in json.dumps(found) for text in TEXTS)


def test_what_has_expired_is_not_left_behind() -> None:
    old, new = deployed()
    CacheEntry.objects.filter(pk=entry_of(old).pk).update(expires_at=timezone.now())
    CacheEntry.objects.filter(schema=new.fingerprint).update(expires_at=None)
    (change,) = data()["changes"]
    assert (change["left_behind"]["entries"], change["of_new_form"]["entries"]) == (2, 1)


def test_only_changes_of_the_time_that_was_asked_for() -> None:
    _, new = deployed()
    SchemaVersion.objects.filter(pk=new.pk).update(first_seen_at=timezone.now() - 3 * DAY)
    assert len(data("--since", "4d")["changes"]) == len(data("--since", "1w")["changes"]) == 1
    assert data("--since", "71h")["changes"] == data("--since", "2d")["changes"] == []
    assert "No response type has changed since " in told("--since", "90m")
    SchemaVersion.objects.filter(pk=new.pk).update(first_seen_at=timezone.now() - 30 * DAY)
    assert data()["changes"] == []
    assert len(data("--all")["changes"]) == 1


def test_a_form_that_is_asked_for_again_is_said_to_be_in_use() -> None:
    old, new = deployed()
    SchemaVersion.objects.filter(pk=old.pk).update(last_seen_at=new.first_seen_at - timedelta(seconds=1))
    assert data()["changes"][0]["older_form_still_asked"] is False
    assert "still asked for" not in told()
    SchemaVersion.objects.filter(pk=old.pk).update(last_seen_at=new.first_seen_at + timedelta(seconds=1))
    assert data()["changes"][0]["older_form_still_asked"] is True
    assert "the older form was still asked for at " in told()


def test_each_change_of_a_type_counts_what_it_has_left_itself() -> None:
    deployed()
    llmcache.extract(TEXTS[0], newer(urgent=(bool, ...), queue=(str, "")))
    assert llmcache.flush()
    assert [(each["left_behind"]["entries"], each["of_new_form"]["entries"]) for each in data()["changes"]] == [
        (1, 1),
        (3, 1),
    ]
    assert "2 changes since " in told()
    assert ": 4 entries are left behind, $" in told()


# Before a deploy


def registering(annotation: Any) -> Any:
    return llmcache_settings(KINDS={"inbox": {"type": annotation}}, PRICES=SANDBOX_PRICES)


def test_before_a_deploy_it_says_what_that_would_leave_behind() -> None:
    for text in TEXTS:
        llmcache.extract(text, Old)
    assert llmcache.flush()
    form = SchemaVersion.objects.get()
    with registering(New):
        said = told()
        assert re.search(r"Ticket: \w{12} -> \w{12}, not asked for yet", said)
        assert re.search(r"would leave behind: 3 entries, \$[0-9.]+ to make anew", said)
        assert "+ properties.urgent: " in said
        (found,) = data()["registered"]
    assert (found["type"], found["kinds"], found["differs"]) == ("Ticket", ["inbox"], True)
    assert found["last_seen"] == form.fingerprint != found["now"]
    assert found["would_leave_behind"] == {"entries": 3, "cost_usd": cost_of(form), "of_unknown_cost": 0}
    assert found["of_this_form"]["entries"] == 0


def test_the_check_fails_only_where_answers_would_be_left_behind() -> None:
    with registering(Old):
        assert "Ticket: " in told("--check")
        assert "never asked for" in told("--check")
        llmcache.extract(TEXTS[0], Old, kind="inbox")
        assert llmcache.flush()
        assert "as it was asked for last" in told("--check")
    with registering(New):
        error = refused("--check")
        assert (error.returncode, str(error)) == (
            1,
            "1 registered types differ from what was asked for last: Ticket.",
        )
        assert refused("--check", "--json", "Ticket").returncode == 1
        # Without it, it only tells.
        assert "would leave behind" in told()
        llmcache.extract(TEXTS[0], New)
        assert llmcache.flush()
        assert "as it was asked for last" in told("--check")
    with registering(Old):
        # The older form again: its own entries are found again, and those of the new form are not.
        assert refused("--check").returncode == 1
        (found,) = data()["registered"]
        assert (found["would_leave_behind"]["entries"], found["of_this_form"]["entries"]) == (1, 1)
        assert "of this form there are: 1 entries" in told()


def test_after_a_deploy_was_taken_back_the_older_form_is_what_was_asked_for_last() -> None:
    old, new = deployed()
    SchemaVersion.objects.filter(pk=old.pk).update(last_seen_at=new.last_seen_at + timedelta(seconds=1))
    with registering(Old):
        assert "as it was asked for last" in told("--check")
    with registering(New):
        assert refused("--check").returncode == 1


def test_without_registered_types_there_is_nothing_to_check() -> None:
    deployed()
    assert told("--check") == "LLMCACHE['KINDS'] registers no response type, so there is nothing to compare.\n"


def test_kinds_of_one_type_are_told_together() -> None:
    with llmcache_settings(KINDS={"inbox": {"type": Old}, "outbox": {"type": Old}, "other": {"ttl": 60}}):
        (found,) = data()["registered"]
    assert found["kinds"] == ["inbox", "outbox"]


# Prompts and versions


def test_a_new_prompt_and_a_new_version_are_told_by_kind() -> None:
    for text in TEXTS:
        llmcache.extract(text, Old, kind="inbox", system="Titles in English.", ttl=60)
    llmcache.extract(TEXTS[0], Old, kind="outbox")
    assert llmcache.flush()
    assert "system prompts" not in told()
    llmcache.extract(TEXTS[0], Old, kind="inbox", system="Titles in German.", ttl=3600)
    assert llmcache.flush()
    others = CacheEntry.objects.filter(kind="inbox").order_by("pk")[:3]
    cost = sum(entry.cost_pico_usd or 0 for entry in others)
    inbox, outbox = data()["kinds"]
    assert (inbox["kind"], inbox["entries"], inbox["system_prompts"], inbox["versions"]) == ("inbox", 4, 2, 1)
    assert inbox["other_than_newest"] == {"entries": 3, "cost_usd": str(dollars(cost)), "of_unknown_cost": 0}
    assert (outbox["kind"], outbox["system_prompts"], outbox["other_than_newest"]["entries"]) == ("outbox", 1, 0)
    said = told()
    assert "inbox: 4 entries, 2 system prompts, 1 versions; other than the newest entry's: 3 entries, $" in said
    assert "outbox" not in said
    assert "Titles" not in said
    with llmcache_settings(KINDS={"outbox": {"version": "2"}}):
        llmcache.extract(TEXTS[0], Old, kind="outbox")
        assert llmcache.flush()
    assert "outbox: 2 entries, 1 system prompts, 2 versions; other than the newest entry's: 1 entries, $" in told()
    # What has expired is of no matter, and of one type alone nothing is said of kinds.
    CacheEntry.objects.filter(kind="outbox").update(expires_at=timezone.now())
    assert "outbox" not in told()
    assert data("Ticket")["kinds"] == []


def test_entries_without_hashes_and_with_strange_ones_are_left_out() -> None:
    llmcache.extract(TEXTS[0], Old)
    assert llmcache.flush()
    copies(CacheEntry.objects.get(), 4)
    for entry, components in zip(CacheEntry.objects.all(), ({}, [], {"project": 7}, None), strict=False):
        CacheEntry.objects.filter(pk=entry.pk).update(components=components or {})
    (kind,) = data()["kinds"]
    assert (kind["entries"], kind["system_prompts"], kind["versions"]) == (1, 1, 1)


def test_prompts_are_read_by_the_time_alone() -> None:
    found = plan(lambda: prompts.prompts_by_kind("default"))
    assert "SCAN llmcache_cacheentry USING INDEX" in found
    assert "TEMP B-TREE" not in found


# What it cannot do


def test_a_type_that_nobody_knows_is_refused_by_naming_those_that_are_like_it() -> None:
    assert str(refused("Tiket")).endswith("There are none at all.")
    deployed()
    error = refused("Tiket")
    assert error.returncode == 2
    assert "No response type 'Tiket' was ever asked for" in str(error)
    assert str(error).endswith("There are: Ticket.")
    with registering(Old):
        assert data("Ticket")["registered"]


@pytest.mark.parametrize("span", ["7", "d", "-1d", "1y", "٣d", "9999999d", "999999w"])
def test_a_span_of_time_that_is_none_is_refused(span: str) -> None:
    assert "argument --since: " in str(refused(f"--since={span}"))


def test_all_and_since_contradict_each_other() -> None:
    assert "not allowed with" in str(refused("--all", "--since", "7d"))


def test_a_type_that_cannot_be_imported_is_named() -> None:
    with llmcache_settings(KINDS={"inbox": {"type": "no.such.Type"}}):
        error = refused()
    assert error.returncode == 2
    assert "LLMCACHE['KINDS']['inbox']['type']" in str(error)


def test_without_a_table_it_names_migrate(tmp_path: Path) -> None:
    done = manage(tmp_path, "llmcache_schema")
    assert (done.returncode, done.stdout) == (2, "")
    said = done.stderr.splitlines()
    assert said[-1].startswith("CommandError: The database cannot be read (OperationalError: no such table")
    assert said[-1].endswith("run: manage.py migrate")
    assert "Traceback" not in done.stderr


def test_the_exit_status_is_what_a_pipeline_goes_by(var: Path) -> None:
    """In processes of their own, as a pipeline runs it, and over a terminal that knows ASCII alone."""
    write = (
        "import django; django.setup(); from llmcache.engine.schemas import Seen; "
        "from llmcache.schema_history.versions import write_seen; "
        "write_seen([Seen('Person', 'f' * 64, '{\"type\": \"Größe\"}', 1.0, 2.0)], using='default')"
    )
    changes = {"KINDS": {"Person": {"type": "tests.flows.log_worker.Person"}}}
    with llmcache_settings(**changes):
        environment = child_environment(LLMCACHE_TESTS_VAR=str(var))

        def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
            return forks.run([*command], cwd=ROOT, env={**environment, **more}, timeout=120)

        assert run("manage.py", "llmcache_schema", "--check").returncode == 0
        assert run("-c", write).returncode == 0
        done = run("manage.py", "llmcache_schema", "--check", PYTHONIOENCODING="ascii")
        assert done.returncode == 1, done.stderr
        assert r'~ type: "Gr\xf6\xdfe" -> "object"' in done.stdout
        assert done.stderr == "CommandError: 1 registered types differ from what was asked for last: Person.\n"
        assert run("manage.py", "llmcache_schema", "Persona").returncode == 2


# What it costs


def plan(statement: Callable[[], object]) -> str:
    """Return how SQLite carries out the last statement."""
    with CaptureQueriesContext(connection) as captured:
        statement()
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN QUERY PLAN " + captured.captured_queries[-1]["sql"])
        return " ".join(str(row[-1]) for row in cursor.fetchall())


@pytest.mark.parametrize(("most", "by"), [(None, "schema=?"), (10, "schema>? AND schema<?")])
def test_entries_are_counted_by_the_index_of_their_schema(most: int | None, by: str) -> None:
    deployed()
    forms = [reports.form_of(row) for row in SchemaVersion.objects.all()]
    found = plan(lambda: live_entries("default", forms, most=most))
    assert found.count(f"USING INDEX llmcache_entry_schema ({by})") == 2
    assert "TEMP B-TREE" not in found


def test_the_newest_entries_are_looked_at_and_no_others() -> None:
    old, _ = deployed()
    entry = entry_of(old)
    CacheEntry.objects.filter(schema=old.fingerprint).update(expires_at=timezone.now() - DAY, cost_pico_usd=1)
    copies(entry, 20)
    form = reports.form_of(old)
    assert live_entries("default", [form], most=23)[form] == Live(20, 20 * (entry.cost_pico_usd or 0), 0)
    # The expired ones are the oldest.
    CacheEntry.objects.filter(expires_at__lt=timezone.now()).update(written_at=timezone.now() - 9 * DAY)
    assert live_entries("default", [form], most=10)[form] == Live(11, 11 * (entry.cost_pico_usd or 0), 0, more=True)


def test_any_number_of_forms_is_counted(ledger: str) -> None:
    at = timezone.now()
    CacheEntry.objects.using(ledger).bulk_create(
        CacheEntry(
            namespace="n", key=f"{number:064x}", response_type="Ticket", schema=f"{number % 250:064x}", kind="a",
            model="m", written_at=at, size_bytes=1, latency_ms=1, attempts=1,
            cost_pico_usd=number if number % 2 else None,
        )
        for number in range(500)
    )  # fmt: skip
    forms = [("Ticket", f"{number:064x}") for number in range(260)] + [("Order", f"{1:064x}"), ("Ticket", f"{0:064x}")]
    for most in (None, 1_000):
        found = live_entries(ledger, forms, most=most)
        assert len(found) == 261
        assert found["Ticket", f"{3:064x}"] == Live(2, 256, 0)
        assert found["Ticket", f"{2:064x}"] == Live(2, 0, 2)
        assert found["Order", f"{1:064x}"] == found["Ticket", f"{255:064x}"] == Live()


@pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)
def test_postgresql_counts_by_the_index_too(ledger: str) -> None:
    CacheEntry.objects.using(ledger).bulk_create(
        CacheEntry(
            namespace="n", key=f"{number:064x}", response_type="Ticket", schema=f"{number % 2:064x}", kind="a",
            model="m", written_at=timezone.now(), size_bytes=1, latency_ms=1, attempts=1,
        )
        for number in range(4_000)
    )  # fmt: skip
    with connections[ledger].cursor() as cursor:
        cursor.execute("ANALYZE llmcache_cacheentry")
    with CaptureQueriesContext(connections[ledger]) as captured:
        found = live_entries(ledger, [("Ticket", f"{1:064x}")], most=10)
    assert found["Ticket", f"{1:064x}"] == Live(11, 0, 11, more=True)
    with connections[ledger].cursor() as cursor:
        cursor.execute("EXPLAIN " + captured.captured_queries[-1]["sql"])
        lines = " ".join(row[0] for row in cursor.fetchall())
    assert "llmcache_entry_schema" in lines
    assert "Seq Scan" not in lines


def test_a_type_whose_row_cannot_be_read_is_told_all_the_same() -> None:
    write_seen([Seen("Ticket", "a" * 64, "no json", 1.0, 1.0)], using="default")
    write_seen([Seen("Ticket", "b" * 64, "{}", 2.0, 2.0)], using="default")
    SchemaVersion.objects.filter(fingerprint="b" * 64).update(changes=["x", {"path": None, "change": 3}])
    (change,) = data("--all")["changes"]
    assert change["left_behind"]["entries"] == 0
    assert "Ticket: aaaaaaaaaaaa -> bbbbbbbbbbbb" in told("--all")
    with registering(New):
        assert refused("--check").returncode == 1
