"""From the times of a run to its figures, its table and its page in the documentation. Nothing here measures."""

import re
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, Final

from benchmarks.peers.roster import GROUPS, Entrant, floor_of
from benchmarks.timing import ratio

Results = dict[str, Any]

GUIDES_CALL_MS: Final = 104.0
"""The call that the caching guide begins with, and what it says functools.cache gains."""
GUIDES_CLAIM: Final = 207_636

TIMES: Final = "\N{MULTIPLICATION SIGN}"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


def figures(times: Mapping[str, Mapping[str, list[float]]], entrant: Entrant) -> dict[str, Any]:
    """Return, by case, the median of an entrant's rounds and the median of their ratios to the floor's.

    `times` has, by entrant and case, a figure for each round. The ratio is None where the floor did not run.
    """
    floor = floor_of(entrant.group).name
    found: dict[str, Any] = {}
    for case, rounds in times[entrant.name].items():
        of_case = {name: by_case[case] for name, by_case in times.items() if case in by_case}
        beside = ratio(of_case, entrant.name, floor) if floor in of_case else None
        found[case] = {"us": statistics.median(rounds), "ratio": beside, "rounds": rounds}
    return found


def number(value: float) -> str:
    """Return a figure with about three digits, and small ones with what they have."""
    if value < 0.01:
        return f"{value:.1g}"
    if value >= 1_000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rows_of(results: Results, group: str) -> list[Results]:
    """Return the rows of a group: its floor, then the others from fast to slow."""
    rows = [row for row in results["rows"] if row["group"] == group]
    return sorted(rows, key=lambda row: (not row["floor"], row["small"]["us"]))


def _groups(results: Results) -> list[tuple[str, str]]:
    return [(group, title) for group, title in GROUPS.items() if rows_of(results, group)]


def text(results: Results) -> Iterator[str]:
    """Yield the lines of the report for a terminal."""
    yield about(results)
    width = max((len(row["title"]) for row in results["rows"]), default=0)
    for group, title in _groups(results):
        yield f"\n{title:<{width + 2}}  {'small':>10}   {'x floor':>8}  {'large':>10}   {'x floor':>8}  object"
        for row in rows_of(results, group):
            cells = "  ".join(f"{number(row[case]['us']):>7} µs  {_times(row[case]):>9}" for case in ("small", "large"))
            yield f"  {row['title']:<{width}}  {cells}  {_object(row)}"
    yield ""
    yield from (f"not run: {each['title']} ({GROUPS[each['group']]}): {each['reason']}" for each in results["missing"])
    yield from versions(results)


def markdown(results: Results) -> str:
    """Return the part of the documentation that a run writes."""
    lines = [BEGIN, f"{about(results)}", ""]
    for group, title in _groups(results):
        lines += [f"| {title} | small | {TIMES} floor | large | {TIMES} floor | object |", "|---|---|---|---|---|---|"]
        for row in rows_of(results, group):
            cells = [f"{number(row[case]['us'])} µs | {_times(row[case])}" for case in ("small", "large")]
            name = f"**{row['title']}**" if row["title"].startswith("llmcache") else row["title"]
            lines.append(f"| {name} | {' | '.join(cells)} | {_object(row)} |")
        lines.append("")
    lines += [f"Not run: {_names(each)}: {each['reason']}." for each in results["missing"]]
    lines += [*([""] if results["missing"] else []), *guide(results), ""]
    lines += [f"- {line}" for line in versions(results)]
    return "\n".join([*lines, END])


def about(results: Results) -> str:
    """Return one sentence on the run."""
    machine, kind = results["machine"], "A SHORT RUN, to show that it works: " if results["short"] else ""
    pinned = "workers and Redis on one core" if machine["pinned"] else "on any core"
    cores = f"{machine['cores']} cores ({machine['cpu']})"
    return f"{kind}{results['rounds']} rounds in random order, medians, {cores}, {pinned}, {results['made']}."


def guide(results: Results) -> list[str]:
    """Return what the caching guide claims for its first recipe, beside what the same call would gain here."""
    by_name = {row["name"]: row["small"]["us"] for row in results["rows"]}
    gains = [("functools.lru_cache", "guide.lru_cache"), ("llmcache", "ours.memory"), ("the floor", "floors.memory")]
    said = ", ".join(f"{name} {_gain(by_name[key])}" for name, key in gains if key in by_name)
    call = f"The guide's call of {GUIDES_CALL_MS:.0f} ms, for which it claims {GUIDES_CLAIM:,} {TIMES}"
    return [f"{call}, beside a hit of this run: {said}."] if said else []


def versions(results: Results) -> list[str]:
    """Return a line for each environment."""
    lines = [f"Redis {results['redis']}, hiredis in every client."]
    for name, packages in results["versions"].items():
        told = ", ".join(f"{package} {version or 'none'}" for package, version in packages.items())
        lines.append(f"{name or 'llmcache'}: {told}.")
    return lines


def put_into(page: str, results: Results) -> str:
    """Return a page with the part between the marks made anew. ValueError when it has no such part."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"The page has no part between {BEGIN} and {END}.")
    made = markdown(results)
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, page, count=1, flags=re.DOTALL)


def _gain(us: float) -> str:
    return f"{float(f'{GUIDES_CALL_MS * 1_000 / us:.3g}'):,.0f} {TIMES}"


def _times(cell: Mapping[str, Any]) -> str:
    return "-" if cell["ratio"] is None else f"{number(cell['ratio'])} {TIMES}"


def _object(row: Mapping[str, Any]) -> str:
    said = "one, shared" if row["shared"] else "fresh"
    if row["commands"] is not None:
        said += f"; {row['commands']:g} command{'' if row['commands'] == 1 else 's'}"
    return f"{said}; {row['hit_requests']} requests" if row["hit_requests"] else said


def _names(missing: Mapping[str, Any]) -> str:
    return f"{missing['title']} ({GROUPS[missing['group']].lower()})"
