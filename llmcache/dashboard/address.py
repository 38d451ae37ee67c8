"""The dashboard's address: what is looked at is all in it, so that it can be kept and sent."""

from __future__ import annotations

from urllib.parse import urlencode

from llmcache.money.periods import Period


def parameters(period: Period, kind: str | None) -> dict[str, str]:
    """Return the parameters that name a period and a kind."""
    return {**period.query(), **({"kind": kind} if kind else {})}


def address(period: Period, kind: str | None) -> str:
    """Return the link to a period and a kind, from the page itself."""
    return "?" + urlencode(parameters(period, kind))
