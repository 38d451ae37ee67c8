"""Instructor's ``cache=`` in the tiers: real clients over HTTP, and what its own caches get wrong."""

import asyncio
from datetime import timedelta
from typing import Annotated, Any

import instructor
import pytest
from django.core.management import call_command
from pydantic import AfterValidator, BaseModel, Field, field_serializer
from redis import Redis

import llmcache
from llmcache.contrib.instructor import DjangoCache
from llmcache.exceptions import ConfigurationError, InvalidRequest, TenantMissing
from llmcache.testing.sandbox import Sandbox
from tests.cache_servers import RedisServer
from tests.neighbours.conftest import TEXT, MovedClock, caches, in_a_child, llmcache_settings
from tests.neighbours.instructor.clients import async_upstream, upstream

MODEL = "gpt-5-mini"


class Ticket(BaseModel):
    title: str
    urgent: bool


def client(sandbox: Sandbox, cache: Any = None, *, of: Any = None, **options: Any) -> Any:
    """Return Instructor's client, as its readme makes one."""
    given = {"mode": instructor.Mode.JSON_SCHEMA, "cache": cache or DjangoCache(), "cache_namespace": "tests"}
    return instructor.from_openai(of or upstream(sandbox, max_retries=0), **{**given, **options})


def plain(value: Any) -> tuple[str, dict[str, Any]]:
    """Return what is to be equal of two models: Instructor hangs the completion onto each."""
    return type(value).__name__, value.model_dump()


def ask(made: Any, model: Any = Ticket, text: str = TEXT, **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return made.create(**{"model": MODEL, "messages": messages, "response_model": model, **options})


@pytest.mark.parametrize("where", ["memory and disk", "redis"])
def test_the_second_call_is_answered_from_the_tiers(
    where: str, sandbox: Sandbox, request: pytest.FixtureRequest
) -> None:
    if where == "redis":
        request.getfixturevalue("shared")
    made = client(sandbox)
    messages = [{"role": "user", "content": TEXT}]
    asked = [
        made.create_with_completion(model=MODEL, response_model=Ticket, messages=messages, cache_ttl=60)
        for _ in range(2)
    ]
    (first, completion), (second, again) = asked
    assert (sandbox.calls, plain(second)) == (1, plain(first))
    assert (again.id, again.usage.total_tokens) == (completion.id, completion.usage.total_tokens)
    # Another client, as of another process: the namespace is the project's own.
    third = ask(client(sandbox))
    third.title = "mine"
    assert plain(ask(made)) == plain(first)
    assert sandbox.calls == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("where", ["memory and disk", "redis", "database", "backend of its own"])
def test_an_async_client_too(where: str, sandbox: Sandbox, request: pytest.FixtureRequest) -> None:
    """Instructor calls a cache in the event loop itself, where a database may not be read."""
    if where == "redis":
        request.getfixturevalue("shared")

    async def twice(cache: Any) -> tuple[Any, Any]:
        made = client(sandbox, cache, of=async_upstream(sandbox))
        return await ask(made), await ask(made)

    if where in ("database", "backend of its own"):
        rows = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "rows"}
        with caches(rows=rows):
            call_command("createcachetable", verbosity=0)
        if where != "database":
            rows["BACKEND"] = "tests.neighbours.instructor.rows.RowsCache"
        with caches(rows=rows):
            first, second = asyncio.run(twice(DjangoCache("rows")))
    else:
        first, second = asyncio.run(twice(None))
    assert (sandbox.calls, plain(second)) == (1, plain(first))


class Aliased(BaseModel):
    title: str = Field(alias="Title")


class Excluded(BaseModel):
    title: str
    secret: str = Field(exclude=True)


class Shouting(BaseModel):
    title: str
    when: int

    @field_serializer("when")
    def _as_text(self, when: int) -> str:
        return f"on day {when}"


class Price(BaseModel):
    cents: Annotated[float, AfterValidator(lambda value: value * 100)]


class Share(BaseModel):
    part: float


class Animal(BaseModel):
    name: str


class Dog(Animal):
    bark: str


class Owner(BaseModel):
    pet: Dog | Animal


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (Aliased, '{"Title": "fire"}'),
        (Excluded, '{"title": "fire", "secret": "s"}'),
        (Shouting, '{"title": "fire", "when": 3}'),
        (Price, '{"cents": 1.5}'),
        (Share, '{"part": NaN}'),
        (Owner, '{"pet": {"name": "Rex", "bark": "loud"}}'),
        (Ticket, 'Here it is:\n```json\n{"title": "fire", "urgent": true}\n```'),
    ],
    ids=["alias", "excluded", "serializer", "not idempotent", "nan", "union", "fence"],
)
def test_a_hit_is_what_the_miss_was(model: Any, answer: str, sandbox: Sandbox) -> None:
    """Where a dump of the model would raise at the hit, or silently be another one."""
    sandbox.fail(llmcache.testing.sandbox.faults.says(answer), times=1)
    made = client(sandbox, mode=instructor.Mode.MD_JSON)
    first, second = ask(made, model), ask(made, model)
    # By repr: NaN is not equal to itself.
    assert (repr(second), type(second).__name__) == (repr(first), type(first).__name__)
    assert sandbox.calls == 1


def test_what_differs_is_asked_for_by_itself(sandbox: Sandbox) -> None:
    class Other(BaseModel):
        title: str
        urgent: bool
        email: str | None = None

    Other.__name__ = "Ticket"
    made = client(sandbox)
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
    different: list[dict[str, Any]] = [
        *({}, {"text": "The printer is wet"}, {"model": Other}, {"messages": system}),
        *({"temperature": 0}, {"temperature": 0.5}, {"seed": 1}, {"max_tokens": 500}),
        *({"context": {"a": 1}}, {"strict": False}, {"cache_namespace": "others"}),
    ]
    for _ in range(2):
        for options in different:
            ask(made, **options)
    named = {"model": "gpt-5", "messages": system, "response_model": Ticket}
    made.create(**named)
    assert sandbox.calls == len(different) + 1


def test_lists_are_not_cached_by_instructor_and_a_model_round_them_is(sandbox: Sandbox) -> None:
    class Tickets(BaseModel):
        items: list[Ticket]

    made = client(sandbox)
    assert plain(ask(made, Tickets)) == plain(ask(made, Tickets))
    assert sandbox.calls == 1
    assert ask(made, list[Ticket]) is not None
    ask(made, list[Ticket])
    assert sandbox.calls == 3


def test_its_own_time_limit_holds(sandbox: Sandbox, clock: MovedClock) -> None:
    made = client(sandbox)
    ask(made, cache_ttl=60)
    clock.move(59)
    ask(made)
    assert sandbox.calls == 1
    clock.move(2)
    # Kept for the kind's own time, seven days, from now on.
    ask(made)
    assert sandbox.calls == 2
    clock.move(6 * 86_400)
    ask(made)
    assert sandbox.calls == 2
    clock.move(2 * 86_400)
    for _ in range(2):
        ask(made, cache_ttl=0)
    assert sandbox.calls == 4


def test_the_caches_own_time_limit_holds(sandbox: Sandbox, clock: MovedClock) -> None:
    forever, short = client(sandbox, DjangoCache(ttl=None)), client(sandbox, DjangoCache(kind="short", ttl=5))
    ask(forever)
    ask(short)
    clock.move(6)
    ask(forever)
    ask(short)
    assert sandbox.calls == 3
    clock.move(300 * 86_400)
    ask(forever)
    assert sandbox.calls == 3
    # Beyond what the log of invalidations goes back to, nobody knows any more whether it is void.
    clock.move(101 * 86_400)
    ask(forever)
    assert sandbox.calls == 4
    with llmcache_settings(KINDS={"short": {"ttl": 1}}):
        ask(client(sandbox, DjangoCache(kind="short")))


def test_odd_time_limits_cost_no_answer(sandbox: Sandbox, clock: MovedClock) -> None:
    cache = DjangoCache()
    odd = {"-1": -1, "nan": float("nan"), "text": "soon", "true": True, "long": 10**30, "longer": 10**400}
    for name, ttl in {**odd, "minute": timedelta(minutes=1)}.items():
        cache.set(name, '{"model": "{}", "raw": null}', ttl)  # type: ignore[arg-type]
    assert [name for name in odd if cache.get(name)] == ["true", "long", "longer"]
    clock.move(2)
    assert [name for name in odd if cache.get(name)] == ["long", "longer"]
    assert cache.get("minute")


def test_two_processes_pay_once(sandbox: Sandbox, shared: RedisServer) -> None:
    told = in_a_child(lambda: plain(ask(client(sandbox))))
    assert repr(plain(ask(client(sandbox)))) == told
    assert sandbox.calls == 1


@pytest.mark.django_db
def test_decisions_are_honoured(sandbox: Sandbox) -> None:
    cache = DjangoCache(kind="inbox", tags=["support"])
    made, other = client(sandbox, cache), client(sandbox, DjangoCache())
    ask(made)
    ask(other)
    cache.clear()
    ask(made)
    ask(other)
    assert sandbox.calls == 3
    for conditions in ({"tag": "support"}, {"kind": "inbox"}, {"everything": True}):
        done = llmcache.invalidate(**conditions)
        calls = sandbox.calls
        ask(made)
        assert sandbox.calls == calls + 1
        llmcache.undo(done)
    # What has been brought back is served again.
    calls = sandbox.calls
    ask(made)
    ask(other)
    assert sandbox.calls == calls


@pytest.mark.django_db
def test_an_answer_under_way_is_void_on_arrival(sandbox: Sandbox) -> None:
    cache = DjangoCache()

    def invalidating(*_: Any, **__: Any) -> None:
        cache.clear()

    made = client(sandbox, cache)
    made.on("completion:response", invalidating)
    ask(made)
    made.off("completion:response", invalidating)
    ask(made)
    assert sandbox.calls == 2
    ask(made)
    assert sandbox.calls == 2


def test_tenants_never_meet(sandbox: Sandbox) -> None:
    for tenant in ("a", "b", None, "a", "b", None):
        ask(client(sandbox, DjangoCache(tenant=tenant)))
    assert sandbox.calls == 3
    with llmcache_settings(TENANT=lambda: "a"):
        ask(client(sandbox))
        ask(client(sandbox, DjangoCache(tenant="b")))
    assert sandbox.calls == 3
    with llmcache_settings(TENANT_REQUIRED=True), pytest.raises(TenantMissing):
        ask(client(sandbox))
    assert sandbox.calls == 3


@pytest.mark.parametrize("damage", ["bits", "foreign", "list", "number"])
def test_what_is_damaged_is_asked_for_anew(damage: str, sandbox: Sandbox, shared: RedisServer) -> None:
    made = client(sandbox)
    first = ask(made)
    with Redis.from_url(shared.url) as redis:
        ours = list(redis.scan_iter(f"*{llmcache.engine.process.current().namespace}*"))
        values = [redis.get(name) for name in ours]
        # JSON in an envelope, and nothing that anybody would unpickle.
        assert any(b"urgent" in value for value in values)
        assert all(value.startswith(b"\xf1LMC") for value in values)
        for name, value in zip(ours, values, strict=True):
            redis.delete(name)
            if damage == "list":
                redis.lpush(name, value)
            else:
                redis.set(name, {"bits": value[:-1] + b"!", "foreign": b"\x80\x04K\x01.", "number": b"7"}[damage])
    assert plain(ask(made)) == plain(first)
    assert sandbox.calls == 2
    ask(made)
    assert sandbox.calls == 2


def test_a_store_that_is_down_fails_no_call(sandbox: Sandbox, shared: RedisServer) -> None:
    made = client(sandbox)
    ask(made)
    shared.stop()
    try:
        assert plain(ask(made)) == plain(ask(made))
        assert sandbox.calls == 3
    finally:
        shared.start()


def test_calls_that_leave_the_cache_alone(sandbox: Sandbox) -> None:
    made = client(sandbox)
    ask(made)
    with llmcache.bypass():
        ask(made)
    with llmcache_settings(ENABLED=False):
        ask(made)
    assert sandbox.calls == 3
    ask(made)
    assert sandbox.calls == 3


@pytest.mark.django_db
def test_hits_are_counted_and_tell_what_they_have_saved(sandbox: Sandbox) -> None:
    told: list[Any] = []
    made = client(sandbox, DjangoCache(kind="inbox", provider="openai"))
    made.on("completion:response", told.append)
    ask(made)
    bill = sandbox.bill_pico_usd
    for _ in range(3):
        ask(made)
    stats = llmcache.stats(by="kind")["inbox"]
    assert (stats.hits, stats.misses, stats.saved_usd * 10**12) == (3, 1, 3 * bill)
    # What Instructor has paid is in none of our rows.
    assert stats.spent_usd == 0
    # Its hooks tell of calls that were made, and of no hit.
    assert len(told) == 1
    for options in ({}, {}, {"text": "not to be kept", "cache_ttl": 0}):
        ask(client(sandbox, DjangoCache(kind="other")), **options)
    other = llmcache.stats(by="kind")["other"]
    assert (other.saved_unknown, other.hits, other.misses, other.bypasses) == (1, 1, 1, 1)


def test_arguments_of_no_use_are_refused_at_once() -> None:
    for wrong in ({"kind": ""}, {"ttl": "long"}, {"ttl": -1}, {"tenant": ""}, {"tags": "support"}):
        with pytest.raises(InvalidRequest):
            DjangoCache(**wrong)
    with pytest.raises(ConfigurationError, match="CACHES"):
        DjangoCache("nowhere").get("k")
    with pytest.raises(ConfigurationError, match="PROVIDERS"):
        DjangoCache(provider="nobody").get("k")
