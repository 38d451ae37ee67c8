"""The demo command, run as a newcomer runs it: in processes of its own, with files of its own."""

import contextlib
import csv
import itertools
import os
import pty
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcache.testing.sandbox import Sandbox, faults, read_charges
from project.demo import data
from project.demo.amounts import pico_money
from project.demo.latencies import latency, measured
from tests.flows.newcomer import ROOT, environment, manage, real_api

REQUESTS = 120
"""Enough to have repeats among them."""
OVER_TENANTS = 400
"""Enough to have some that are only repeats where tenants share what they know."""


def demo(var: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return manage(var, "demo", "--requests", str(REQUESTS), *arguments, **more)


def cells(output: str) -> dict[str, list[str]]:
    """The table's rows by their labels."""
    lines = (re.split(r"\s{2,}", line.strip()) for line in output.splitlines() if line.startswith("  "))
    return {line[0]: line[1:] for line in lines if len(line) == 3}


def number(text: str) -> int:
    return int(text.replace(",", ""))


def answered_without_a_call(table: dict[str, list[str]]) -> int:
    """Hits and collapsed calls; a thread that looks while another one stores its answer may find it below memory."""
    return sum(number(row[0]) for label, row in table.items() if label.startswith("hits: ") or label == "collapsed")


def expected_calls(*, by_tenant: bool, requests: int = REQUESTS) -> int:
    """Read from the files themselves how many of the requests ask something for the first time."""
    with data.REQUESTS.open(newline="") as rows:
        asked = [
            (row["id"], row["tenant"] if by_tenant else "") for row in itertools.islice(csv.DictReader(rows), requests)
        ]
    return len(set(asked))


def test_a_second_run_asks_nobody(var: Path) -> None:
    calls = expected_calls(by_tenant=False)
    first = demo(var)
    assert first.returncode == 0, first.stderr
    table = cells(first.stdout)
    assert table["requests"] == [str(REQUESTS)] * 2
    assert answered_without_a_call(table) == REQUESTS - calls
    assert table["misses"] == table["provider calls"] == [str(calls), str(calls)]
    assert table["hit rate"][0] == f"{(REQUESTS - calls) / REQUESTS:.2%}".replace("%", " %")
    assert re.findall(r"provider calls: \d+", first.stdout) == [f"provider calls: {calls}"]
    assert "tenants share one name space" in first.stdout
    assert "no model" in first.stdout
    assert f"All {REQUESTS} values are equal to their text's gold" in first.stdout
    assert "make serve" in first.stdout

    second = demo(var)
    assert second.returncode == 0, second.stderr
    table = cells(second.stdout)
    assert re.findall(r"provider calls: \d+", second.stdout) == ["provider calls: 0"]
    assert table["requests"] == [str(REQUESTS), str(2 * REQUESTS)]
    assert answered_without_a_call(table) == REQUESTS
    assert number(table["hits: redis"][0]) >= calls
    assert table["misses"] == table["provider calls"] == ["0", str(calls)]
    assert table["hit rate"][0] == "100.00 %"
    assert table["miss latency, median"][0] == "—"
    assert table["miss latency, median"][1].endswith("ms")
    charged = [len(path.read_bytes().splitlines()) for path in sorted((var / "sandbox").iterdir())]
    assert sorted(charged) == [0, calls]


def money_kept(var: Path) -> list[tuple[int | None, int | None]]:
    """What each run has spent and saved, in 10**-12 US dollars, as its row has it."""
    with contextlib.closing(sqlite3.connect(var / "db.sqlite3")) as database:
        return database.execute("SELECT spent_pico_usd, saved_pico_usd FROM demo_demorun ORDER BY id").fetchall()


def test_spent_is_the_providers_bill_and_saved_what_hits_did_not_pay_again(var: Path) -> None:
    # One thread asks in the order of the log: the n-th charge is that of the n-th new text.
    first = demo(var, "--threads", "1")
    assert first.returncode == 0, first.stderr
    (charges,) = (var / "sandbox").iterdir()
    bill = [charge["price_pico_usd"] for charge in read_charges(charges)]
    texts = [request.text for request in data.read_log(REQUESTS)]
    costs = dict(zip(dict.fromkeys(texts), bill, strict=True))
    spent, again = sum(bill), sum(costs[text] for text in texts)
    table = cells(first.stdout)
    assert table["spent"] == [pico_money(spent)] * 2
    assert table["saved"] == [pico_money(again - spent)] * 2
    assert table["calls in doubt"] == table["calls unpriced"] == ["0", "0"]

    second = cells(demo(var).stdout)
    assert second["spent"] == ["$0", pico_money(spent)]
    assert second["saved"] == [pico_money(again), pico_money(again + again - spent)]
    assert money_kept(var) == [(spent, again - spent), (0, again)]


def test_threads_at_once_spend_what_the_provider_charges(var: Path) -> None:
    assert demo(var, "--latency-ms", "5").returncode == 0
    (charges,) = (var / "sandbox").iterdir()
    bill = [charge["price_pico_usd"] for charge in read_charges(charges)]
    ((spent, _),) = money_kept(var)
    assert spent == sum(bill)


def test_runs_from_before_the_ledger_have_no_money(tmp_path: Path) -> None:
    assert manage(tmp_path, "migrate", "--verbosity", "0", "demo", "0001").returncode == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "db.sqlite3")) as database, database:
        database.execute(
            "INSERT INTO demo_demorun (started_at, seconds, threads, mode, provider, requests, outcomes,"
            " provider_calls, unlike_gold, latencies, complete)"
            " VALUES ('2026-01-01', 1, 8, 'shared', 'sandbox', 20, '{}', 20, 0, '{}', 1)"
        )
    early = demo(tmp_path)
    assert early.returncode == 1
    assert "manage.py migrate" in early.stderr
    assert manage(tmp_path, "migrate", "--verbosity", "0").returncode == 0
    done = demo(tmp_path)
    table = cells(done.stdout)
    assert table["requests"] == [str(REQUESTS), str(REQUESTS + 20)]
    assert table["spent"][1] == f"≥ {table['spent'][0]}"
    assert table["calls in doubt"] == ["0", "≥ 0"]
    assert "≥ is at least" in done.stdout
    assert money_kept(tmp_path)[0] == (None, None)


def test_calls_that_may_have_been_charged_are_in_doubt_and_those_without_a_price_unpriced(var: Path) -> None:
    with Sandbox() as provider:
        # Only one text's call is lost, each time that it is tried.
        provider.fail(faults.reset_after_charge(), times=None, text="2 stalks celery, chopped coarse")
        done = demo(var, "--yes", "--threads", "1", "--requests", "20", **real_api(provider))
    table = cells(done.stdout)
    assert table["errors"] == ["1", "1"]
    # Nobody knows the prices of a server of one's own.
    assert table["spent"] == ["≥ $0", "≥ $0"]
    assert table["calls unpriced"] == ["19", "19"]
    assert table["calls in doubt"] == ["3, of unknown cost"] * 2


def test_output_that_nobody_watches_is_plain_lines(var: Path) -> None:
    done = demo(var, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert f"  {REQUESTS} of {REQUESTS}\n" in done.stdout


def test_on_a_terminal_there_is_a_bar_and_a_table(var: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "manage.py", "demo", "--requests", "40"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(var, TERM="xterm", COLUMNS="100"), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b"".join(terminal_output(ours)).decode()
    os.close(ours)
    assert process.returncode == 0, shown
    assert "\x1b[" in shown
    assert "40/40" in shown
    assert "━" in shown
    assert re.search(r"misses +\d+ +\d+", shown)
    assert "provider calls: " in shown


def terminal_output(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 65_536)
        except OSError:  # how Linux tells that the other side has closed
            return
        if not chunk:
            return
        yield chunk


def test_separate_tenants_share_no_answer(var: Path) -> None:
    calls = expected_calls(by_tenant=True, requests=OVER_TENANTS)
    assert calls > expected_calls(by_tenant=False, requests=OVER_TENANTS)
    done = demo(var, "--requests", str(OVER_TENANTS), TENANTS="separate")
    assert done.returncode == 0, done.stderr
    table = cells(done.stdout)
    assert answered_without_a_call(table) == OVER_TENANTS - calls
    assert f"provider calls: {calls}\n" in done.stdout
    assert "one name space per tenant" in done.stdout


def test_the_whole_log_has_the_repetition_that_its_source_has() -> None:
    log = data.read_log()
    assert len(log) == 20_000
    assert data.distinct(log, separate_tenants=False) == 12_182
    assert data.distinct(log, separate_tenants=True) == 13_262


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"TENANTS": "no"}, ("TENANTS", "'no'", "'shared'", "'separate'")),
        ({"LLMCACHE_DEMO_PROVIDER": "opnai"}, ("LLMCACHE_DEMO_PROVIDER", "'opnai'", "'sandbox'", "'openai'")),
        ({"LLMCACHE_DEMO_PROVIDER": "openai"}, ("OPENAI_API_KEY",)),
        ({"LLMCACHE_DEMO_PROVIDER": "openai", "OPENAI_API_KEY": "secret"}, ("--yes",)),
    ],
)
def test_a_wrong_environment_is_said_before_anything_is_sent(
    var: Path, more: dict[str, str], words: tuple[str, ...]
) -> None:
    done = demo(var, **more)
    assert done.returncode == 1
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert not (var / "journal").exists()


@pytest.mark.parametrize(
    "arguments", [("--requests", "0"), ("--requests", "20001"), ("--threads", "x"), ("--latency-ms", "-1")]
)
def test_a_wrong_option_is_said(var: Path, arguments: tuple[str, str]) -> None:
    done = demo(var, *arguments)
    assert done.returncode == 2
    assert "must be a whole number from" in done.stderr


def test_a_missing_table_is_said_before_the_first_request(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 1
    assert "manage.py migrate" in done.stderr
    assert not (tmp_path / "journal").exists()


def test_the_projects_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    var = tmp_path / "not yet" / "there"
    secrets = set[str]()
    for _ in range(2):
        assert manage(var, "check").returncode == 0
        secrets.add((var / "secret_key").read_text())
    assert len(secrets) == 1
    assert len(secrets.pop()) >= 50
    assert stat.S_IMODE((var / "secret_key").stat().st_mode) == 0o600
    # Newer versions of Django open the database for a check.
    assert {path.name for path in var.iterdir()} <= {"secret_key", "db.sqlite3", "db.sqlite3-wal", "db.sqlite3-shm"}


def test_the_real_api_is_asked_where_its_user_agrees(var: Path) -> None:
    with Sandbox() as provider:
        done = demo(var, "--yes", **real_api(provider))
    calls = expected_calls(by_tenant=False)
    assert done.returncode == 0, done.stderr
    assert f"up to {calls} calls" in done.stdout
    assert provider.calls == calls
    assert cells(done.stdout)["provider calls"] == [str(calls), str(calls)]
    # A model that reads otherwise than people have labelled is no failure of the run.
    assert f"of {REQUESTS} values are what people read in the text" in done.stdout


def test_a_key_alone_spends_no_money(var: Path) -> None:
    with Sandbox() as provider:
        keyed = {**real_api(provider), "LLMCACHE_DEMO_PROVIDER": ""}
        done = demo(var, "--requests", "20", **keyed)
    assert done.returncode == 0, done.stderr
    assert provider.received == 0
    assert "no model" in done.stdout


@pytest.mark.parametrize("typed", [b"n\n", b"\x04"], ids=["no", "Ctrl-D"])
def test_on_a_terminal_the_user_is_asked_before_money_is_spent(var: Path, typed: bytes) -> None:
    ours, theirs = pty.openpty()
    with Sandbox() as provider:
        with subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--requests", "5"],
            cwd=ROOT,
            env=environment(var, TERM="xterm", **real_api(provider)),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            os.write(ours, typed)
            shown = b"".join(terminal_output(ours)).decode()
        assert provider.received == 0
    os.close(ours)
    assert process.returncode == 1
    assert "up to 5 calls" in shown
    assert "Nothing was sent." in shown
    assert "Traceback" not in shown


def test_a_value_unlike_its_gold_fails_the_run_after_the_table(var: Path) -> None:
    # Answers from a provider on loopback are entries of the sandbox's, whichever port it has.
    with Sandbox() as other:
        assert demo(var, "--yes", **real_api(other)).returncode == 0
    done = demo(var)
    assert done.returncode == 1
    assert cells(done.stdout)["values unlike gold"] == [str(REQUESTS), str(2 * REQUESTS)]
    assert "provider calls: 0\n" in done.stdout
    assert f"{REQUESTS} values differ from their text's gold" in done.stderr
    assert "i00000" in done.stderr


def test_calls_that_fail_end_the_run_with_the_reason(var: Path) -> None:
    with Sandbox() as provider:
        provider.fail(faults.unauthorized(), times=None)
        done = demo(var, "--yes", **real_api(provider))
    assert done.returncode == 1
    assert 20 <= number(cells(done.stdout)["errors"][0]) < 40
    assert cells(done.stdout)["hit rate"][0] == "—"
    assert "authentication_failed" in done.stderr
    assert "butternut" not in done.stdout + done.stderr


@contextmanager
def running(var: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The demo in a process group of its own, as a terminal starts it."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "demo", *arguments],
        cwd=ROOT,
        env=environment(var),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_an_interrupt_ends_the_run_cleanly_and_says_what_was_done(var: Path) -> None:
    with running(var, "--requests", str(REQUESTS), "--latency-ms", "200") as process:
        assert process.stdout is not None
        told: Any = iter(process.stdout)
        assert any(f" of {REQUESTS}\n" in line for line in told)
        # Ctrl-C goes to the whole group, the sandbox included.
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(rf"Interrupted after [\d,]+ of {REQUESTS} requests", errors)
    assert "Traceback" not in errors
    table = cells(output)
    assert "errors" not in table
    done = number(table["requests"][0])
    assert 0 < done < REQUESTS
    # What was paid for is there for the next run.
    assert number(cells(demo(var).stdout)["hits: redis"][0]) > 0


@given(st.lists(st.integers(1, 10**11), min_size=1, max_size=200), st.integers(1, 4))
def test_quantiles_of_several_runs_are_within_five_percent(samples: list[int], runs: int) -> None:
    together = sorted(samples)
    exact = latency([measured(samples)])
    assert exact is not None
    assert exact.exact
    parts = [part for part in (samples[start::runs] for start in range(runs)) if part]
    found = latency(measured(part) for part in parts)
    assert found is not None
    assert exact.median_ns == together[(len(together) + 1) // 2 - 1]
    for seen, true in ((found.median_ns, exact.median_ns), (found.p99_ns, exact.p99_ns)):
        assert abs(seen - true) <= 0.05 * true


def test_no_samples_have_no_latency() -> None:
    assert latency([]) is None
