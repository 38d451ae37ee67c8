"""``explain``: why a call is answered from the cache or is not, told in the order in which a call would find out."""

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from pydantic import BaseModel, ConfigDict, create_model, field_validator

import llmcache
from llmcache import Explanation, corrections
from llmcache.engine import process
from llmcache.explaining.explanations import COMPONENTS
from llmcache.explaining.nearest import MOST_LOOKED_AT
from llmcache.invalidation_rows import note_that_one_was_made
from llmcache.keys import storage_key
from llmcache.models import CacheEntry, ProviderCall, UsageBucket
from llmcache.testing.sandbox import Sandbox, faults
from tests.conftest import JournalReader, MovedClock, llmcache_settings
from tests.contract.aliases import in_caches
from tests.ledgers import known
from tests.web.ledger_rows import copies

pytestmark = pytest.mark.django_db

TEXT = "Zoë Quackenbush cannot sign in"
SYSTEM = "You are Marvin, and weary"
DAY = 86_400.0


class Ticket(BaseModel):
    """A mail to the support."""

    subject: str


class Person(BaseModel):
    """Somebody."""

    subject: str


@pytest.fixture
def provider(sandbox: Sandbox) -> Sandbox:
    for text in (TEXT, "another", "a third"):
        sandbox.answers[text] = {"subject": "sign-in", "priority": "low"}
    return sandbox


def ask(text: str = TEXT, response_model: Any = Ticket, **options: Any) -> str:
    """Make a call and return its key."""
    return llmcache.extract_with_info(text, response_model, **options).key


def told(text: str = TEXT, response_model: Any = Ticket, **options: Any) -> Explanation:
    return llmcache.explain(text, response_model, **options)


def verdict(text: str = TEXT, response_model: Any = Ticket, **options: Any) -> str:
    return told(text, response_model, **options).verdict


def differences(found: Explanation) -> list[tuple[str, str, str]]:
    return [(each.component, each.how, each.name) for each in found.differences]


def first_line(found: Explanation) -> str:
    return str(found).splitlines()[0]


def forget_tiers(key: str) -> None:
    """Take an entry out of every tier, as an eviction does."""
    now = process.current()
    assert now.memory is not None
    now.memory.clear()
    for tier in now.tiers.below:
        tier.delete(storage_key(now.namespace, bytes.fromhex(key), now.seals[0].id))


@contextmanager
def no_database() -> Iterator[None]:
    """Let the ledger lie in a database that cannot be reached."""
    nowhere = {**connections.databases["default"], "ENGINE": "django.db.backends.postgresql", "NAME": "gone"}
    nowhere |= {"HOST": "127.0.0.1", "PORT": "1", "USER": "nobody", "OPTIONS": {}, "TEST": {}}
    with known(nowhere), llmcache_settings(DATABASE="reports"):
        yield


def secret(seed: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(seed.encode()).digest()).decode()


# -- what a call comes to


def test_it_was_never_asked(provider: Sandbox) -> None:
    found = told()
    assert (found.verdict, found.nearest, found.entry, found.differences) == ("never_asked", None, None, ())
    assert first_line(found) == 'Miss: there is no entry of the kind "Ticket": this was never asked.'
    assert [(place.tier, place.found) for place in found.places] == [("memory", "absent"), ("disk", "absent")]
    assert provider.calls == 0


def test_it_would_be_a_hit(provider: Sandbox, clock: MovedClock) -> None:
    key = ask()
    clock.move(3 * 3_600)
    found = told()
    assert (found.verdict, found.tier, found.key) == ("hit", "memory", key)
    assert found.age_seconds == pytest.approx(3 * 3_600, abs=60)
    assert found.ttl_left_seconds == pytest.approx(7 * DAY - 3 * 3_600, abs=60)
    assert first_line(found) == 'Hit: the tier "memory" answers; the answer is 3 h old and good for 6 d 21 h.'
    assert found.entry is not None
    assert (found.entry.key, found.entry.model) == (key, "openai/gpt-5-mini")


def test_a_hit_below_memory_is_not_promoted(provider: Sandbox) -> None:
    ask()
    memory = process.current().memory
    assert memory is not None
    memory.clear()
    for _ in range(2):
        found = told()
        assert (found.verdict, found.tier) == ("hit", "disk")
        assert [place.found for place in found.places] == ["absent", "fresh"]


def test_it_has_expired(provider: Sandbox, clock: MovedClock) -> None:
    ask(ttl=3_600)
    clock.move(3_600 + 720)
    found = told(ttl=3_600)
    assert (found.verdict, found.expired_at is not None) == ("expired", True)
    assert first_line(found) == "Miss: the answer expired 12 min ago."
    forget_tiers(found.key)
    assert verdict(ttl=3_600) == "expired"


def test_it_is_older_than_this_caller_takes(provider: Sandbox, clock: MovedClock) -> None:
    ask()
    clock.move(3_600)
    found = told(ttl=60)
    assert found.verdict == "too_old"
    assert first_line(found) == "Miss: the answer is 1 h old, and this caller takes none older than 1 min."
    assert verdict() == "hit"


def test_it_is_stale(provider: Sandbox, clock: MovedClock) -> None:
    ask(ttl=60, stale_ttl=3_600)
    clock.move(120)
    found = told(ttl=60, stale_ttl=3_600)
    assert (found.verdict, found.tier) == ("stale", "memory")
    assert first_line(found).startswith('Stale: the tier "memory" answers')
    assert verdict(ttl=60) == "expired"
    with llmcache_settings(REFRESH="call"), clock.kept():
        # Such a call asks for itself, and falls back on what is stale.
        assert verdict(ttl=60, stale_ttl=3_600) == "expired"
    assert provider.calls == 1


def test_it_is_older_than_the_log_of_invalidations_goes_back(provider: Sandbox, clock: MovedClock) -> None:
    ask(ttl=None)
    clock.move(401 * DAY)
    for ttl in (None, 500 * DAY):
        assert first_line(told(ttl=ttl)).endswith("old, and is older than the log of invalidations goes back.")


def test_it_was_invalidated_and_can_be_brought_back(provider: Sandbox) -> None:
    ask()
    made = llmcache.invalidate(kind="Ticket", reason="a new prompt", user="ann")
    found = told()
    void = found.invalidation
    assert found.verdict == "invalidated"
    assert void is not None
    assert (void.id, void.made_by, void.reason, void.comes_back) == (made.id, "ann", "a new prompt", True)
    assert re.fullmatch(r'Miss: the answer was invalidated \d+ s ago by ann: "a new prompt"\.', first_line(found))
    assert f"llmcache.undo({made.id!r})" in str(found)
    assert [place.found for place in found.places] == ["invalidated", "invalidated"]
    llmcache.undo(void.id)
    assert verdict() == "hit"


def test_undoing_one_of_two_brings_nothing_back(provider: Sandbox) -> None:
    ask(tags=["vip"])
    llmcache.invalidate(tag="vip")
    newest = llmcache.invalidate(kind="Ticket")
    void = told(tags=["vip"]).invalidation
    assert void is not None
    assert (void.id, void.comes_back) == (newest.id, False)
    assert "would not bring it back" in str(told(tags=["vip"]))


def test_what_is_void_and_gone_does_not_come_back(provider: Sandbox) -> None:
    key = ask()
    llmcache.invalidate(key=key)
    forget_tiers(key)
    found = told()
    assert found.verdict == "invalidated"
    assert found.invalidation is not None
    assert not found.invalidation.comes_back


def test_what_was_asked_after_an_invalidation_is_not_called_void(provider: Sandbox) -> None:
    llmcache.invalidate(kind="Ticket")
    key = ask()
    assert verdict() == "hit"
    forget_tiers(key)
    assert verdict() == "evicted"


def test_it_was_evicted(provider: Sandbox) -> None:
    forget_tiers(ask())
    found = told()
    assert found.verdict == "evicted"
    assert re.match(
        r"Miss: the answer was stored \d+ s ago, and no tier has it any more: it was evict", first_line(found)
    )
    # Memory and disk are this machine's.
    assert str(found).splitlines()[1].endswith("another one may still have it.")


def test_it_failed_when_it_was_asked(provider: Sandbox) -> None:
    provider.fail(faults.server_error(503))
    with pytest.raises(llmcache.ProviderUnavailable):
        ask(max_retries=0)
    found = told()
    assert found.verdict == "not_stored"
    assert found.last_attempt is not None
    assert (found.last_attempt.outcome, found.last_attempt.to_store) == ("failed", True)
    assert re.fullmatch(r"Miss: this was asked \d+ s ago, and that failed \(\w+\)\.", first_line(found))


@pytest.mark.parametrize("options", [{"cache": "bypass"}, {"ttl": 0}])
def test_it_was_asked_to_keep_nothing(provider: Sandbox, options: dict[str, Any]) -> None:
    ask(**options)
    found = told()
    assert found.verdict == "not_stored"
    assert "was to keep nothing" in first_line(found)


def test_an_answer_was_rejected(provider: Sandbox) -> None:
    provider.answers[TEXT] = {"title": "no subject"}
    provider.fail(faults.wrong_json())
    with pytest.raises(llmcache.ValidationFailed):
        ask(max_reasks=0)
    assert first_line(told()).endswith("and the answer did not pass validation.")


def test_a_call_that_leaves_the_cache_alone(provider: Sandbox) -> None:
    ask()
    assert (told(cache="bypass").bypassed_by, verdict(cache="bypass")) == ("cache", "bypass")
    assert (told(ttl=0).bypassed_by, verdict(ttl=0)) == ("ttl", "bypass")
    with llmcache.bypass():
        assert (told().bypassed_by, verdict()) == ("block", "bypass")
        assert "llmcache.bypass()" in first_line(told())
    assert str(told(cache="bypass")).splitlines()[1] == "A call that uses the cache would be a hit."
    assert verdict(cache="refresh") == "refresh"


def test_the_cache_is_switched_off(provider: Sandbox) -> None:
    with llmcache_settings(ENABLED=False):
        found = told()
    assert (found.verdict, found.bypassed_by) == ("bypass", "enabled")
    assert "LLMCACHE['ENABLED'] is False" in first_line(found)


def test_a_humans_answer_stands(provider: Sandbox) -> None:
    key = ask()
    with llmcache_settings(KINDS={"Ticket": {"type": Ticket}}):
        made = corrections.correct(key, '{"subject": "locked out"}', user="ann")
        found = told()
        assert (found.verdict, found.corrected_by) == ("corrected", "ann")
        assert first_line(found) == "Corrected: an answer that was put in place of the provider's by ann is given."
        assert verdict(cache="refresh") == "corrected"
        assert verdict(cache="bypass") == "bypass"
        assert llmcache.extract(TEXT, Ticket).subject == "locked out"
        assert verdict() == "corrected"
        corrections.withdraw(made, user="ann")
        assert "locked out" not in str(told())


class Picky(BaseModel):
    """A type whose validators have become stricter than its schema."""

    subject: str
    strict: bool = False

    @field_validator("subject")
    @classmethod
    def short(cls, value: str) -> str:
        if PICKY and len(value) > 3:
            raise ValueError("too long")
        return value


PICKY: list[bool] = []


def test_what_lies_there_does_not_pass_validation_any_more(provider: Sandbox) -> None:
    provider.answers[TEXT] = {"subject": "sign-in", "strict": False}
    ask(response_model=Picky)
    PICKY.append(True)
    try:
        found = told(response_model=Picky)
    finally:
        PICKY.clear()
    assert found.verdict == "invalid"
    assert "does not pass the validation of Picky" in first_line(found)


def test_what_lies_there_is_damaged(provider: Sandbox) -> None:
    key = ask()
    forget_tiers(key)
    now = process.current()
    now.tiers.below[0].set(storage_key(now.namespace, bytes.fromhex(key)), b"no entry", 60.0)
    found = told()
    assert (found.verdict, found.tier) == ("damaged", "disk")


def test_a_clock_was_set_back(provider: Sandbox, clock: MovedClock) -> None:
    ask()
    memory = process.current().memory
    assert memory is not None
    memory.clear()
    clock.move(-7_200)
    assert verdict() == "future"


def test_a_tier_that_cannot_be_read(provider: Sandbox) -> None:
    down = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1"}
    key = ask()
    row = CacheEntry.objects.filter(key=key)
    assert llmcache.flush()
    with in_caches(default=down), llmcache_settings(TIERS=["default"], NAMESPACE=None):
        assert row.exists()
        row.update(namespace=process.current().namespace)
        found = told()
        assert (found.verdict, [place.found for place in found.places]) == ("unreachable", ["unreachable"])
        # Where there is nothing to have, it is not the tier's fault.
        assert verdict("another") == "differs"


def test_without_a_database_it_says_what_it_can(provider: Sandbox, clock: MovedClock) -> None:
    key = ask()
    with no_database(), clock.kept():
        found = told()
        assert (found.verdict, found.key, found.entry) == ("hit", key, None)
        assert len(found.untold) == 1
        unknown = told("another")
        assert (unknown.verdict, unknown.nearest) == ("unknown", None)
        assert "The ledger cannot be read" in str(unknown)


def test_without_a_database_nobody_can_tell_what_is_void(provider: Sandbox, clock: MovedClock) -> None:
    ask()
    with no_database(), clock.kept():
        note_that_one_was_made(process.current().namespace)
        assert verdict() == "hit"
        clock.move(61)
        found = told()
        assert found.verdict == "unconfirmed"
        assert "nobody can tell" in first_line(found)


def test_with_memory_alone(provider: Sandbox) -> None:
    memory = {"BACKEND": "llmcache.backends.MemoryCache", "LOCATION": "explained"}
    with in_caches(default=memory), llmcache_settings(TIERS=["default"]):
        ask()
        assert (told().verdict, told().tier) == ("hit", "default")
        assert verdict("another") == "differs"


# -- what differs

OTHER_SCHEMA = create_model("Ticket", __doc__=Ticket.__doc__, subject=(str, ...), priority=(str, "low"))
COMPONENT: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "model": ({"model": "openai/gpt-5"}, ("model", "other", "")),
    "kind": ({"kind": "inbox"}, ("kind", "other", "")),
    "type": ({"response_model": Person}, ("response_type", "other", "")),
    "schema": ({"response_model": OTHER_SCHEMA}, ("schema", "other", "")),
    "system": ({"system": "Be brief"}, ("system", "other", "")),
    "no system": ({"system": None}, ("system", "only_theirs", "")),
    "param": ({"temperature": 0.5}, ("param", "other", "temperature")),
    "type of param": ({"temperature": 0.0}, ("param", "other", "temperature")),
    "new param": ({"seed": 7}, ("param", "only_ours", "seed")),
    "tenant": ({"tenant": None}, ("tenant", "only_theirs", "")),
    "subject": ({"subject": "Eve"}, ("subject", "other", "")),
    "no subject": ({"subject": None}, ("subject", "only_theirs", "")),
    "tags": ({"tags": ["vip", "eu"]}, ("tags", "other", "")),
    "version": ({"version": "2"}, ("version", "other", "")),
    "variant": ({"variant": "1"}, ("variant", "other", "")),
    "text": ({"text": "another"}, ("content", "other", "")),
}
GIVEN: dict[str, Any] = {
    "system": SYSTEM,
    "tenant": "acme",
    "subject": "Zoë",
    "tags": ["vip"],
    "version": "1",
    "variant": 1,
    "temperature": 0,
}


@pytest.mark.parametrize("change", COMPONENT)
def test_a_component_that_differs_is_named(change: str, provider: Sandbox) -> None:
    changes, difference = COMPONENT[change]
    ask(**GIVEN)
    found = told(**{**GIVEN, **changes})
    assert (found.verdict, differences(found)) == ("differs", [difference])
    assert found.same_text is (difference[0] != "content")
    assert found.nearest is not None
    assert difference[0] in COMPONENTS
    noun = {"param": f"parameter {difference[2]}", "content": "text", "response_type": "response type"}
    assert noun.get(difference[0], difference[0]).split()[0] in first_line(found)


@pytest.mark.parametrize("setting", ["VERSION", "KINDS", "PROVIDERS"])
def test_a_setting_that_is_part_of_the_key_is_named(setting: str, provider: Sandbox) -> None:
    ask()
    there = {"base_url": f"{provider.base_url}/proxy", "api_key": "sandbox"}
    changed = {"VERSION": "2", "KINDS": {"Ticket": {"version": "2"}}, "PROVIDERS": {"openai": there}}[setting]
    with llmcache_settings(**{setting: changed}):
        found = told()
    assert [each.component for each in found.differences] == ["provider" if setting == "PROVIDERS" else "project"]


def test_of_a_schema_the_changes_are_told(provider: Sandbox) -> None:
    ask()
    found = told(response_model=OTHER_SCHEMA)
    (difference,) = found.differences
    assert [(each["path"], each["change"]) for each in difference.changes] == [
        ("properties.priority", "added"),
        ("required", "changed"),
    ]
    assert "added properties.priority" in str(found)


def test_what_is_no_text_is_told(provider: Sandbox) -> None:
    ask(model="openai/gpt-5", tags=["vip"])
    found = told()
    assert [(each.component, each.ours, each.theirs) for each in found.differences] == [
        ("model", "openai/gpt-5-mini", "openai/gpt-5"),
        ("tags", None, "vip"),
    ]
    assert "openai/gpt-5-mini here, openai/gpt-5 there" in str(found)
    assert first_line(found) == "Miss: this text was asked before, but the model and tags differ."


def test_the_nearest_has_the_fewest_differences_then_is_the_newest(provider: Sandbox, clock: MovedClock) -> None:
    far = ask(model="openai/gpt-5", temperature=0.5, tags=["a"])
    near = ask(temperature=0.5)
    clock.move(10)
    newer = ask(temperature=0.25)
    clock.move(10)
    ask(temperature=0.5, tags=["a"])
    found = told()
    assert found.nearest is not None
    assert found.nearest.key == newer
    assert newer not in (far, near)


def test_another_text_is_told_with_how_many_there_are(provider: Sandbox) -> None:
    ask("another")
    ask("a third", system=SYSTEM)
    found = told()
    assert (found.entries_of_kind, found.entries_of_kind_or_more, found.same_text) == (2, False, False)
    assert differences(found) == [("content", "other", "")]
    assert first_line(found) == (
        'Miss: this text was not asked before. There are 2 entries of the kind "Ticket", with other texts.'
    )


def test_the_same_text_under_another_kind_is_nearer_than_the_newest_of_the_kind(provider: Sandbox) -> None:
    same = ask(kind="inbox")
    ask("another")
    found = told()
    assert found.nearest is not None
    assert (found.nearest.key, differences(found)) == (same, [("kind", "other", "")])


def test_no_more_rows_are_looked_at_than_that(provider: Sandbox) -> None:
    ask("another")
    assert llmcache.flush()
    copies(CacheEntry.objects.get(), MOST_LOOKED_AT + 10)
    found = told()
    assert (found.entries_of_kind, found.entries_of_kind_or_more) == (MOST_LOOKED_AT, True)
    assert f"{MOST_LOOKED_AT} entries or more" in first_line(found)


def test_rows_from_before_hashes_were_kept_say_so(provider: Sandbox) -> None:
    ask("another")
    assert llmcache.flush()
    CacheEntry.objects.update(content_hash="", components={})
    found = told(temperature=0.5)
    assert (found.verdict, found.differences) == ("differs", ())
    assert {"content", "system", "param"} <= set(found.uncompared)
    assert "Not recorded there: text, " in str(found)
    assert first_line(found).startswith("Miss: whether this text was asked before was not recorded.")


@pytest.mark.parametrize(
    "rubbish", [[], "x", {"provider": 3, "params": ["a"], "by": {}}, {"provider": "x", "cut": 1}, None]
)
def test_what_others_have_written_there_does_no_harm(rubbish: Any, provider: Sandbox) -> None:
    ask("another")
    assert llmcache.flush()
    with connection.cursor() as cursor:
        table = CacheEntry._meta.db_table
        cursor.execute(f"UPDATE {table} SET components = %s, tags = %s", [json.dumps(rubbish), json.dumps(rubbish)])
    assert str(told())


def test_parameters_are_told_together(provider: Sandbox) -> None:
    ask(temperature=0.5, seed=1, tags=["a", "b"])
    found = told(temperature=0.25, seed=2)
    assert first_line(found).endswith("but the parameters seed, temperature and tags differ.")
    assert "none here; a, b there" in str(found)
    assert first_line(told(temperature=0.25, seed=2, tags=["a", "b"])).endswith(
        "parameters seed and temperature differ."
    )


def test_more_parameters_than_have_a_hash_are_one_component(provider: Sandbox) -> None:
    many: dict[str, Any] = {f"p{number:02}": number for number in range(30)}
    ask(**many)
    found = told(**{**many, "p29": 0})
    assert differences(found) == [("param", "other", "")]
    assert "other parameters" in first_line(found)


# -- tenants


def test_a_tenant_learns_nothing_of_another(provider: Sandbox) -> None:
    ask(tenant="globex", tags=["secret-project"])
    ask()
    found = told(tenant="acme")
    assert (found.verdict, found.nearest, found.entries_of_kind, found.last_attempt) == ("never_asked", None, 0, None)
    assert "globex" not in repr(found) + str(found)
    ask("another", tenant="acme")
    found = told(tenant="acme")
    assert differences(found) == [("content", "other", "")]
    assert found.entries_of_kind == 1
    assert "globex" not in repr(found) + str(found)
    # Also not where only the schema is alike.
    assert verdict(tenant="acme", kind="inbox") == "differs"
    assert verdict(tenant="initech", kind="inbox") == "never_asked"


def test_without_a_tenant_it_is_the_project_that_asks(provider: Sandbox) -> None:
    ask(tenant="globex")
    found = told()
    (difference,) = found.differences
    assert (difference.component, difference.ours, difference.theirs) == ("tenant", None, "globex")
    assert "none here, globex there" in str(found)


def test_tenants_that_a_column_cannot_tell_apart_are_two(provider: Sandbox) -> None:
    begins = "acme" * 60
    ask(tenant=f"{begins}-1")
    assert verdict(tenant=f"{begins}-2") == "never_asked"
    assert verdict("another", tenant=f"{begins}-1") == "differs"
    assert [each.component for each in told().differences] == ["tenant"]
    ask(tenant="a\0b", kind="nul")
    assert verdict(tenant="a\ufffdb", kind="nul") == "never_asked"
    CacheEntry.objects.update(components={})
    assert verdict("another", tenant=f"{begins}-2") == "never_asked"


def test_the_tenant_of_the_settings_is_taken(provider: Sandbox) -> None:
    ask(tenant="acme")
    with llmcache_settings(TENANT=lambda: "acme"):
        assert (verdict(), told().tenant) == ("hit", "acme")
    with llmcache_settings(TENANT_REQUIRED=True), pytest.raises(llmcache.TenantMissing):
        told()


# -- secrets and texts


def test_hashes_are_keyed_with_the_first_secret(provider: Sandbox, journal: JournalReader) -> None:
    kept = {"system": SYSTEM, "temperature": 0.5, "version": "1", "variant": "b"}
    ask(**kept)
    with llmcache_settings(KEY_SECRETS=[("2027", secret("old"))]):
        ask(**kept)
        assert llmcache.flush()
    assert llmcache.flush()
    plain, keyed = CacheEntry.objects.order_by("components__by")
    if "by" in plain.components:
        plain, keyed = keyed, plain
    assert keyed.components.pop("by") == "2027"
    assert plain.components.keys() == keyed.components.keys()
    assert plain.content_hash != keyed.content_hash
    for name in ("system", "provider", "project", "version", "variant"):
        assert plain.components[name] != keyed.components[name]
        assert len(plain.components[name]) == 32
    assert plain.components["params"].keys() == {"temperature"}
    assert SYSTEM not in journal.text()
    assert TEXT not in journal.text()


def test_a_rotation_is_no_miss_and_no_difference(provider: Sandbox) -> None:
    old, new = ("2027", secret("old")), ("2028", secret("new"))
    with llmcache_settings(KEY_SECRETS=[old]):
        ask(system=SYSTEM, subject="Zoë")
        assert llmcache.flush()
    with llmcache_settings(KEY_SECRETS=[new, old]):
        for _ in range(2):
            # What is found under the older secret stays there.
            found = told(system=SYSTEM, subject="Zoë")
            assert (found.verdict, found.tier) == ("hit", "disk")
        assert differences(told(subject="Zoë")) == [("system", "only_theirs", "")]
    with llmcache_settings(KEY_SECRETS=[new]):
        gone = told(system=SYSTEM, subject="Zoë")
        assert (gone.verdict, gone.same_text) == ("differs", False)
        assert "system" in gone.uncompared


def test_no_text_is_in_it(provider: Sandbox) -> None:
    given = {**GIVEN, "instructions": "weary-instructions", "variant": "weary-variant", "version": "weary-version"}
    ask(**given)
    llmcache.flush()
    changed = {"system": f"{SYSTEM}!", "instructions": "other-instructions", "variant": "other", "subject": "Zoë Q"}
    explanations = [
        told(**given),
        told(**{**given, **changed}),
        told(f"{TEXT}?", **given),
        told(cache="bypass", **given),
    ]
    for found in explanations:
        shown = str(found) + repr(found)
        for word in ("Quackenbush", "Marvin", "Zoë", "weary", "other-instructions", "sign-in"):
            assert word not in shown
    row = CacheEntry.objects.get()
    kept = json.dumps([row.components, row.content_hash])
    assert "weary" not in kept
    assert "Marvin" not in kept


def test_it_cannot_move_a_terminals_cursor(provider: Sandbox) -> None:
    ask(tenant="\x1b[2Jacme", tags=["\x1b]0;x\x07"], kind="in\rbox")
    llmcache.invalidate(tenant="\x1b[2Jacme", reason="\x1b[31m", user="\x1bann")
    for found in (told(), told(tenant="\x1b[2Jacme", tags=["\x1b]0;x\x07"], kind="in\rbox")):
        assert not set(str(found)) & {"\x1b", "\r", "\x07"}


# -- what it costs, and what it leaves as it was


def test_it_asks_counts_and_writes_nothing(provider: Sandbox) -> None:
    ask()
    before = llmcache.stats()
    sums = list(UsageBucket.objects.values())
    calls = ProviderCall.objects.count()
    for text, options in (
        (TEXT, {}),
        ("another", {}),
        (TEXT, {"cache": "refresh"}),
        (TEXT, {"cache": "only", "seed": 1}),
    ):
        told(text, **options)
    assert llmcache.stats() == before
    assert list(UsageBucket.objects.values()) == sums
    assert (provider.calls, ProviderCall.objects.count(), CacheEntry.objects.count()) == (1, calls, 1)


def statements(using: str, **options: Any) -> list[str]:
    told(**options)
    with CaptureQueriesContext(connections[using]) as captured:
        told(**options)
    return [each["sql"] for each in captured.captured_queries if each["sql"].startswith("SELECT")]


def scans(using: str, statement: str) -> list[str]:
    """Return where a database looks through a whole table."""
    with connections[using].cursor() as cursor:
        if connections[using].vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
            return [line[3] for line in cursor.fetchall() if line[3].startswith("SCAN")]
        # For a few rows no index is worth its while.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {statement}")
        return [line[0] for line in cursor.fetchall() if "Seq Scan on" in line[0]]


LOOKS: list[dict[str, Any]] = [
    {},
    {"text": "new"},
    {"text": "new", "tenant": "acme"},
    {"kind": "none"},
    {"text": "new", "kind": "none"},
]


@pytest.mark.parametrize("options", LOOKS, ids=str)
def test_it_costs_a_few_statements_each_by_an_index(options: dict[str, Any], ledger: str, provider: Sandbox) -> None:
    ask("another")
    ask(response_model=OTHER_SCHEMA, tenant="acme")
    few = statements(ledger, **options)
    rows = CacheEntry.objects.using(ledger)
    copies(rows.order_by("pk")[0], 300, using=ledger)
    many = statements(ledger, **options)
    assert max(len(few), len(many)) <= 10
    for each in many:
        assert scans(ledger, each) == [], each


def test_an_error_of_the_database_leaves_the_callers_transaction_alone(ledger: str, provider: Sandbox) -> None:
    ask()
    table = ProviderCall._meta.db_table
    with connections[ledger].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
        assert verdict("another") == "unknown"
        cursor.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
    assert verdict("another") == "differs"


# -- shapes of use


@pytest.mark.django_db(transaction=True)
def test_awaited_it_says_the_same(provider: Sandbox) -> None:
    async def both() -> tuple[Explanation, Explanation]:
        await llmcache.aextract(TEXT, Ticket)
        hit = await llmcache.aexplain(TEXT, Ticket)
        with llmcache.bypass():
            later = llmcache.aexplain(TEXT, Ticket)
        return hit, await later

    hit, bypassed = asyncio.run(both())
    assert (hit.verdict, bypassed.verdict, bypassed.bypassed_by) == ("hit", "bypass", "block")


@pytest.mark.django_db(transaction=True)
def test_awaited_it_is_the_tenants_whose_call_it_was(provider: Sandbox) -> None:
    here = threading.local()
    here.tenant = "acme"

    async def later() -> Explanation:
        return await llmcache.aexplain(TEXT, Ticket)

    async def nobodys() -> None:
        with pytest.raises(llmcache.TenantMissing):
            await llmcache.aexplain(TEXT, Ticket)

    with llmcache_settings(TENANT=lambda: getattr(here, "tenant", None), TENANT_REQUIRED=True):
        assert asyncio.run(later()).tenant == "acme"
        here.tenant = None
        asyncio.run(nobodys())


def test_in_a_loop_it_names_its_twin(provider: Sandbox) -> None:
    async def wrong() -> None:
        told()

    with pytest.raises(llmcache.AsyncContext, match="aexplain"):
        asyncio.run(wrong())


def test_an_extractor_explains_with_what_is_bound(provider: Sandbox) -> None:
    bound = llmcache.Extractor(tenant="acme", system=SYSTEM, temperature=0.5)
    bound.extract(TEXT, Ticket)
    assert bound.explain(TEXT, Ticket).verdict == "hit"
    assert differences(bound.explain(TEXT, Ticket, temperature=0.25)) == [("param", "other", "temperature")]


@pytest.mark.parametrize(
    ("content", "options", "error"),
    [
        ("", {}, llmcache.InvalidText),
        (b"bytes", {}, llmcache.UnsupportedType),
        (TEXT, {"ttll": 3}, llmcache.InvalidRequest),
        (TEXT, {"tenant": ""}, llmcache.InvalidRequest),
        (TEXT, {"cache": "maybe"}, llmcache.InvalidRequest),
        (TEXT, {"messages": []}, llmcache.InvalidRequest),
        (TEXT, {"model": "nobody/gpt"}, llmcache.ConfigurationError),
        (TEXT, {"response_model": 3}, llmcache.UnsupportedType),
    ],
)
def test_bad_arguments_are_refused_as_extract_refuses_them(
    content: Any, options: dict[str, Any], error: type[Exception], provider: Sandbox
) -> None:
    model = options.pop("response_model", Ticket)
    for call in (llmcache.extract, llmcache.explain):
        with pytest.raises(error):
            call(content, model, **options)


def test_a_frozen_type_that_is_odd_is_explained_too(provider: Sandbox) -> None:
    odd = create_model("Odd", __config__=ConfigDict(frozen=True), subject=(str, ...))
    ask(response_model=odd)
    assert verdict(response_model=odd) == "hit"
    assert verdict(response_model=list[Ticket]) == "differs"
