"""One thing to warm: a text, and what else a call with it would pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeAlias, cast

from django.utils.functional import Promise
from django.views.decorators.debug import sensitive_variables

from llmcache import keys, request
from llmcache.content.parts import File, Image
from llmcache.exceptions import InvalidRequest, InvalidText, UnsupportedType
from llmcache.setting_values import nearest

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"


@dataclass(frozen=True, slots=True)
class WarmingText:
    """One thing to warm; what is None holds for none, or is what the run says."""

    content: str = field(repr=False)
    system: str | None = field(default=None, repr=False)
    tenant: str | None = None
    subject: str | None = field(default=None, repr=False)
    tags: tuple[str, ...] = ()
    version: str | None = None
    variant: str | int | None = None
    params: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Sent to the provider as they are, and in the key."""
    anew: bool = False
    """Whether it is asked though there is an answer, unless that was made since the run was."""


_NAMES: Final = tuple(each.name for each in fields(WarmingText))
_DEFAULTS: Final = {
    each.name: each.default_factory() if each.default_factory is not MISSING else each.default
    for each in fields(WarmingText)
}


@sensitive_variables()
def text_of(value: object) -> WarmingText:
    """Return what a str, a mapping with the names of ``WarmingText``, or one itself, means.

    Raises ``InvalidRequest`` that names what is wrong, and never the text.
    """
    if isinstance(value, WarmingText):
        return value
    if isinstance(value, (str, Promise)):
        return WarmingText(_content(value))
    if not isinstance(value, Mapping):
        raise InvalidRequest(
            f"An item must be a text, or a dict with 'content' and any of {', '.join(map(repr, _NAMES[1:]))}; "
            f"got a {type(value).__name__}."
        )
    given = cast("Mapping[Any, Any]", value)
    for name in given:
        if name not in _NAMES:
            raise InvalidRequest(f"An item has the unknown name {str(name)[:100]!r}{nearest(str(name), list(_NAMES))}.")
    if "content" not in given:
        raise InvalidRequest("An item has no 'content': there is nothing to extract from.")
    return _checked(given)


@sensitive_variables()
def _checked(given: Mapping[str, Any]) -> WarmingText:
    told = {name: item for name, item in given.items() if item is not None}
    found: dict[str, Any] = {"content": _content(told.get("content"))}
    for name in ("tenant", "subject", "version"):
        if name in told:
            found[name] = request.word(name, told[name])
    if "system" in told:
        found["system"] = request.system_text(told["system"])
    if "tags" in told:
        found["tags"] = request.tag_names(told["tags"])
    if "variant" in told:
        request.scope(None, None, (), None, told["variant"])
        found["variant"] = told["variant"]
    if "params" in told:
        found["params"] = _params(told["params"])
    if "anew" in told:
        if type(told["anew"]) is not bool:
            raise InvalidRequest("anew= must be True or False.")
        found["anew"] = told["anew"]
    return WarmingText(**found)


@sensitive_variables()
def _content(value: object) -> str:
    if isinstance(value, (list, tuple, Image, File)):
        raise UnsupportedType(
            "content= must be a text: what has several parts or messages is not warmed. Ask for it with extract()."
        )
    text = request.plain_text(value)
    if not text:
        raise InvalidText("content= is empty: there is nothing to extract from.")
    return text


@sensitive_variables()
def _params(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"params= must be a dict; got a {type(value).__name__}.")
    params = dict(cast("Mapping[str, Any]", value))
    try:
        keys.canonical_json(params)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("params= is no JSON: it takes what JSON has, under names that are str.") from None
    return params


@sensitive_variables()
def packed(text: WarmingText) -> str:
    """Return a text as a row keeps it."""
    told = {name: getattr(text, name) for name in _NAMES}
    return json.dumps(
        {name: value for name, value in told.items() if value != _DEFAULTS[name]},
        ensure_ascii=False,
        separators=(",", ":"),
    )


@sensitive_variables()
def unpacked(row: str) -> WarmingText:
    """Return the text that a row keeps."""
    return text_of(json.loads(row))
