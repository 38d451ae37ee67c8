"""The picture of a report: each time as a share of what it may be."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

_WIDTH, _LEFT, _TOP, _RIGHT, _ROW = 960, 400, 76, 150, 26
_MOST: Final = 2.0
"""The share at the right end; what is beyond it is drawn there."""
_KEPT, _MISSED, _INK, _QUIET, _HAIR, _PAPER = "#0a7f6f", "#96151d", "#17202b", "#5d6875", "#e6e9ee", "#ffffff"
_FONTS: Final = "Inter, Helvetica Neue, Arial, DejaVu Sans, sans-serif"


def drawn(report: Mapping[str, Any]) -> str:
    """Return a report's times as SVG: a row of strokes for each figure, one stroke for each time."""
    figures = [figure for part in report.values() for figure in part["figures"] if figure["is_time"] and figure["each"]]
    height = _TOP + _ROW * len(figures) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="{_FONTS}" role="img">',
        f'<rect width="{_WIDTH}" height="{height}" fill="{_PAPER}"/>',
        _text(20, 28, "One provider call, however many ask: how long it takes", _INK, size=17),
        _text(20, 48, "Each time as a share of what it may be; the dashed line is all of it", _QUIET),
    ]
    for share in (0.0, 0.5, 1.0, 1.5, 2.0):
        dashed = ' stroke-dasharray="4 4"' if share == 1 else ""
        colour = _INK if share == 1 else _HAIR
        parts.append(f'<path d="M{_x(share):.1f} {_TOP - 8}V{height - 34}" stroke="{colour}"{dashed} fill="none"/>')
        parts.append(_text(_x(share), height - 14, f"{share:.0%}", _QUIET, anchor="middle"))
    for place, figure in enumerate(figures):
        parts += _row(figure, _TOP + _ROW * place + 10)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(figure: dict[str, Any], at: int) -> list[str]:
    colour = _KEPT if figure["kept"] else _MISSED
    # Of many times, as many as can be told apart.
    each = figure["each"][:: max(1, len(figure["each"]) // 400)] + figure["each"][-1:]
    strokes = "".join(f"M{_x(seconds / figure['bound']):.1f} {at - 7}v14" for seconds in each)
    return [
        _text(_LEFT - 14, at + 4, figure["what"], _INK, anchor="end", size=12),
        f'<path d="{strokes}" stroke="{colour}" stroke-opacity="0.5" fill="none"/>',
        _text(_WIDTH - _RIGHT + 14, at + 4, figure["found"].split(" ms")[0] + " ms", colour, size=12),
    ]


def _x(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(share, 0.0), _MOST) / _MOST


def _text(x: float, y: float, words: str, colour: str, *, anchor: str = "start", size: int = 13) -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {at}>{escape(words)}</text>"
