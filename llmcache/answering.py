"""From arguments to an answer: the way of every call that is no plain hit in memory.

Loaded at the first such call, for it brings the provider's side with it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.views.decorators.debug import sensitive_variables

from llmcache import request
from llmcache.engine import counts
from llmcache.engine.call import Answered, Call
from llmcache.engine.policy import resolve
from llmcache.engine.ports import BlockingPort, run
from llmcache.engine.runtime import Runtime
from llmcache.exceptions import LLMCacheError
from llmcache.plans import MAX_KIND
from llmcache.prepared import Prepared, lookup_of
from llmcache.request import NOT_GIVEN

logger = logging.getLogger("llmcache.call")


@sensitive_variables()
def answer(
    now: Runtime,
    content: Any,
    response_model: Any,
    options: tuple[Any, ...],
    params: dict[str, Any],
    *,
    needs_completion: bool = False,
) -> tuple[Answered, Call, float]:
    """Return how a call was answered, the call, and the seconds it took. Raises what ``llmcache.extract`` documents."""
    began = now.clock.monotonic()
    given = {name: value for name, value in zip(request.OPTIONS, options, strict=True) if value is not NOT_GIVEN}
    call = checked(now, content, response_model, given, params, needs_completion=needs_completion)
    _keep_prepared(now, call, response_model, options, params)
    kind, model = call.plan.kind, call.plan.model
    try:
        answered = run(resolve(call, BlockingPort(now)))
    except LLMCacheError:
        counts.count((kind, model, None, "error"))
        raise
    counts.count((kind, model, answered.tier, answered.outcome))
    if answered.outcome != "hit":
        logger.debug("%s by %s: %s after %d attempts.", kind, model, answered.outcome, answered.spent.attempts)
    return answered, call, now.clock.monotonic() - began


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
        now.prepared.keep(lookup, Prepared(call.plan, call.scope, call.max_age))


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
    data = request.encode_text(content, settings.max_text_bytes)
    tags = request.tag_names(options.get("tags", ()))
    tenant, system = options.get("tenant"), options.get("system")
    scope = request.scope(tenant, options.get("subject"), tags, options.get("version"), options.get("variant"))
    ttl = request.lifetime(options.get("ttl", settings.ttl))
    cache = request.cache_use(options.get("cache", "use"))
    timeout = request.duration(options.get("timeout", settings.timeout))
    max_retries = request.count("max_retries", options.get("max_retries", settings.max_retries))
    max_reasks = request.count("max_reasks", options.get("max_reasks", settings.max_reasks))
    plan = now.plan(
        response_model,
        request.word("model", options.get("model", settings.model)),
        None if system is None else request.system_text(system),
        request.word("kind", options["kind"], most=MAX_KIND) if "kind" in options else None,
        keyed,
    )
    return Call(
        plan=plan,
        content=data.decode(),
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
    )
