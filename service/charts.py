"""What pictures of figures have in common: scales, frames, a style. All are SVG with nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

MEDIA_TYPE = "image/svg+xml"
# Names of models and classes stand in pictures and pages: nothing in them may run, or load anything from elsewhere.
SAFE = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "x-content-type-options": "nosniff"}
TICKS = 5
NO_CHARACTERS = dict.fromkeys((0xFFFE, 0xFFFF), 0xFFFD)
ROOM = 0.12
GREEN, GREY, RED = "#0b6e4f", "#9aa3ab", "#a3212f"
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333; paint-order: stroke; stroke: #fff; stroke-width: 3px }
.title { font-size: 15px; font-weight: 600 } .small { fill: #666 }
.axis, .grid { stroke: #ccc; stroke-width: 1 } .grid { stroke: #eee }
"""


class Scale:
    """From a value to a pixel, with some room at both ends."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, room: float = ROOM) -> None:
        low, high = min(values), max(values)
        margin = (high - low) * room if high > low else max(abs(high) * 0.1, 1e-3)
        self.low, self.high, self._start, self._end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        return self._start + (value - self.low) / (self.high - self.low) * (self._end - self._start)

    def ticks(self, *, least: float = 0.0) -> list[float]:
        """Round values within, about `TICKS` of them, no closer than `least`."""
        raw = max((self.high - self.low) / TICKS, least)
        power = 10 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def frame(inner: str, *, title: str, note: str, size: tuple[int, int], style: str = "") -> str:
    """A whole picture: a title and a note above what is drawn."""
    width, height = size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><style>{STYLE}{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="title" x="20" y="24">{escaped(title)}</text>'
        f'<text class="small" x="20" y="42">{escaped(note)}</text>'
        f"{inner}</svg>"
    )


def escaped(name: str) -> str:
    """A name within a picture: markup is told as it is, and what XML may not hold is replaced."""
    return escape(name.translate(NO_CHARACTERS))


def shortened(name: str, letters: int) -> str:
    """A name of at most so many letters."""
    return name if len(name) <= letters else name[: letters - 1] + "…"
