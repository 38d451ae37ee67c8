"""Draw a run's figures: ``python -m benchmarks.peers.plot results.json folder`` writes ``peers.png`` and ``peers.svg``.

Runs in an environment of its own that has matplotlib. One line for each entrant on one logarithmic scale: the filled
point is the small call, the ring the large one, and the thin lines through a group are its floor.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.peers.figures import TIMES, Results, about, number, rows_of
from benchmarks.peers.roster import GROUPS

INK, QUIET, FAINT, HAIR, PAPER = "#17202b", "#5d6875", "#98a2ae", "#e6e9ee", "#ffffff"
OURS, SHARED, OTHERS = "#0a7f6f", "#c77700", "#7d8896"

_ROW_INCHES: Final = 0.275
_GROUP_ROWS: Final = 2.3
"""What a group's heading takes, in rows."""
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 11.0, 3.35, 2.15, 1.75, 1.15
"""Inches: the picture, and what lies round the scale."""
_MARGIN: Final = 0.45
_TICKS: Final = {0.1: "0.1 µs", 1: "1 µs", 10: "10 µs", 100: "100 µs", 1_000: "1 ms", 10_000: "10 ms"}


def main() -> None:
    """Draw what the arguments name."""
    results, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    plt.rcParams.update(
        {
            "font.family": ["Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
            "font.size": 9.5,
            "svg.hashsalt": "peers",
            "svg.fonttype": "path",
        }
    )
    figure = draw(results)
    for name, more in (("peers.png", {"dpi": 200}), ("peers.svg", {"metadata": {"Date": None}})):
        figure.savefig(folder / name, facecolor=PAPER, **more)  # type: ignore[arg-type]
    drawn = folder / "peers.svg"
    drawn.write_text("\n".join(line.rstrip() for line in drawn.read_text().splitlines()) + "\n")


def draw(results: Results) -> Any:
    """Return the figure."""
    groups = [(title, rows) for group, title in GROUPS.items() if (rows := rows_of(results, group))]
    height = sum(len(rows) + _GROUP_ROWS for _, rows in groups)
    inches = height * _ROW_INCHES + _TOP + _BOTTOM
    figure = plt.figure(figsize=(_WIDTH, inches))
    box = (_LEFT / _WIDTH, _BOTTOM / inches, (_WIDTH - _LEFT - _RIGHT) / _WIDTH, height * _ROW_INCHES / inches)
    axes = figure.add_axes(box)
    _scale(axes, results, height)
    at = 0.0
    for title, rows in groups:
        at = _group(axes, title, rows, at)
    _heading(figure, results, inches)
    return figure


def _scale(axes: Axes, results: Results, height: float) -> None:
    found = [row[case]["us"] for row in results["rows"] for case in ("small", "large")]
    axes.set_xscale("log")
    axes.set_xlim(min(found) / 1.7, max(found) * 1.5)
    axes.set_ylim(height, 0)
    ticks = [tick for tick in _TICKS if min(found) / 1.7 <= tick <= max(found) * 1.5]
    axes.set_xticks(ticks, [_TICKS[tick] for tick in ticks], color=QUIET)
    axes.set_yticks([])
    axes.minorticks_off()
    axes.tick_params(length=0, pad=7, labeltop=True)
    axes.grid(axis="x", color=HAIR, linewidth=0.9)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _group(axes: Axes, title: str, rows: list[Results], top: float) -> float:
    """Draw a group from a height on; return where the next begins."""
    left, right = -_LEFT + _MARGIN, _WIDTH - _LEFT - _RIGHT
    _write(axes, left, top + 1.2, title, color=INK, fontsize=11.5, fontweight="bold")
    for x, name in ((right + 0.95, "small"), (right + 1.7, "large")):
        _write(axes, x, top + 1.2, name, color=FAINT, fontsize=8.5, ha="right")
    first = top + _GROUP_ROWS
    for case in ("small", "large"):
        floor = rows[0][case]["us"] if rows[0]["floor"] else None
        if floor is not None:
            axes.plot([floor, floor], [first, first + len(rows) - 0.6], color=FAINT, linewidth=0.9, zorder=1)
    for place, row in enumerate(rows):
        _row(axes, row, first + place, left, right)
    return first + len(rows)


def _row(axes: Axes, row: Results, y: float, left: float, right: float) -> None:
    ours = row["title"].startswith("llmcache")
    color = INK if row["floor"] else OURS if ours else SHARED if row["shared"] else OTHERS
    weight = "bold" if ours else "normal"
    name = row["title"].replace("model_validate_json", "validate") if row["floor"] else row["title"]
    _write(axes, left, y, name, color=OURS if ours else INK if not row["floor"] else QUIET, fontweight=weight)
    small, large = row["small"]["us"], row["large"]["us"]
    axes.plot([small, large], [y, y], color=color, linewidth=1.6, alpha=0.35, solid_capstyle="butt", zorder=2)
    axes.plot(small, y, "o", color=color, markersize=7, markeredgewidth=0, zorder=4)
    axes.plot(large, y, "o", color=PAPER, markersize=7, markeredgecolor=color, markeredgewidth=1.7, zorder=3)
    for x, case in ((right + 0.95, "small"), (right + 1.7, "large")):
        beside = row[case]["ratio"]
        told = "floor" if row["floor"] else "" if beside is None else f"{number(beside)} {TIMES}"
        _write(axes, x, y, told, color=FAINT if row["floor"] else color, ha="right", fontweight=weight)


def _write(axes: Axes, inches: float, y: float, words: str, *, ha: str = "left", **how: Any) -> None:
    """Write at a distance from the scale's left edge, in the row's height."""
    width = (_WIDTH - _LEFT - _RIGHT) or 1.0
    axes.text(inches / width, y, words, transform=axes.get_yaxis_transform(), ha=ha, va="center", **how)


def _heading(figure: Any, results: Results, inches: float) -> None:
    def line(x: float, from_top: float, words: str, **how: Any) -> Any:
        return figure.text(x / _WIDTH, 1 - from_top / inches, words, va="center", **how)

    line(_MARGIN, 0.5, "What a hit costs", fontsize=19, fontweight="bold", color=INK)
    told = "The second answer to the same call, as an object of the type that was asked for, and the least it can cost"
    line(_MARGIN, 0.87, told, fontsize=10.5, color=QUIET)
    marks = (
        (OURS, True, "llmcache"),
        (OTHERS, True, "others: a fresh object each time"),
        (SHARED, True, "others: one object, shared by all callers"),
        (QUIET, True, "small call"),
        (QUIET, False, "large call"),
    )
    x = _MARGIN + 0.05
    for color, filled, words in marks:
        mark = Line2D([x / _WIDTH], [1 - 1.25 / inches], marker="o", linestyle="", transform=figure.transFigure)
        mark.set(color=color, markersize=7, markeredgewidth=0 if filled else 1.7)
        mark.set_markerfacecolor(color if filled else PAPER)
        figure.add_artist(mark)
        written = line(x + 0.13, 1.25, words, color=INK)
        x += 0.13 + written.get_window_extent().width / figure.dpi + 0.32
    line(_WIDTH - _MARGIN, 1.25, "times the floor", fontsize=8.5, color=FAINT, ha="right")
    scale = "Microseconds a hit on a logarithmic scale. Small: 60 bytes of text, 35 of answer; large: 8 KB and 10 KB. "
    scale += "Thin lines: the floor of a group."
    for at, foot in ((0.55, scale), (0.32, about(results))):
        line(_MARGIN, inches - at, foot, fontsize=8.5, color=QUIET)


if __name__ == "__main__":
    main()
