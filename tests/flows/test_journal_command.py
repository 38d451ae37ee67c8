"""``manage.py llmcache_journal``: a rescued folder comes into the ledger, once, and stays as it was."""

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.models import ProviderCall, UsageBucket
from llmcache.money.journal import Journal
from llmcache.testing.sandbox import Sandbox
from tests.conftest import JournalReader

pytestmark = pytest.mark.django_db

CALL = "3b8a1f6e-0f0e-4f4e-9a52-5c5b1f8f3a11"
OTHER = "3b8a1f6e-0f0e-4f4e-9a52-5c5b1f8f3a12"


class Person(BaseModel):
    """A person."""

    name: str


def imported(*arguments: object, **options: object) -> str:
    out = StringIO()
    call_command("llmcache_journal", *map(str, arguments), stdout=out, stderr=out, **options)
    return out.getvalue()


@pytest.fixture
def rescued(sandbox: Sandbox, journal: JournalReader, tmp_path: Path) -> Path:
    """A copy of the journal of three calls, one of which has no end."""
    llmcache.extract("Ada", Person)
    llmcache.extract("Grace", Person)
    process.current().journal.started(CALL, {"kind": "Person", "model": "openai/m", "why": "not_found", "bound": 7})
    return Path(shutil.copytree(journal.folder, tmp_path / "rescued"))


def test_a_folder_comes_into_the_ledger_once(rescued: Path) -> None:
    before = {path.name: path.read_bytes() for path in rescued.iterdir()}
    assert "3 calls are new in the ledger, 0 were there." in imported(rescued)
    assert "0 calls are new in the ledger, 3 were there." in imported(rescued)
    assert {path.name: path.read_bytes() for path in rescued.iterdir()} == before
    assert ProviderCall.objects.count() == 3
    assert ProviderCall.objects.get(call_id=CALL).outcome == ProviderCall.Outcome.IN_DOUBT
    assert sum(UsageBucket.objects.values_list("attempts", flat=True)) == 3
    assert sum(UsageBucket.objects.values_list("in_doubt_pico_usd", flat=True)) == 7


def test_a_dry_run_imports_nothing_and_json_is_for_programs(rescued: Path) -> None:
    told = json.loads(imported(rescued, "--dry-run", "--json"))
    assert (told["new"], told["dry_run"], [file["without_an_end"] for file in told["files"]]) == (0, True, [1])
    assert "Nothing was imported." in imported(rescued, "--dry-run")
    assert not ProviderCall.objects.exists()
    told = json.loads(imported(rescued, "--json"))
    assert (told["new"], told["known"], told["damaged"], told["dry_run"]) == (3, 0, 0, False)


def test_one_file_is_enough(rescued: Path) -> None:
    (file,) = rescued.iterdir()
    assert "3 calls are new" in imported(file)


def test_damage_is_told_and_the_rest_imported(rescued: Path) -> None:
    (file,) = rescued.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0].replace(b"not_found", b"not_fuond"), *lines[1:], b"torn"]))
    with pytest.raises(CommandError, match="2 lines are damaged"):
        imported(rescued)
    assert ProviderCall.objects.count() == 3


def test_lines_of_another_name_space_are_left_until_it_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "theirs", "theirs")
    journal.started(OTHER, {"kind": "Person", "why": "not_found"})
    journal.close()
    assert "1 lines are of other name spaces" in imported(tmp_path / "theirs")
    assert "1 calls are new" in imported(tmp_path / "theirs", namespace="theirs")
    with pytest.raises(CommandError, match="1 to 64 characters"):
        imported(tmp_path, namespace="Not This")


def test_a_file_that_a_living_process_writes_is_left_to_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "alive", process.current().namespace)
    journal.started(OTHER, {"kind": "Person", "why": "not_found"})
    with pytest.raises(CommandError, match="1 files could not be read"):
        imported(tmp_path / "alive")
    assert not ProviderCall.objects.exists()
    journal.close()
    assert "1 calls are new" in imported(tmp_path / "alive")


def test_what_is_no_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="does not exist"):
        imported(tmp_path / "nothing")
    with pytest.raises(CommandError, match="has no files named"):
        imported(tmp_path)
    with pytest.raises(CommandError, match="1 files could not be read"):
        imported("/dev/null")
