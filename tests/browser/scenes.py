"""What lies in the database when a server starts, by name; every one has the same users."""

import json
import struct
import zlib
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

from django.contrib.auth.models import Permission, User
from django.urls import reverse
from django.utils import timezone

import llmcache
from llmcache import corrections
from llmcache.models import (
    CacheEntry,
    Correction,
    Invalidation,
    ProviderCall,
    SchemaVersion,
    WarmingPlan,
    WarmingRun,
)
from llmcache.testing.sandbox import Sandbox
from llmcache.warming import plans, runs
from llmcache.warming.work import work
from project.demo import board, data
from tests import rows
from tests.web.test_home import keep_run

PASSWORD = "a password"
KNOWN = "2 cups finely chopped onions"
"""A line that the sandbox has read."""
PARTS = "invoice-photo"
"""The kind of an entry whose request has several parts."""
GOLD = {
    "name": "onions",
    "quantity": 2.0,
    "quantity_max": None,
    "other_quantities": [],
    "unit": "cup",
    "preparation": "finely chopped",
    "comment": None,
}


def _users() -> None:
    User.objects.create_superuser("admin", password=PASSWORD)
    viewer = User.objects.create_user("viewer", password=PASSWORD, is_staff=True)
    viewer.user_permissions.set(
        Permission.objects.filter(content_type__app_label="llmcache", codename__startswith="view_")
    )


def _scene(fill: Callable[[Sandbox], object]) -> Callable[[Sandbox], None]:
    def make(sandbox: Sandbox) -> None:
        _users()
        fill(sandbox)
        sandbox.answers[KNOWN] = GOLD

    return make


def _invalidate() -> None:
    """Do what people do in such a month: one thing with a good reason, and one by mistake."""
    llmcache.invalidate(key=CacheEntry.objects.order_by("-written_at")[0].key, reason="The total is wrong.", user="ann")
    by_mistake = llmcache.invalidate(kind="inbox", reason="For a test, sorry", user="bob")
    llmcache.undo(by_mistake, user="ann")
    llmcache.invalidate(
        tenant="globex",
        response_model="Ticket",
        reason="They want priorities as their own support has them",
        user="ann",
    )


def _correct() -> None:
    """Know better than a model what stands in an invoice, and keep another answer for good."""
    wrong, good = CacheEntry.objects.filter(kind="Invoice").order_by("-hits", "pk")[:2]
    invoice = {"number": "R-2000", "customer": "Müller & Söhne GmbH", "total": 21.9, "currency": "EUR"}
    corrections.correct(wrong.key, json.dumps(invoice), user="ann", note="As the customer is registered.")
    corrections.pin(good.key, user="bob", note="Shown at the fair.")


def _warm(sandbox: Sandbox) -> None:
    """Keep invoices warm by night: one run went through and was used, one ended at its budget; and more is planned."""
    texts = [f"Invoice R-{number} of this morning" for number in range(3_000, 3_012)]
    for number, text in enumerate(texts):
        invoice = {"number": text.split()[1], "customer": "Müller GmbH", "total": 12.5 + number, "currency": "EUR"}
        sandbox.answers[text] = invoice
    plan = WarmingPlan.objects.create(
        name="Invoices of the morning",
        source="texts",
        texts="\n".join(texts),
        kind="Invoice",
        crontab="30 3 * * mon-fri",
        max_usd=Decimal("2.50"),
    )
    WarmingPlan.objects.create(name="The costliest misses", source="misses", kind="inbox", days=14, enabled=False)
    warmed = plans.run_plan(plan, made_by="ann")
    work(warmed.uid)
    for text in texts[:9]:
        llmcache.extract(text, rows.Invoice)
    more = [f"{text}, second page" for text in texts]
    stopped = runs.prepare(more, kind="Invoice", max_calls=5, made_by="bob")
    work(stopped.uid)
    llmcache.flush()
    llmcache.invalidate(
        kind="Invoice", at=timezone.now() + timedelta(days=2), reason="The new terms hold from then on", user="ann"
    )


def _reword(sandbox: Sandbox) -> None:
    """Ask in other words from today on."""
    for number in range(2):
        text = f"Line {number} of this morning's delivery note"
        sandbox.answers[text] = {"number": f"D-{number}", "customer": "Müller GmbH", "total": 3.5, "currency": "EUR"}
        llmcache.extract(text, rows.Invoice, system="Amounts are in euros.")
    llmcache.flush()


def _image() -> bytes:
    """Return a PNG of one grey point."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\x80")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _ask_with_parts(sandbox: Sandbox) -> None:
    """Ask about a photo and the order that belongs to it, twice."""
    text = "Does the invoice in the photo fit the order?"
    sandbox.answers[text] = {"number": "R-4000", "customer": "Müller GmbH", "total": 1_180.0, "currency": "EUR"}
    order = llmcache.File(b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\n%%EOF\n", name="order-4000.pdf")
    for _ in range(2):
        content = [text, llmcache.Image(_image(), detail="high"), order]
        llmcache.extract(content, rows.Invoice, kind=PARTS, tenant="acme", tags=["accounting", "photo"])
    llmcache.flush()


def _month(sandbox: Sandbox) -> None:
    rows.month(sandbox)
    _invalidate()
    _correct()
    _warm(sandbox)
    _reword(sandbox)
    _ask_with_parts(sandbox)
    keep_run()


def _board(sandbox: Sandbox) -> None:
    """Know what people have read in the lines of the demo's board; nobody has asked for them."""
    texts = {line.text for line in board.LINES}
    for request in data.read_log(1_000):
        if request.text in texts:
            sandbox.answers[request.text] = request.gold.model_dump()


SCENES: dict[str, Callable[[Sandbox], None]] = {
    "empty": _scene(lambda sandbox: None),
    "one": _scene(rows.one_call),
    "month": _scene(_month),
    "hostile": _scene(rows.hostile),
    "board": _scene(_board),
}


def pages() -> dict[str, str]:
    """Return the paths of pages that show one row, by name."""
    rows = {
        "entry": CacheEntry.objects.order_by("-hits", "-pk").first(),
        "entry-parts": CacheEntry.objects.filter(kind=PARTS).first(),
        "call": ProviderCall.objects.order_by("-pk").first(),
        "schema": SchemaVersion.objects.order_by("-last_seen_at").first(),
        "invalidation": Invalidation.objects.filter(corrects=False).order_by("-pk").first(),
        "correction": Correction.objects.order_by("pk").first(),
        "plan": WarmingPlan.objects.order_by("pk").first(),
        "run": WarmingRun.objects.order_by("pk").first(),
    }
    found: dict[str, str] = {}
    for name, row in rows.items():
        if row is not None and f"llmcache_{row._meta.model_name}_change" in _names():
            found[name] = reverse(f"admin:llmcache_{row._meta.model_name}_change", args=[row.pk])
    invoice = CacheEntry.objects.filter(kind="Invoice", source="provider").order_by("-hits", "pk").first()
    if invoice is not None:
        found["invoice"] = reverse("admin:llmcache_cacheentry_change", args=[invoice.pk])
    missed = _asked_in_two_forms()
    if missed is not None and "llmcache_cacheentry_why" in _names():
        found["why"] = f"{reverse('admin:llmcache_cacheentry_why')}?key={missed.key}"
    return found


def _asked_in_two_forms() -> CacheEntry | None:
    """Return the newest entry whose text was asked with another schema too."""
    entries = CacheEntry.objects.order_by("-written_at", "-pk")
    for entry in entries.filter(kind="inbox"):
        if entries.filter(content_hash=entry.content_hash).exclude(schema=entry.schema).exists():
            return entry
    return entries.filter(key__regex="^[0-9a-f]{64}$").first()


def _names() -> set[str]:
    from django.urls import get_resolver

    return {k for k in get_resolver().namespace_dict["admin"][1].reverse_dict if isinstance(k, str)}
