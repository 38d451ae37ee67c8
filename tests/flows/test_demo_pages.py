"""What the demo leaves behind, in all places that tell of it: its table, ``stats()``, the dashboard, and the rows."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.flows.newcomer import manage
from tests.flows.test_demo import answered_without_a_call, cells, demo, number
from tests.flows.test_serve import Browser, serving

PICO = 10**12
_TELL = """
import json, datetime
import llmcache
from django.utils import timezone
from llmcache.money.overview import overview
from llmcache.money.periods import Period
told = {"stats": llmcache.stats()}
today = timezone.now().date()
days = {"from": str(today - datetime.timedelta(days=31)), "to": str(today)}
period, messages = Period.parse(days)
assert not messages, messages
figures = {name: str(getattr(told["stats"], name)) for name in told["stats"].__dataclass_fields__}
print("TOLD" + json.dumps({"stats": figures, "overview": overview(period).as_dict()}))
"""


def told(var: Path) -> Any:
    """What a process of the project's says that has just begun."""
    done = manage(var, "shell", "-c", _TELL)
    assert done.returncode == 0, done.stderr
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("TOLD")).removeprefix("TOLD"))


def row(var: Path, query: str) -> tuple[Any, ...]:
    with contextlib.closing(sqlite3.connect(var / "db.sqlite3")) as database:
        return database.execute(query).fetchone()


def sign_in(browser: Browser, said: list[str]) -> None:
    """Go where the server says that the dashboard is, and log in as it says."""
    shown = {line.split()[0]: line.split()[-1] for line in said if line.startswith(("Dashboard", "User", "Password"))}
    assert shown["Dashboard"] == f"{browser.base_url}/llm/"
    login = browser.open("/llm/")
    form = next(form for form in login.forms if "password" in form)
    browser.send("/admin/login/", {**form, "username": shown["User"], "password": shown["Password"]})


def test_the_table_stats_the_dashboard_and_the_rows_show_the_same_numbers(var: Path) -> None:
    first, last = demo(var), demo(var)
    assert first.returncode == last.returncode == 0, first.stderr + last.stderr
    table = {label: shown for label, (_, shown) in cells(last.stdout).items()}

    # By hand, from the rows alone.
    runs = row(var, "SELECT sum(spent_pico_usd), sum(saved_pico_usd) FROM demo_demorun")
    calls = row(var, "SELECT count(*), sum(cost_pico_usd) FROM llmcache_providercall")
    hits, saved, by_hand = row(
        var, "SELECT sum(hits), sum(saved_pico_usd), sum(hits * cost_pico_usd) FROM llmcache_cacheentry"
    )
    assert by_hand == saved == runs[1]
    assert calls[1] == runs[0]

    everything = told(var)
    stats, totals = everything["stats"], everything["overview"]["totals"]
    for money, pico in (("spent", calls[1]), ("saved", by_hand)):
        shown = Decimal(stats[f"{money}_usd"])
        assert shown == Decimal(pico) / PICO
        assert table[money] == (f"${shown:.4f}" if shown < 1 else f"${shown:,.2f}")
    assert Decimal(totals["spent_usd"]) == Decimal(stats["spent_usd"])
    assert Decimal(totals["saved_gross_usd"]) == Decimal(totals["saved_net_usd"]) == Decimal(stats["saved_usd"])
    answered = answered_without_a_call({label: [shown] for label, shown in table.items()})
    assert totals["answered"] == answered == hits == int(stats["hits"]) + int(stats["collapsed"])
    assert totals["misses"] == int(stats["misses"]) == number(table["misses"])
    assert totals["calls"] == int(stats["calls"]) == number(table["provider calls"]) == calls[0]
    assert table["hit rate"] == f"{totals['hit_rate'] * 100:.2f} %" == f"{float(stats['hit_rate']) * 100:.2f} %"
    assert totals["seconds_saved"] == float(stats["seconds_saved"])
    assert everything["overview"]["simulated"] is True

    with serving(var, "--noreload") as (_, said, browser):
        browser.read("/llm/dashboard.json")
        assert "/admin/login/" in browser.final
        sign_in(browser, said)
        today = datetime.now(UTC).date()
        address = f"/llm/dashboard.json?from={today - timedelta(days=31)}&to={today}"
        served = json.loads(browser.read(address))
        assert served["totals"] == totals
        assert served["days"][-1]["day"] == today.isoformat()
        assert sum(day["totals"]["answered"] for day in served["days"]) == answered
        page = browser.open(address.replace("dashboard.json", ""))
        assert f"${Decimal(stats['saved_usd']):.2f}" in page.text
        assert "simulated" in page.text


@pytest.mark.parametrize("arguments", [(), ("--noreload",)], ids=["with reloader", "without"])
def test_the_admin_that_is_printed_may_see_everything(var: Path, arguments: tuple[str, ...]) -> None:
    with serving(var, *arguments) as (process, said, browser):
        lines = [line.split()[0] for line in said if line.startswith(("Dashboard", "User", "Password", "Starting"))]
        assert lines == ["Dashboard", "User", "Password", "Starting"]
        assert browser.status("/llm/") == 200
        assert browser.final.endswith("/admin/login/?next=/llm/")
        sign_in(browser, said)
        assert browser.final == f"{browser.base_url}/llm/"
        for address in ("/llm/", "/admin/", "/admin/llmcache/cacheentry/", "/admin/demo/demorun/"):
            assert browser.status(address) == 200
            assert browser.final == browser.base_url + address
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


def password_said(var: Path) -> str:
    with serving(var, "--noreload") as (_, said, _):
        return next(line for line in said if line.startswith("Password")).removeprefix("Password").strip()


def test_the_password_is_this_clones_own_and_stays(var: Path) -> None:
    kept = var / "admin_password"
    first = password_said(var)
    assert re.fullmatch(r"[a-z2-9]{16}", first)
    assert kept.read_text() == first
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert password_said(var) == first
    # Somebody has set another one: that one holds.
    script = "u = User.objects.get(username='demo'); u.set_password('mine'); u.save()"
    done = manage(var, "shell", "-c", f"from django.contrib.auth.models import User; {script}")
    assert done.returncode == 0, done.stderr
    assert password_said(var) == f"the one that was set; delete {kept} for a new one"
    kept.unlink()
    assert password_said(var) not in (first, "mine")
    script = f"print(User.objects.get().check_password({kept.read_text()!r}))"
    assert "True" in manage(var, "shell", "-c", f"from django.contrib.auth.models import User; {script}").stdout


def test_a_server_without_tables_says_what_to_do(tmp_path: Path) -> None:
    done = manage(tmp_path, "serve", "0")
    assert done.returncode == 1
    assert "manage.py migrate" in done.stderr
    assert not (tmp_path / "redis").exists()
