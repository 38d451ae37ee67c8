"""Who may see and do what: each role at each address and each action, with exactly the status that is expected.

The tables have to name every address and every action that there is, so that a new one is thought about.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

import llmcache
from llmcache.models import (
    CacheEntry,
    Correction,
    Invalidation,
    PlannedInvalidation,
    ProviderCall,
    SchemaVersion,
    TenantDay,
    UsageBucket,
    WarmingPlan,
    WarmingRun,
)
from llmcache.testing.sandbox import Sandbox
from project.demo.models import DemoRun
from tests import rows
from tests.web.ledger_rows import a_correction
from tests.web.test_home import keep_run
from tests.web.test_try import asked  # noqa: F401 - a fixture

# What is counted comes into the database between transactions.
pytestmark = pytest.mark.django_db(transaction=True)

VIEWING = (
    *("view_providercall", "view_cacheentry", "view_usagebucket", "view_tenantday", "view_schemaversion"),
    *("view_dashboard", "view_demorun", "view_invalidation", "view_correction"),
    "view_plannedinvalidation",
    *("view_warmingplan", "view_warmingrun"),
)
PERMISSIONS: dict[str, tuple[str, ...]] = {
    "staff": (),
    "viewer": VIEWING,
    "content viewer": (*VIEWING, "reveal_cacheentry"),
    "operator": (
        *(*VIEWING, "export_cacheentry", "add_invalidation", "undo_invalidation"),
        *("refresh_cacheentry", "retime_cacheentry", "add_correction", "withdraw_correction"),
        *("add_warmingplan", "change_warmingplan", "delete_warmingplan", "run_warmingplan", "control_warmingrun"),
    ),
}
ROLES = ("anonymous", "user", *PERMISSIONS, "superuser")

Statuses = tuple[int, int, int, int, int, int, int]
"""In the order of ``ROLES``; -1 is a redirection to the login."""
EVERYBODY: Statuses = (200,) * 7
VIEWERS: Statuses = (-1, -1, 403, 200, 200, 200, 200)
NOBODY: Statuses = (-1, -1, 403, 403, 403, 403, 403)
OPERATORS: Statuses = (-1, -1, 403, 403, 403, 200, 200)
DONE_BY_OPERATORS: Statuses = (-1, -1, 403, 403, 403, 302, 302)
WRONG_METHOD: Statuses = (-1, -1, 405, 405, 405, 405, 405)


@dataclass(frozen=True)
class Visit:
    """A request."""

    statuses: Statuses
    method: str = "get"
    row: type[Any] | None = None
    """The model whose first row is in the address."""
    data: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    """What else is in the address."""


def pages_of_rows(model: type[Any]) -> dict[str, list[Visit]]:
    """Return the addresses of a model whose rows are read and never changed."""
    name = f"admin:{model._meta.label_lower.replace('.', '_')}"
    return {
        f"{name}_changelist": [Visit(VIEWERS)],
        f"{name}_add": [Visit(NOBODY), Visit(NOBODY, "post")],
        f"{name}_change": [Visit(VIEWERS, row=model), Visit(NOBODY, "post", row=model)],
        f"{name}_delete": [Visit(NOBODY, row=model), Visit(NOBODY, "post", row=model, data={"post": "yes"})],
        f"{name}_history": [Visit(VIEWERS, row=model)],
    }


_ASK = {"text": "3 eggs"}
_EXPORT = {ACTION_CHECKBOX_NAME: "<pk>"}
TABLE: dict[str, list[Visit]] = {
    "home": [Visit(EVERYBODY), Visit((405,) * 7, "post")],
    "extract": [Visit((302,) * 7), Visit(EVERYBODY, "post", data=_ASK)],
    "aextract": [Visit((302,) * 7), Visit(EVERYBODY, "post", data=_ASK)],
    "icon": [Visit((302,) * 7)],
    "freshness": [Visit(EVERYBODY), Visit((405,) * 7, "post")],
    "freshness-board": [Visit(EVERYBODY), Visit((405,) * 7, "post")],
    "stream": [Visit(EVERYBODY), Visit((405,) * 7, "post")],
    "stream-events": [Visit(EVERYBODY), Visit((405,) * 7, "post")],
    **{
        f"freshness-{name}": [Visit((405,) * 7), Visit((404,) * 7, "post", data={what: "none"})]
        for name, what in (("ask", "line"), ("invalidate", "tag"), ("undo", "id"))
    },
    "llmcache:dashboard": [Visit((-1, 403, 403, 200, 200, 200, 200)), Visit((405,) * 7, "post")],
    "llmcache:dashboard-json": [Visit((-1, 403, 403, 200, 200, 200, 200)), Visit((405,) * 7, "post")],
    "admin:llmcache_dashboard": [Visit(VIEWERS), Visit(WRONG_METHOD, "post")],
    "admin:llmcache_dashboard_changelist": [Visit(VIEWERS), Visit(WRONG_METHOD, "post")],
    "admin:llmcache_dashboard_json": [Visit(VIEWERS), Visit(WRONG_METHOD, "post")],
    **pages_of_rows(DemoRun),
    **pages_of_rows(ProviderCall),
    **pages_of_rows(CacheEntry),
    **pages_of_rows(UsageBucket),
    **pages_of_rows(TenantDay),
    **pages_of_rows(SchemaVersion),
    **pages_of_rows(Invalidation),
    **pages_of_rows(PlannedInvalidation),
    "admin:llmcache_plannedinvalidation_undo": [
        Visit(WRONG_METHOD, row=PlannedInvalidation),
        Visit(DONE_BY_OPERATORS, "post", row=PlannedInvalidation),
    ],
    **pages_of_rows(Correction),
    "admin:llmcache_correction_reveal": [
        Visit(WRONG_METHOD, row=Correction),
        Visit((-1, -1, 403, 403, 200, 403, 200), "post", row=Correction),
    ],
    "admin:llmcache_correction_withdraw": [
        Visit(WRONG_METHOD, row=Correction),
        Visit(DONE_BY_OPERATORS, "post", row=Correction),
    ],
    # Who corrects sees the answer: operators here do not. Without a registered type they are sent back.
    "admin:llmcache_cacheentry_correct": [
        Visit(WRONG_METHOD, row=CacheEntry),
        Visit((-1, -1, 403, 403, 403, 403, 302), "post", row=CacheEntry),
    ],
    **{
        f"admin:llmcache_cacheentry_{what}": [
            Visit(WRONG_METHOD, row=CacheEntry),
            Visit(DONE_BY_OPERATORS, "post", row=CacheEntry),
        ]
        for what in ("pin", "quarantine", "restore")
    },
    "admin:llmcache_invalidation_add": [
        Visit(OPERATORS),
        Visit(OPERATORS, "post"),
        Visit(OPERATORS, "post", data={"kind": "inbox"}),
        Visit(DONE_BY_OPERATORS, "post", data={"kind": "inbox", "confirm": "1", "once": "a"}),
    ],
    "admin:llmcache_invalidation_undo": [
        Visit(WRONG_METHOD, row=Invalidation),
        Visit(DONE_BY_OPERATORS, "post", row=Invalidation),
    ],
    "admin:llmcache_cacheentry_why": [Visit(VIEWERS)],
    "admin:llmcache_cacheentry_reveal": [
        Visit(WRONG_METHOD, row=CacheEntry),
        Visit((-1, -1, 403, 403, 200, 403, 200), "post", row=CacheEntry),
    ],
    "admin:llmcache_cacheentry_act": [
        visit
        for action in ("invalidate", "refresh", "retime")
        for visit in (
            Visit(OPERATORS, arguments=(action,), data={"id": "<pk>"}),
            Visit(DONE_BY_OPERATORS, "post", arguments=(action,), data={**_EXPORT, "forever": "1"}),
        )
    ]
    + [Visit((-1, -1, 404, 404, 404, 404, 404), arguments=("delete",))],
    **pages_of_rows(WarmingRun),
    "admin:llmcache_warmingrun_control": [
        Visit(WRONG_METHOD, row=WarmingRun, arguments=("pause",)),
        Visit(DONE_BY_OPERATORS, "post", row=WarmingRun, arguments=("pause",)),
        Visit(NOBODY, "post", row=WarmingRun, arguments=("delete",)),
    ],
    **pages_of_rows(WarmingPlan),
    "admin:llmcache_warmingplan_add": [Visit(OPERATORS), Visit(OPERATORS, "post")],
    "admin:llmcache_warmingplan_change": [
        Visit(VIEWERS, row=WarmingPlan),
        Visit(OPERATORS, "post", row=WarmingPlan),
    ],
    **{
        f"admin:llmcache_warmingplan_{what}": [
            Visit(WRONG_METHOD, row=WarmingPlan),
            Visit(DONE_BY_OPERATORS, "post", row=WarmingPlan),
        ]
        for what in ("run", "dry_run")
    },
    "admin:llmcache_warmingplan_delete": [
        Visit(OPERATORS, row=WarmingPlan),
        Visit(DONE_BY_OPERATORS, "post", row=WarmingPlan, data={"post": "yes"}),
        # It is gone, and there is another.
        Visit(OPERATORS, row=WarmingPlan),
    ],
    "admin:llmcache_cacheentry_export": [
        Visit(WRONG_METHOD),
        Visit((-1, -1, 403, 403, 403, 200, 200), "post", data=_EXPORT),
        Visit((-1, -1, 403, 403, 403, 403, 200), "post", data={**_EXPORT, "with_contents": "1"}),
    ],
}
# What a list's action shows who may do it: a page that asks. Others get the list again.
ACTIONS: dict[tuple[str, str], str] = {
    ("llmcache.cacheentry", "export"): "Export cache entries",
    ("llmcache.cacheentry", "invalidate_selected"): "Invalidate entries",
    ("llmcache.cacheentry", "refresh_selected"): "Refresh entries",
    ("llmcache.cacheentry", "retime_selected"): "Set the TTL of entries",
}
MAY_ACT = ("operator", "superuser")


def log_in(role: str, *more: str, staff: bool | None = None) -> Client:
    """Return a client of somebody in a role, with more permissions."""
    client = Client()
    if role == "superuser":
        client.force_login(User.objects.create_superuser(role))
    elif role != "anonymous":
        user = User.objects.create_user(role, is_staff=role in PERMISSIONS if staff is None else staff)
        wanted = (*PERMISSIONS.get(role, ()), *more)
        found = Permission.objects.filter(content_type__app_label__in=("llmcache", "demo"), codename__in=wanted)
        assert len(found) == len(wanted)
        user.user_permissions.set(found)
        client.force_login(user)
    return client


@pytest.fixture
def filled(asked: Sandbox) -> None:  # noqa: F811
    """One row of everything."""
    rows.one_call(asked)
    llmcache.invalidate(kind="another")
    llmcache.invalidate(kind="another", at=timezone.now() + timedelta(days=1))
    a_correction()
    keep_run()
    for name in ("a", "b"):
        plan = WarmingPlan.objects.create(name=name, source="texts", texts="Ada", kind="another")
    told = {"namespace": "shop", "state": "running", "kind": "another", "made_at": timezone.now()}
    WarmingRun.objects.create(uid="a" * 32, plan=plan, **told)


def answer(client: Client, name: str, visit: Visit) -> HttpResponse:
    row = [] if visit.row is None else [visit.row._default_manager.earliest("pk").pk]
    entry = str(CacheEntry.objects.earliest("pk").pk)
    data = {name: entry if value == "<pk>" else value for name, value in visit.data.items()}
    send: Any = getattr(client, visit.method)
    return send(reverse(name, args=[*row, *visit.arguments]), data)


def status(response: HttpResponse) -> int:
    """Return the status, -1 for a redirection to a login that is there."""
    if response.status_code == 302 and "/login/?" in response["Location"]:
        assert Client().get(response["Location"]).status_code == 200
        return -1
    return response.status_code


@pytest.mark.parametrize("role", ROLES)
def test_each_role_at_each_address(role: str, filled: None) -> None:
    client, place = log_in(role), ROLES.index(role)
    wrong = {
        (name, visit.method, *visit.arguments, *visit.data): (came, visit.statuses[place])
        for name, visits in TABLE.items()
        for visit in visits
        if (came := status(answer(client, name, visit))) != visit.statuses[place]
    }
    assert wrong == {}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_and_each_action(role: str, filled: None) -> None:
    client = log_in(role)
    entry = str(CacheEntry.objects.get().pk)
    for (label, action), title in ACTIONS.items():
        address = reverse(f"admin:{label.replace('.', '_')}_changelist")
        response = client.post(address, {"action": action, ACTION_CHECKBOX_NAME: entry})
        assert status(response) == VIEWERS[ROLES.index(role)]
        assert (title in response.content.decode()) == (role in MAY_ACT)
    # To be asked is not to have done it.
    assert LogEntry.objects.count() == 0


def test_who_may_see_the_dashboard_need_not_be_staff(filled: None) -> None:
    client = log_in("user", "view_dashboard")
    assert status(client.get("/llm/")) == status(client.get("/llm/dashboard.json")) == 200
    assert status(client.get("/admin/llmcache/dashboard/")) == -1
    # What leads into the admin is for those who may go there.
    assert b"/admin/" not in client.get("/llm/").content


def test_who_may_only_reveal_or_export_sees_no_row(filled: None) -> None:
    client = log_in("staff", "reveal_cacheentry", "export_cacheentry")
    for name in ("admin:llmcache_cacheentry_reveal", "admin:llmcache_cacheentry_export"):
        posts = [visit for visit in TABLE[name] if visit.method == "post"]
        assert [status(answer(client, name, visit)) for visit in posts] == [403] * len(posts)


@pytest.mark.parametrize("role", ["viewer", "content viewer", "superuser"])
def test_an_answer_is_only_on_the_page_that_was_asked_for_it(role: str, filled: None) -> None:
    client, entry = log_in(role), CacheEntry.objects.get()
    page = client.get(reverse("admin:llmcache_cacheentry_change", args=[entry.pk])).content.decode()
    assert "stalk" not in page
    assert ("/reveal/" in page) == (role != "viewer")
    assert LogEntry.objects.count() == 0
    revealed = client.post(reverse("admin:llmcache_cacheentry_reveal", args=[entry.pk]))
    assert ("stalk" in revealed.content.decode()) == (role != "viewer")
    assert LogEntry.objects.count() == (role != "viewer")


def names(patterns: list[URLPattern | URLResolver], space: str = "") -> Iterator[str]:
    """Yield the names of all addresses, with their name spaces; of those without a name, their patterns."""
    for each in patterns:
        if isinstance(each, URLResolver):
            yield from names(each.url_patterns, f"{space}{each.namespace}:" if each.namespace else space)
        else:
            yield f"{space}{each.name or each.pattern}"


def of_django() -> set[str]:
    """Return what every admin site has of its own, and the pages of users and groups."""
    bare = admin.AdminSite()
    bare.register(User, UserAdmin)
    bare.register(Group, GroupAdmin)
    return {f"admin:{name}" for name in names(bare.get_urls())}


def test_the_table_has_every_address() -> None:
    assert set(names(get_resolver().url_patterns)) - of_django() == set(TABLE)


def test_the_table_has_every_action() -> None:
    request = RequestFactory().get("/")
    request.user = User.objects.create_superuser("superuser")
    found = {
        (model._meta.label_lower, action)
        for model, model_admin in admin.site._registry.items()
        for action in model_admin.get_actions(request)
        if model._meta.app_label != "auth"
    }
    assert found == set(ACTIONS)
