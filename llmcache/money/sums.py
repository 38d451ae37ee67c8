"""Sums by the hour, and by tenant and day: what rows of attempts and counts of calls add to them."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from django.db.models import BigIntegerField, F, Value
from django.db.models.functions import Least

from llmcache.engine.counts import hour_of
from llmcache.models import ProviderCall, TenantDay, UsageBucket
from llmcache.money.facts import MAX_SUM, stored_time, unix_of

LATENCY_PLACES: Final = 24
"""Of ``UsageBucket.latencies``: the last one takes all above two hours."""

_DAY: Final = 86_400


class HourKey(NamedTuple):
    """What the sums of an hour have in common."""

    hour: int
    """Seconds since the epoch at which it began."""
    kind: str
    model: str
    tier: str
    outcome: str
    simulated: bool


class DayKey(NamedTuple):
    """What the sums of a tenant's day have in common."""

    day: int
    """Of the epoch, by UTC."""
    tenant: str
    outcome: str
    simulated: bool


class Gained:
    """What is to be added to the sums, by hour and by tenant and day."""

    def __init__(self) -> None:
        self.hours: defaultdict[HourKey, Counter[str]] = defaultdict(Counter)
        self.days: defaultdict[DayKey, Counter[str]] = defaultdict(Counter)
        self.latencies: defaultdict[HourKey, Counter[int]] = defaultdict(Counter)

    def add(self, row: ProviderCall, sign: int) -> None:
        """Add what a row says, or take it away; of an attempt that is under way there is nothing to say yet."""
        if row.outcome == ProviderCall.Outcome.UNDER_WAY:
            return
        sums = Counter({"attempts": sign})
        if row.outcome == ProviderCall.Outcome.IN_DOUBT:
            sums["in_doubt"] = sign
            if row.bound_pico_usd is None:
                sums["in_doubt_unbounded"] = sign
            else:
                sums["in_doubt_pico_usd"] = sign * row.bound_pico_usd
        elif row.cost_pico_usd is None:
            sums["unpriced"] = sign
        else:
            sums["spent_pico_usd"] = sign * row.cost_pico_usd
        outcome = row.ahead or ("miss" if row.to_store else "bypass")
        key = HourKey(hour_of(unix_of(row.started_at)), row.kind, row.model, "", outcome, row.simulated)
        self.gain(key, row.tenant, sums)
        if row.latency_ms is not None:
            self.latencies[key][min(row.latency_ms.bit_length(), LATENCY_PLACES - 1)] += sign

    def gain(self, key: HourKey, tenant: str, sums: Counter[str]) -> None:
        """Add sums to an hour and to its tenant's day."""
        self.hours[key].update(sums)
        self.days[DayKey(key.hour // _DAY, tenant, key.outcome, key.simulated)].update(sums)

    def merge(self, other: Gained) -> None:
        """Add what another one gained."""
        for key, sums in other.hours.items():
            self.hours[key].update(sums)
        for day, sums in other.days.items():
            self.days[day].update(sums)
        for key, places in other.latencies.items():
            self.latencies[key].update(places)

    def write(self, using: str) -> None:
        """Add it all to the tables, in one order for all processes."""
        for key in sorted(self.hours):
            found = {**key._asdict(), "hour": stored_time(key.hour)}
            _add(UsageBucket, found, self.hours[key], using)
            _add_latencies(found, self.latencies[key], using)
        for day in sorted(self.days):
            found = {**day._asdict(), "day": datetime.fromtimestamp(day.day * _DAY, UTC).date()}
            _add(TenantDay, found, self.days[day], using)


def _add(model: type[UsageBucket | TenantDay], key: dict[str, Any], sums: Counter[str], using: str) -> None:
    gained = {name: _plus(name, value) for name, value in sums.items() if value}
    table: Any = model._default_manager.using(using)
    rows = table.filter(**key)
    if gained and not rows.update(**gained):
        table.bulk_create([model(**key)], ignore_conflicts=True)
        rows.update(**gained)


def _plus(name: str, value: int) -> Any:
    """Return a column's value with another added, which is ``MAX_SUM`` at most.

    What does not fit is hostile, and must not keep all else from being written.
    """
    value = min(value, MAX_SUM)
    return Least(F(name), Value(MAX_SUM - value), output_field=BigIntegerField()) + value


def _add_latencies(key: dict[str, Any], gained: Counter[int], using: str) -> None:
    if not any(gained.values()):
        return
    for bucket in UsageBucket.objects.using(using).select_for_update().filter(**key):
        places = [*bucket.latencies, *[0] * (LATENCY_PLACES - len(bucket.latencies))]
        for place, count in gained.items():
            places[place] += count
        bucket.latencies = places
        bucket.save(using=using, update_fields=["latencies"])
