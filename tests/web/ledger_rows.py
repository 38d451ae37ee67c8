"""Rows for the admin's tests: made by real calls, and as many copies of them as a test wants."""

import copy
import hashlib
import os
from typing import Any
from uuid import UUID

from django.db import models
from django.utils import timezone
from pydantic import BaseModel

import llmcache
from llmcache.engine import process
from llmcache.models import (
    CacheEntry,
    Correction,
    Invalidation,
    ProviderCall,
    SchemaVersion,
    TenantDay,
    UsageBucket,
)
from llmcache.testing.sandbox import Sandbox

MODELS: tuple[type[models.Model], ...] = (
    *(CacheEntry, ProviderCall, UsageBucket, TenantDay, SchemaVersion, Invalidation, Correction),
)


class Ticket(BaseModel):
    """A mail to the support."""

    subject: str
    customer: str
    priority: int = 0


class Order(BaseModel):
    """An order."""

    item: str


ANSWER = {"subject": "Größe falsch", "customer": "Zoë", "priority": 3}


def ask(sandbox: Sandbox, text: str = "Zoë writes", times: int = 1, **options: Any) -> CacheEntry:
    """Make a call, so many times, and return its entry's row."""
    sandbox.answers.setdefault(text, ANSWER)
    response_type = options.pop("response_model", Ticket)
    for _ in range(times):
        info = llmcache.extract_with_info(text, response_type, **options)
    assert llmcache.flush()
    return CacheEntry.objects.get(key=info.key)


def a_correction(key: str = "ab" * 32, **fields: Any) -> Correction:
    """Make a correction of an answer that nobody asks for."""
    namespace, at = process.current().namespace, timezone.now()
    uid = hashlib.sha256(key.encode()).hexdigest()[:32]
    row = Invalidation.objects.create(uid=uid, namespace=namespace, key=key, made_at=at, corrects=True)
    told = {"kind": "another", "response_type": "Another", "schema": "", "model": "openai/gpt-5", "answer": "{}"}
    return Correction.objects.create(invalidation=row, namespace=namespace, key=key, made_at=at, **{**told, **fields})


def copies(row: models.Model, count: int, using: str = "default") -> None:
    """Add rows that differ from one in what has to be unique."""
    made = []
    for number in range(count):
        each = copy.copy(row)
        each.pk = None
        each._state = models.base.ModelState()
        digits = hashlib.sha256(f"{type(row).__name__} {number}".encode()).hexdigest()
        for name, value in (
            ("key", digits),
            ("call_id", UUID(digits[:32])),
            ("fingerprint", digits),
            ("uid", digits[:32]),
        ):
            if hasattr(each, name):
                setattr(each, name, value)
        for name in ("kind", "tenant"):
            if isinstance(each, UsageBucket | TenantDay) and hasattr(each, name):
                setattr(each, name, f"{name} {number}")
        if isinstance(each, Correction):
            line = Invalidation.objects.get(correction=row.pk)
            line.pk, line.uid = None, os.urandom(16).hex()
            line.save(force_insert=True)
            each.invalidation = line
        made.append(each)
    type(row)._default_manager.using(using).bulk_create(made)
