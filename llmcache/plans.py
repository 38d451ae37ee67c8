"""Plans: what does not depend on the content of a call, compiled once.

A plan holds a response type made ready, the body with a hole where the content goes, and the hash state of everything
in a key that comes before the scope. A class is looked up by identity; other types by their structure, tagged with
types, because Python calls ``Union[A, B]`` and ``Union[B, A]``, ``Literal[1]`` and ``Literal[True]`` equal, though
their schemas differ. All tables are bounded: a prompt with a user's name in it makes a plan per call.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final

from llmcache import keys
from llmcache.exceptions import InvalidRequest
from llmcache.response_types import ResponseType, response_type, structure
from llmcache.sealing import NO_SEAL, Seal

if TYPE_CHECKING:
    from llmcache.keys import HashState
    from llmcache.providers.base import Provider

MAX_PLANS: Final = 1_024
MAX_PLANS_BYTES: Final = 16 * 2**20
MAX_KIND: Final = 100

logger = logging.getLogger("llmcache.call")


class Plan:
    """One response type asked of one model with one set of parameters."""

    __slots__ = (
        "_older",
        "body",
        "kind",
        "model",
        "params",
        "provider",
        "response",
        "seal",
        "size",
        "state",
        "system",
        "validate",
        "version",
    )

    def __init__(
        self,
        response: ResponseType,
        provider: Provider,
        model: str,
        system: str | None,
        kind: str,
        version: str,
        params: dict[str, Any],
        seals: tuple[Seal, ...] = (NO_SEAL,),
    ) -> None:
        self.response = response
        self.provider = provider
        self.model = f"{provider.alias}/{model}"
        self.system = system
        self.kind = kind
        self.version = version
        # A copy of its own, made by way of JSON: what the caller changes later must not change what is sent under this
        # key, and what is sent is what was hashed.
        self.params = _own(params)
        self.body = provider.body(model, system, response.schema, self.params)
        head = keys.canonical_json(self.body)
        self.size = len(head)
        self.validate = response.validate
        self.seal = seals[0]
        self.state, *self._older = (
            keys.plan_state(
                identity=provider.identity,
                kind=kind,
                type_name=response.name,
                version=version,
                head=head,
                secret=seal.key_hash,
            )
            for seal in seals
        )

    def key(self, scope: bytes, content: bytes) -> bytes:
        """Return the key of a content asked under a scope."""
        return _continued(self.state, scope, content)

    def older_keys(self, scope: bytes, content: bytes) -> tuple[bytes, ...]:
        """Return the keys that it had under the secrets that only read, in their order."""
        return tuple(_continued(state, scope, content) for state in self._older)


def _continued(state: HashState, scope: bytes, content: bytes) -> bytes:
    copy = state.copy()
    copy.update(scope)
    copy.update(content)
    return copy.digest()


def _own(params: dict[str, Any]) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for name, value in params.items():
        try:
            own[name] = json.loads(keys.canonical_json(value))
        except (TypeError, ValueError, RecursionError):
            raise InvalidRequest(
                f"The parameter {name}= is no JSON: it takes str, int, finite float, bool, None, "
                "and lists and dicts with string keys of them, in UTF-8."
            ) from None
    return own


class Plans:
    """The plans of one runtime, whose keys are made with these seals."""

    def __init__(self, seals: tuple[Seal, ...] = (NO_SEAL,)) -> None:
        self._seals = seals
        self._lock = threading.Lock()
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self._types: OrderedDict[Hashable, ResponseType] = OrderedDict()
        self._kinds: dict[str, tuple[str, str]] = {}
        self._told: set[frozenset[tuple[str, str]]] = set()
        self._size = 0

    def get(
        self,
        annotation: Any,
        provider: Provider,
        model: str,
        system: str | None,
        kind: str | None,
        version_of: Callable[[str], str],
        params: dict[str, Any],
    ) -> Plan:
        """Return the plan for these, compiled at the first call; ``version_of`` tells what stands for a kind's version.

        Raises ``UnsupportedType`` for a type that cannot be used, ``InvalidRequest`` for a parameter that is no JSON.
        """
        response = self.response(annotation)
        lookup = (id(response), provider.alias, model, system, kind, _params_key(params))
        plan = self._plans.get(lookup)
        if plan is None or plan.response is not response:
            named = kind or default_kind(response)
            plan = Plan(response, provider, model, system, named, version_of(named), params, self._seals)
            self._warn_of_shared_kind(plan)
            self._tell_of_fallback(response)
            self._keep(lookup, plan)
        return plan

    def _keep(self, lookup: Hashable, plan: Plan) -> None:
        with self._lock:
            replaced = self._plans.get(lookup)
            self._plans[lookup] = plan
            self._size += plan.size - (0 if replaced is None else replaced.size)
            while len(self._plans) > MAX_PLANS or (self._size > MAX_PLANS_BYTES and len(self._plans) > 1):
                self._size -= self._plans.popitem(last=False)[1].size

    def reset_after_fork(self) -> None:
        """Take a new lock: the old one may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()

    def response(self, annotation: Any) -> ResponseType:
        """Return a response type made ready, made at the first call; raises ``UnsupportedType``."""
        lookup = structure(annotation)
        response = self._types.get(lookup)
        if response is None or not response.current():
            response = response_type(annotation)
            with self._lock:
                self._types[lookup] = response
                while len(self._types) > MAX_PLANS:
                    self._types.popitem(last=False)
        return response

    def _tell_of_fallback(self, response: ResponseType) -> None:
        # By what is sent: an annotation that is written where it is used is another object each time.
        sent = frozenset({(response.name, response.fingerprint)})
        if not response.schema.strict and sent not in self._told and len(self._told) < MAX_PLANS:
            self._told.add(sent)
            logger.info(
                "The response type %s is asked for without strict mode: %s.",
                *(response.name, response.schema.fallback_reason),
            )

    def _warn_of_shared_kind(self, plan: Plan) -> None:
        here = (plan.response.module, plan.response.name)
        there = self._kinds.setdefault(plan.kind, here) if len(self._kinds) < MAX_PLANS else here
        pair = frozenset((there, here))
        if there != here and there[1] == here[1] and pair not in self._told and len(self._told) < MAX_PLANS:
            self._told.add(pair)
            logger.warning(
                "The response types %s.%s and %s.%s share the kind %r: settings and reports take them for one. "
                "Pass kind= to tell them apart.",
                *there,
                *here,
                plan.kind,
            )


def _params_key(params: dict[str, Any]) -> Hashable:
    if not params:
        return None
    types: tuple[type[object], ...] = tuple(map(type, params.values()))
    if all(kind in (str, int, float, bool, type(None)) for kind in types):
        # 1, 1.0 and True are one key of a dict, and so are 0.0 and -0.0: tagged, they are not.
        values = (repr(value) if type(value) is float else value for value in params.values())
        return (*params, *types, *values)
    try:
        return keys.canonical_json(params)
    except (TypeError, ValueError, RecursionError):
        return object()  # equal to nothing: compiling the plan says what is wrong


def default_kind(response: ResponseType) -> str:
    """Return the kind of a type when the caller names none: its name, shortened with a hash when it is long."""
    name = response.name
    if len(name) <= MAX_KIND:
        return name
    return f"{name[: MAX_KIND - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
