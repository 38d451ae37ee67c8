"""Plans and runs of warming in the admin: made by the form, run, watched, paused, gone on with, cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

import llmcache
from llmcache.models import WarmingItem, WarmingPlan, WarmingRun
from llmcache.testing.sandbox import Sandbox, faults
from llmcache.warming import runs
from llmcache.warming.work import work
from tests.conftest import llmcache_settings
from tests.flows.test_costs import SANDBOX_PRICES
from tests.web.ledger_rows import Ticket
from tests.web.page import Page
from tests.web.test_admin_invalidations import read, somebody

pytestmark = pytest.mark.django_db
PLANS = "/admin/llmcache/warmingplan/"
RUNS = "/admin/llmcache/warmingrun/"
TEXTS = ["The printer is on fire", "Where is my parcel?", "I cannot sign in"]
FORM = {
    "name": "nightly", "enabled": "on", "source": "texts", "texts": "\n".join(TEXTS), "days": "7", "kind": "mail",
    "tags": "mail, night", "max_usd": "2.50", "concurrency": "2", "crontab": "30  3 * * mon-fri",
}  # fmt: skip


def broken() -> Iterator[str]:
    raise RuntimeError("secret")


@pytest.fixture(autouse=True)
def provider(sandbox: Sandbox) -> Iterator[Sandbox]:
    kinds = {"mail": {"type": Ticket}, "untyped": {}}
    with llmcache_settings(KINDS=kinds, WARMING={"broken": broken}, PRICES=SANDBOX_PRICES):
        yield sandbox


def page_of(row: WarmingPlan | WarmingRun) -> str:
    return f"{PLANS if isinstance(row, WarmingPlan) else RUNS}{row.pk}/change/"


def buttons(page: Page) -> set[str]:
    """Return where the page's forms lead to, by their last words."""
    return {form["action"].rstrip("/").rpartition("/")[2] for form in page.forms if "/warming" in form["action"]}


def told(client: Client, address: str) -> str:
    """Post, and return what the page says that comes then."""
    response = client.post(address, follow=True)
    assert response.status_code == 200
    return " ".join(str(message) for message in response.context["messages"])


def test_a_plan_is_made_looked_at_and_run(sandbox: Sandbox, admin_client: Client) -> None:
    assert admin_client.post(f"{PLANS}add/", FORM).status_code == 302
    plan = WarmingPlan.objects.get()
    assert (plan.tags, plan.crontab, plan.texts.splitlines()) == (["mail", "night"], "30 3 * * mon-fri", TEXTS)
    name, source, kind, budget, due, _enabled = read(admin_client, PLANS).rows[-1][-6:]
    assert (name, source, kind, budget) == ("nightly", "the texts below", "mail", "$2.50")
    assert "03:30" in due
    page = read(admin_client, page_of(plan))
    assert buttons(page) == {"run", "dry_run"}
    assert {"max_usd": "2.50"}.items() <= {each.get("name"): each.get("value") for each in page.all("input")}.items()
    said = told(admin_client, f"{PLANS}{plan.pk}/dry_run/")
    assert "A run would ask for 3 of 3 items now" in said
    assert "$0.00" in said
    assert (sandbox.received, WarmingRun.objects.count()) == (0, 0)
    done = admin_client.post(f"{PLANS}{plan.pk}/run/")
    run = WarmingRun.objects.get()
    assert done["Location"] == page_of(run)
    assert (run.made_by, run.plan, run.max_pico_usd) == ("admin", plan, 25 * 10**11)
    assert "is going on" in told(admin_client, f"{PLANS}{plan.pk}/run/")
    # What a run writes into the plan is not overwritten by who has had the form open.
    WarmingPlan.objects.update(run_uid=run.uid)
    assert admin_client.post(page_of(plan), {**FORM, "max_calls": "2"}).status_code == 302
    plan.refresh_from_db()
    assert (plan.run_uid, plan.max_calls) == (run.uid, 2)
    page = read(admin_client, page_of(plan))
    assert page_of(run) in {link["href"] for link in page.all("a")}
    assert [str(entry) for entry in LogEntry.objects.filter(change_message="Run.")] != []
    assert admin_client.post(f"{PLANS}{plan.pk}/delete/", {"post": "yes"}).status_code == 302
    run.refresh_from_db()
    assert run.plan is None


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("crontab", "often", "five fields"),
        ("crontab", "0 25 * * *", "cannot be read"),
        ("source", "os.system", "Select a valid choice"),
        ("kind", "untyped", "Select a valid choice"),
        ("model", "gpt-5", "Write it as provider/model."),
        ("model", "nobody/gpt-5", "no such provider"),
        ("texts", " ", "Give at least one text"),
        ("tags", "x" * 1_001, "1 to 1000 characters"),
        ("concurrency", "257", "less than or equal to 256"),
    ],
)
def test_a_plan_that_cannot_be(field: str, value: str, says: str, admin_client: Client) -> None:
    response = admin_client.post(f"{PLANS}add/", {**FORM, field: value})
    assert response.status_code == 200
    assert says in Page(response.content.decode()).text
    assert not WarmingPlan.objects.exists()


def test_a_run_is_watched_paused_gone_on_with_and_cancelled(sandbox: Sandbox, admin_client: Client) -> None:
    run = runs.prepare([*TEXTS, TEXTS[0]], kind="mail", max_calls=5, made_by="ann")
    page = read(admin_client, page_of(run))
    assert buttons(page) == {"pause", "cancel"}
    assert {"http-equiv": "refresh", "content": "3"} in page.all("meta")
    assert page.facts["Done"] == "0 of 3 items 0 %"
    assert "Paused" in told(admin_client, f"{RUNS}{run.pk}/control/pause/")
    page = read(admin_client, page_of(run))
    assert buttons(page) == {"resume", "cancel"}
    assert not any(meta.get("http-equiv") for meta in page.all("meta"))
    assert "another state" in told(admin_client, f"{RUNS}{run.pk}/control/pause/")
    assert run.uid in told(admin_client, f"{RUNS}{run.pk}/control/resume/")
    sandbox.fail(faults.refusal(), text=TEXTS[1])
    assert work(run.uid).state == "done"
    llmcache.extract(TEXTS[0], Ticket, kind="mail")
    llmcache.flush()
    page = read(admin_client, page_of(run))
    assert page.facts["Failed"] == "1 refused 1"
    assert page.facts["Worth"].startswith("2 warmed, 1 hit since, saved ")
    # Else a line may end with the minus sign of a loss.
    assert {"class": "llmcache-whole"} in page.all("span")
    assert (page.facts["Done"], page.facts["Duplicates"]) == ("3 of 3 items 100 %", "1 left out")
    assert buttons(page) == set()
    other = runs.prepare(["Another"], kind="mail")
    assert "deleted" in told(admin_client, f"{RUNS}{other.pk}/control/cancel/")
    assert not WarmingItem.objects.exclude(text="").exists()
    shown = {row[-4]: row for row in read(admin_client, RUNS).rows if row[-1].startswith("$")}
    assert set(shown) == {"done", "cancelled"}
    assert shown["done"][-2] == "3 of 5"
    assert list(admin_client.get(RUNS, {"state": "done"}).context["cl"].result_list) == [run]
    assert [str(entry.change_message) for entry in LogEntry.objects.order_by("pk")] == ["Pause", "Go on", "Cancel"]


def test_a_run_of_another_project_is_only_shown(admin_client: Client) -> None:
    run = runs.prepare(TEXTS, kind="mail")
    WarmingRun.objects.update(namespace="theirs")
    page = read(admin_client, page_of(run))
    assert buttons(page) == set()
    assert "nothing can be done with it here" in page.text
    assert "another name space" in told(admin_client, f"{RUNS}{run.pk}/control/cancel/")


def test_a_source_that_fails_is_told_without_its_words(sandbox: Sandbox, admin_client: Client) -> None:
    plan = WarmingPlan.objects.create(name="b", source="broken", kind="mail")
    for action in ("run", "dry_run"):
        said = told(admin_client, f"{PLANS}{plan.pk}/{action}/")
        assert said == "The source has failed: RuntimeError. Nothing was asked."
    WarmingPlan.objects.update(source="gone")
    assert "There is no source 'gone'" in told(admin_client, f"{PLANS}{plan.pk}/run/")
    assert "gone (not in the settings)" in read(admin_client, page_of(plan)).text
    assert not WarmingRun.objects.exists()


def test_who_may_do_what() -> None:
    plan = WarmingPlan.objects.create(name="a", source="texts", texts="Ada", kind="mail")
    run = runs.prepare(TEXTS, kind="mail")
    addresses: dict[str, Any] = {
        "run": f"{PLANS}{plan.pk}/run/",
        "dry_run": f"{PLANS}{plan.pk}/dry_run/",
        "pause": f"{RUNS}{run.pk}/control/pause/",
    }
    nobody = somebody()
    assert {nobody.get(address).status_code for address in (PLANS, RUNS, page_of(plan), page_of(run))} == {403}
    assert {nobody.post(address).status_code for address in addresses.values()} == {403}
    viewer = somebody("view_warmingplan", "view_warmingrun")
    assert {viewer.get(address).status_code for address in (PLANS, RUNS, page_of(plan), page_of(run))} == {200}
    assert {viewer.post(address).status_code for address in addresses.values()} == {403}
    assert (buttons(read(viewer, page_of(plan))), buttons(read(viewer, page_of(run)))) == (set(), set())
    assert viewer.post(page_of(plan), FORM).status_code == 403
    runner = somebody("view_warmingplan", "run_warmingplan", "view_warmingrun", "control_warmingrun")
    assert {runner.post(address).status_code for address in addresses.values()} == {302}
    assert runner.get(addresses["run"]).status_code == 405
    assert runner.post(f"{RUNS}{run.pk}/control/delete/").status_code == 403
