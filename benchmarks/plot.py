"""Curves as an SVG file, with the standard library alone, for any data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 640, 360  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 48
_COLOURS = ("#b8c4d6", "#1f4e9e", "#c2410c", "#15803d")
_NUM_TICKS = 6


def draw_curves(
    path: Path, curves: Mapping[str, Points], *, title: str, x_label: str, y_label: str
) -> None:
    """Writes a chart.

    Args:
      path: of the .svg file.
      curves: names to points, drawn in their order; at most four.
      title: above the chart.
      x_label: below it.
      y_label: at its side.
    """
    assert 0 < len(curves) <= len(_COLOURS)
    points = [point for each in curves.values() for point in each]
    x_ticks = _ticks([x for x, _ in points])
    y_ticks = _ticks([y for _, y in points])
    to_x = _scale(x_ticks, _LEFT, _WIDTH - _RIGHT)
    to_y = _scale(y_ticks, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_WIDTH / 2, 20, title, size=14),
        _text(_WIDTH / 2, _HEIGHT - 10, x_label),
        _text(14, _HEIGHT / 2, y_label, turned=True),
    ]
    for x in x_ticks:
        parts.append(_text(to_x(x), _HEIGHT - _BOTTOM + 16, f"{x:g}"))
    for y in y_ticks:
        parts.append(_line([(_LEFT, to_y(y)), (_WIDTH - _RIGHT, to_y(y))], "#e5e7eb", 1))
        parts.append(_text(_LEFT - 6, to_y(y) + 4, f"{y:g}", anchor="end"))
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number]
        parts.append(_line([(to_x(x), to_y(y)) for x, y in curve], colour, 1 + number))
        at = _TOP + 16 + 18 * number
        parts.append(_line([(_WIDTH - 190, at - 4), (_WIDTH - 170, at - 4)], colour, 3))
        parts.append(_text(_WIDTH - 164, at, name, anchor="start"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers from below the least value to above the greatest."""
    low, high = min(values), max(values)
    rough = (high - low) / _NUM_TICKS or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _scale(ticks: Sequence[float], begin: float, end: float) -> Callable[[float], float]:
    """From a value to its pixel."""
    low, high = ticks[0], ticks[-1]
    return lambda value: begin + (value - low) / (high - low) * (end - begin)


def _line(points: Points, colour: str, width: float) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle", turned: bool = False
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{turn}>'
        f"{escape(text)}</text>"
    )
