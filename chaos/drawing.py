"""The picture of a report: after how long an invalidation was known to all readers."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 900, 420, 60, 64, 290, 56
_COLOURS: Final = ("#0a7f6f", "#c77700", "#3457a6", "#8a4fae", "#96151d", "#5d6875")
_FONTS: Final = "Inter, Helvetica Neue, Arial, DejaVu Sans, sans-serif"
_INK, _QUIET, _HAIR, _PAPER = "#17202b", "#5d6875", "#e6e9ee", "#ffffff"


def drawn(report: Mapping[str, Any]) -> str:
    """Return a report as SVG: of each part a line that rises with the share of invalidations that all readers knew."""
    arms = [found for found in report.values() if found.get("bound") is not None]
    bounds = sorted({found["bound"] for found in arms if found["bound"]})
    most = max([1.0, *bounds, *(found["worst"] for found in arms)]) * 1.05
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="{_FONTS}" role="img">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="{_PAPER}"/>',
        _text(_LEFT, 28, "After how long an invalidation is known to all readers", _INK, size=17),
        _text(
            _LEFT, 48, "Share of invalidations; seconds from the commit to the last read that did not know it", _QUIET
        ),
        *_scale(most),
    ]
    for bound in bounds:
        at = _x(bound, most)
        parts.append(f'<path d="M{at:.1f} {_TOP}V{_y(0):.1f}" stroke="{_INK}" stroke-dasharray="4 4" fill="none"/>')
        parts.append(_text(at - 6, _y(0) - 8, f"promised: {bound:g} s", _INK, anchor="end"))
    for place, found in enumerate(arms):
        colour = _COLOURS[place % len(_COLOURS)]
        parts.append(f'<path d="{_steps(found["each"], most)}" stroke="{colour}" stroke-width="2" fill="none"/>')
        at = _TOP + 14 + 42 * place
        parts.append(f'<path d="M{_WIDTH - _RIGHT + 20} {at - 4}h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(_WIDTH - _RIGHT + 46, at, found["title"], _INK))
        worst = f"worst {found['worst']:.2f} s of {found['invalidations']:,}"
        parts.append(_text(_WIDTH - _RIGHT + 46, at + 16, worst, _QUIET))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _scale(most: float) -> list[str]:
    found: list[str] = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = _y(share)
        found.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="{_HAIR}" fill="none"/>')
        found.append(_text(_LEFT - 8, at + 4, f"{share:.0%}", _QUIET, anchor="end"))
    step = next(each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 600) if most / each <= 8)
    ticks = [number * step for number in range(int(most / step) + 1)]
    return found + [_text(_x(tick, most), _y(0) + 20, f"{tick:g} s", _QUIET, anchor="middle") for tick in ticks]


def _steps(each: list[float], most: float) -> str:
    path, count = f"M{_x(0, most):.1f} {_y(0):.1f}", len(each)
    for place, seconds in enumerate(each, 1):
        path += f"H{_x(seconds, most):.1f}V{_y(place / count):.1f}"
    return f"{path}H{_x(most, most):.1f}"


def _x(seconds: float, most: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / most


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share


def _text(x: float, y: float, words: str, colour: str, *, anchor: str = "start", size: int = 13) -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {at}>{escape(words)}</text>"
