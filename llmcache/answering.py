"""From arguments to an answer: the way of every call that is no plain hit in memory.

Loaded at the first such call, for it brings the provider's side with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache import request, workers
from llmcache.bypassing import is_bypassed
from llmcache.content.messages import Content
from llmcache.content.reading import encoded
from llmcache.engine.asyncio_port import AsyncioPort
from llmcache.engine.background import Errand
from llmcache.engine.call import Answered, Call, Done
from llmcache.engine.counts import tally_of
from llmcache.engine.policy import Port, resolve
from llmcache.engine.ports import BlockingPort, run
from llmcache.engine.predicates import Facts
from llmcache.engine.runtime import Runtime
from llmcache.engine.tabs import open_tab
from llmcache.exceptions import LLMCacheError
from llmcache.kinds import NO_KIND, given, lifetime_of
from llmcache.loading import first_time
from llmcache.money.pricing import PICO
from llmcache.plans import MAX_KIND, Plan
from llmcache.prepared import Prepared, lookup_of
from llmcache.request import NOT_GIVEN

logger = logging.getLogger("llmcache.call")

_CLOCKS_DIFFER: Final = 3_600.0


@sensitive_variables()
def answer(
    now: Runtime,
    content: Any,
    response_model: Any,
    options: tuple[Any, ...],
    params: dict[str, Any],
    *,
    needs_completion: bool = False,
    needs_rest: bool = False,
    looked: bool = False,
) -> Done:
    """Return how a call was answered. Raises what ``llmcache.extract`` documents.

    ``needs_rest``: look for what was kept beside the answer, too; where it is gone, that is no miss. ``looked``: no
    tier had anything usable a moment ago.
    """
    began = now.clock.monotonic()
    if now.tenancy is not None:
        options = now.tenancy.named(options)
    call = _call(now, content, response_model, options, params, needs_completion)
    answered = run(_answered(now, call, BlockingPort(now), needs_rest, looked=looked))
    return Done(answered, call, now.clock.monotonic() - began, now.clock.wall())


@sensitive_variables()
async def aanswer(
    now: Runtime,
    errand: Errand[Any],
    content: Any,
    response_model: Any,
    options: tuple[Any, ...],
    params: dict[str, Any],
    *,
    needs_completion: bool = False,
    needs_rest: bool = False,
    looked: bool = False,
    told: Callable[[Call], Callable[[str], object]] | None = None,
) -> Done:
    """Do as ``answer``, in the background loop; ``told``: who is given the answer while it is written."""
    began = now.clock.monotonic()
    make = partial(_call, now, content, response_model, options, params, needs_completion)
    # A type that is seen for the first time takes as long as it likes to make its schema, and files to be read.
    is_read = not isinstance(content, str)
    known = not is_read and now.prepared.get(lookup_of(response_model, options, params)) is not None
    call = make() if known else await (workers.contents if is_read else workers.files).run(make)
    if told is not None:
        call = replace(call, told=told(call))
    if needs_completion:
        await workers.files.run(partial(_load, call))
    answered = await _answered(now, call, AsyncioPort(now, errand), needs_rest, looked=looked)
    return Done(answered, call, now.clock.monotonic() - began, now.clock.wall())


def _load(call: Call) -> None:
    with first_time(call.plan.provider.alias):
        call.plan.provider.load()


@sensitive_variables()
def _call(
    now: Runtime,
    content: Any,
    response_model: Any,
    options: tuple[Any, ...],
    params: dict[str, Any],
    needs_completion: bool,
) -> Call:
    given = {name: value for name, value in zip(request.OPTIONS, options, strict=True) if value is not NOT_GIVEN}
    call = checked(now, content, response_model, given, params, needs_completion=needs_completion)
    _keep_prepared(now, call, response_model, options, params)
    return call


@sensitive_variables()
async def _answered(now: Runtime, call: Call, port: Port, needs_rest: bool, *, looked: bool = False) -> Answered:
    answered = await _counted(now, call, port, looked)
    if needs_rest and answered.rest is None:
        return replace(answered, rest=await port.read_rest(answered.entry))
    return answered


@sensitive_variables()
async def _counted(now: Runtime, call: Call, port: Port, looked: bool) -> Answered:
    """Return how a call was answered, and count it."""
    kind, model = call.plan.kind, call.plan.model
    now.schemas.note(call.plan.response, now.clock.wall())
    try:
        answered = await resolve(call, port, looked=looked)
    except LLMCacheError as error:
        now.counts.count(tally_of(kind, model, call.tenant, None, "error"))
        _add_to_tab(error.cost_usd if error.cost_usd is None else int(error.cost_usd * PICO))
        raise
    # What an entry has cost that answers is told by who counts it; this is what was paid here and now.
    _add_to_tab(answered.spent.cost)
    now.counts.count(tally_of(kind, model, call.tenant, answered.tier, answered.outcome, answered.entry))
    if answered.outcome != "hit":
        logger.debug("%s by %s: %s after %d attempts.", kind, model, answered.outcome, answered.spent.attempts)
    return answered


def _add_to_tab(cost: int | None) -> None:
    tab = open_tab()
    if tab is not None:
        tab.add(cost)


def _keep_prepared(
    now: Runtime, call: Call, response_model: Any, options: tuple[Any, ...], params: dict[str, Any]
) -> None:
    """Let the next call with these arguments be answered from memory without checking them again."""
    # Parameters that are not in the key differ from call to call: they would only push others out of the table.
    if call.cache != "use" or not call.stores or call.unkeyed:
        return
    # A class is found by its identity, so the plan has to be the one that keeps this very class alive.
    if isinstance(response_model, type) and call.plan.response.annotation is not response_model:
        return
    lookup = lookup_of(response_model, options, params)
    if lookup is None:
        return
    found = now.prepared.get(lookup)
    if found is None or found.plan is not call.plan:
        now.prepared.keep(lookup, Prepared(call.plan, call.scope, call.oldest, call.facts, now.memory_name))


@sensitive_variables()
def checked(
    now: Runtime,
    content: Any,
    response_model: Any,
    options: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    needs_completion: bool,
) -> Call:
    """Return a call with every argument checked and every default filled in.

    ``options``: those arguments of ``llmcache.extract`` that were given. ``params``: what goes to the provider.
    """
    settings = now.settings
    keyed, unkeyed = request.split_params(params, options.get("unkeyed"))
    data = encoded(content, settings.max_text_bytes, settings.max_file_bytes)
    system = options.get("system")
    plan = now.plan(
        response_model,
        request.word("model", options.get("model", settings.model)),
        None if system is None else request.system_text(system),
        request.word("kind", options["kind"], most=MAX_KIND) if "kind" in options else None,
        keyed,
    )
    return call_of(now, plan, data, options, unkeyed, needs_completion=needs_completion)


def _scope_of(options: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...], bytes]:
    """Return a call's tenant and tags, checked, and what of all it names is in the key."""
    tags = request.tag_names(options.get("tags", ()))
    tenant = options.get("tenant")
    tenant = None if tenant is None else request.word("tenant", tenant)
    subject, version, variant = (options.get(name) for name in ("subject", "version", "variant"))
    return tenant, tags, request.scope(tenant, subject, tags, version, variant)


@sensitive_variables()
def call_of(
    now: Runtime,
    plan: Plan,
    content: bytes | Content,
    options: Mapping[str, Any],
    unkeyed: Mapping[str, Any],
    *,
    needs_completion: bool,
) -> Call:
    """Return the call of a plan for a content, with every option checked and every default filled in."""
    if unkeyed:
        plan.provider.require_unkeyed(unkeyed)
    settings = now.settings
    data = content if isinstance(content, bytes) else content.key_bytes
    tenant, tags, scope = _scope_of(options)
    subject = options.get("subject")
    of_kind = settings.kinds.get(plan.kind, NO_KIND)
    if "ttl" in options:
        ttl, derive = request.lifetime(options["ttl"]), None
    else:
        ttl, derive = lifetime_of(settings, plan.kind)
    stale_ttl = request.stale_lifetime(options.get("stale_ttl", given(of_kind.stale_ttl, settings.stale_ttl)))
    cache = request.cache_use(options.get("cache", given(of_kind.cache, "use")))
    if cache in ("use", "refresh") and (is_bypassed() or not settings.enabled):
        cache = "bypass"
    refresh = given(of_kind.refresh, settings.refresh)
    timeout = request.duration(options.get("timeout", settings.timeout))
    max_retries = request.count("max_retries", options.get("max_retries", settings.max_retries))
    max_reasks = request.count("max_reasks", options.get("max_reasks", settings.max_reasks))
    return Call(
        plan=plan,
        content=content.decode() if isinstance(content, bytes) else content,
        scope=scope,
        key=plan.key(scope, data),
        ttl=ttl,
        cache=cache,
        timeout=timeout,
        max_retries=max_retries,
        max_reasks=max_reasks,
        needs_completion=needs_completion,
        unkeyed=unkeyed,
        tags=tags,
        tenant=tenant,
        subject=subject,
        facts=Facts(
            tenant,
            () if subject is None else tuple(seal.subject_hash(subject) for seal in now.seals),
            plan.response.name,
            plan.model,
            tags,
            plan.kind,
        ),
        # Clocks differ, and a row may be gone some hours before another machine's clock says so.
        stale_ttl=stale_ttl,
        jitter=settings.jitter,
        derive=derive,
        waits=refresh == "call",
        # Who is handed a key has the request that was kept, and of images and files that is not enough to ask again.
        by_task=refresh == "celery" and (isinstance(content, bytes) or not content.has_bytes),
        horizon=settings.retention["invalidations"] - _CLOCKS_DIFFER,
        version=options.get("version"),
        variant=options.get("variant"),
        older_keys=plan.older_keys(scope, data),
    )
