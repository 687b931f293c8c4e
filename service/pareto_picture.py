"""The picture of a family: accuracy against latency, the area of a mark growing with the bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from service.charts import GREEN, GREY, Scale, escaped, frame, shortened
from service.pareto import Contestant

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 54, 60
LEAST_RADIUS, MOST_RADIUS = 5.0, 20.0
LONGEST = 26
# Of a name: about the width of a letter, and from one line to the next.
LETTER, LINE = 7.0, 15.0
STYLE = f"""
.front {{ fill: {GREEN}; fill-opacity: .75 }} .other {{ fill: {GREY}; fill-opacity: .6 }}
.line {{ fill: none; stroke: {GREEN}; stroke-width: 1.5; stroke-dasharray: 5 4 }}
.lead {{ stroke: #bbb; stroke-width: 1 }}
"""


def picture(items: Sequence[Contestant], front: Sequence[str]) -> str:
    """An SVG without anything from elsewhere."""
    shown = sorted((item for item in items if item.latency_ms is not None), key=lambda item: -item.bytes)
    if not shown:
        return _frame('<text x="20" y="60">None of these models has been timed.</text>')
    across = Scale([item.latency_ms or 0.0 for item in shown], LEFT, WIDTH - RIGHT)
    up = Scale([100 * item.test_accuracy for item in shown], HEIGHT - BOTTOM, TOP)
    largest = max(item.bytes for item in shown)
    best = sorted((item for item in shown if item.model in front), key=lambda item: item.latency_ms or 0.0)
    parts = [_axes(across, up), _line(best, across, up)]
    labels = _Labels()
    for item in shown:
        x, y = across(item.latency_ms or 0.0), up(100 * item.test_accuracy)
        labels.keep_clear(x - LEAST_RADIUS, x + LEAST_RADIUS, y + 4)
    marks = [_mark(item, across, up, largest, labels, chosen=item.model in front) for item in shown]
    # Names stand above all marks.
    parts += [circle for circle, _ in marks] + [name for _, name in marks]
    return _frame("".join(parts))


def _frame(inner: str) -> str:
    note = "Larger marks take more bytes; green ones are beaten by no other."
    return frame(inner, title="Accuracy against latency", note=note, size=(WIDTH, HEIGHT), style=STYLE)


def _axes(across: Scale, up: Scale) -> str:
    floor = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" fill="none"/>']
    for value in up.ticks():
        at = up(value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:.4g} %</text>')
    parts += [
        f'<text x="{across(value):.1f}" y="{floor + 18}" text-anchor="middle">{value:.3g}</text>'
        for value in across.ticks()
        if value >= 0
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 18}" text-anchor="middle">milliseconds for one image</text>')
    return "".join(parts)


def _line(best: Sequence[Contestant], across: Scale, up: Scale) -> str:
    """Through those that are the most accurate of all that are as fast, from the fastest on."""
    rising: list[Contestant] = []
    for item in best:
        if not rising or item.test_accuracy > rising[-1].test_accuracy:
            rising.append(item)
    points = " ".join(f"{across(item.latency_ms or 0):.1f},{up(100 * item.test_accuracy):.1f}" for item in rising)
    return f'<polyline class="line" points="{points}"/>' if len(rising) > 1 else ""


class _Labels:
    """Places names so that none lies on another: beside its mark, or a few lines above or below that."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float]] = []

    def keep_clear(self, left: float, right: float, y: float) -> None:
        """Where a mark is."""
        self._taken.append((left, right, y))

    def place(self, left: float, right: float, y: float) -> float:
        """The y for a name from `left` to `right` that would best stand at `y`."""
        offsets = [0.0, *(sign * step * LINE for step in range(1, 12) for sign in (1, -1))]
        inside = [y + offset for offset in offsets if TOP <= y + offset <= HEIGHT - BOTTOM]
        free = next((at for at in inside if self._is_free(left, right, at)), y)
        self._taken.append((left, right, free))
        return free

    def _is_free(self, left: float, right: float, y: float) -> bool:
        return all(right < start or end < left or abs(y - at) >= LINE for start, end, at in self._taken)


def _mark(
    item: Contestant, across: Scale, up: Scale, largest: int, labels: _Labels, *, chosen: bool
) -> tuple[str, str]:
    """The mark of a model, and its name, with a line to it where it had to stand apart."""
    radius = max(LEAST_RADIUS, MOST_RADIUS * math.sqrt(item.bytes / largest))
    x, y = across(item.latency_ms or 0.0), up(100 * item.test_accuracy)
    name = shortened(item.name, LONGEST)
    beside = x < WIDTH * 0.7
    start = x + radius + 5 if beside else x - radius - 5
    end = start + LETTER * len(name) * (1 if beside else -1)
    at = labels.place(min(start, end), max(start, end), y + 4)
    anchor = "" if beside else ' text-anchor="end"'
    lead = f'<path class="lead" d="M{x:.1f} {y:.1f}L{start:.1f} {at - 4:.1f}"/>' if at != y + 4 else ""
    told = f"{item.name}: {100 * item.test_accuracy:.2f} %, {item.latency_ms:.3g} ms, {item.bytes:,} bytes"
    circle = (
        f'<circle class="{"front" if chosen else "other"}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        f"<title>{escaped(told)}</title></circle>"
    )
    return circle, f'{lead}<text class="name" x="{start:.1f}" y="{at:.1f}"{anchor}>{escaped(name)}</text>'
