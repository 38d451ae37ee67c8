"""JSON of strangers: read by the letter of its standard, and refused in words that hold nothing of it."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from django.views.decorators.debug import sensitive_variables

from llmcache.exceptions import InvalidRequest


@sensitive_variables()
def load(text: str) -> Any:
    """Return what a JSON text says.

    Raises ``InvalidRequest``, whose words go on from the name of a place ("is no JSON", "has a number …"), for what is
    none, or is read differently by different readers: a name twice in an object, ``NaN``, a number above all floats.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"is no JSON: {error.msg} at character {error.colno}.") from None
    except RecursionError:
        raise InvalidRequest("is nested too deeply.") from None
    except InvalidRequest:
        raise
    except ValueError:
        raise InvalidRequest("has a number of too many digits.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidRequest("has the same name twice in one object.")
    return found


def _constant(name: str) -> NoReturn:
    raise InvalidRequest(f"has {name}, which is no JSON.")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidRequest("has a number that is too large.")
    return number
