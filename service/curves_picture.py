"""The picture of a training: loss and accuracy, epoch by epoch, on training and on validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.charts import GREEN, GREY, Scale, frame, shortened
from service.schemas import MetricView

WIDTH, HEIGHT = 860, 360
TOP, BOTTOM = 76, 46
PANELS = ((64, 420), (500, 840))
# A line has no more points than the picture has pixels for.
POINTS = 400
STYLE = f"""
.train {{ stroke: {GREY}; fill: none; stroke-width: 2 }} .validation {{ stroke: {GREEN}; fill: none; stroke-width: 2 }}
.dot-train {{ fill: {GREY} }} .dot-validation {{ fill: {GREEN} }}
"""
PARTS = ("train", "validation")


def picture(rows: Sequence[MetricView], name: str) -> str:
    """An SVG; rows are in the order of their epochs, and what was not finite leaves a gap."""
    title = shortened(name, 60)
    if not rows:
        note = "No epoch has ended yet."
        return frame("", title=title, note=note, size=(WIDTH, HEIGHT), style=STYLE)
    best = max(rows, key=lambda row: (row.validation_accuracy or 0.0, -(row.validation_loss or 0.0)))
    note = f"{rows[-1].epoch} {'epochs' if rows[-1].epoch > 1 else 'epoch'}"
    if best.validation_accuracy is not None:
        note += f"; the best on validation images is epoch {best.epoch} with {100 * best.validation_accuracy:.2f} %"
    stride = -(-len(rows) // POINTS)
    # However many are left out, not the last, nor the best, nor a gap.
    kept = {rows[-1].epoch, best.epoch}
    shown = [row for at, row in enumerate(rows) if at % stride == 0 or row.epoch in kept or row.non_finite]
    panels = [
        _panel(shown, "loss", PANELS[0], "{:.3g}".format),
        _panel(shown, "accuracy", PANELS[1], lambda value: f"{100 * value:.3g} %"),
    ]
    return frame("".join(panels), title=title, note=note + ".", size=(WIDTH, HEIGHT), style=STYLE)


def _panel(rows: Sequence[MetricView], figure: str, sides: tuple[int, int], told: Callable[[float], str]) -> str:
    left, right = sides
    floor = HEIGHT - BOTTOM
    lines = {part: [(row.epoch, getattr(row, f"{part}_{figure}")) for row in rows] for part in PARTS}
    values = [value for line in lines.values() for _, value in line if value is not None]
    head = f'<text x="{left}" y="{TOP - 12}">{figure}</text>{_legend(right)}'
    if not values:
        return f'{head}<text class="small" x="{left}" y="{TOP + 20}">Nothing finite.</text>'
    across = Scale([row.epoch for row in rows], left, right, room=0.02)
    up = Scale(values, floor, TOP)
    parts = [head, f'<path class="axis" d="M{left} {TOP}V{floor}H{right}" fill="none"/>']
    for value in up.ticks():
        parts.append(f'<path class="grid" d="M{left} {up(value):.1f}H{right}"/>')
        parts.append(f'<text x="{left - 8}" y="{up(value) + 4:.1f}" text-anchor="end">{told(value)}</text>')
    parts += [
        f'<text x="{across(epoch):.1f}" y="{floor + 18}" text-anchor="middle">{epoch:g}</text>'
        for epoch in across.ticks(least=1)
    ]
    parts.append(f'<text class="small" x="{(left + right) / 2}" y="{floor + 36}" text-anchor="middle">epoch</text>')
    return "".join(parts + [_line(part, line, across, up) for part, line in lines.items()])


def _legend(right: int) -> str:
    return (
        f'<circle class="dot-train" cx="{right - 150}" cy="{TOP - 16}" r="4"/>'
        f'<text x="{right - 142}" y="{TOP - 12}">training</text>'
        f'<circle class="dot-validation" cx="{right - 76}" cy="{TOP - 16}" r="4"/>'
        f'<text x="{right - 68}" y="{TOP - 12}">validation</text>'
    )


def _line(part: str, line: Sequence[tuple[int, float | None]], across: Scale, up: Scale) -> str:
    """In pieces between the gaps; a value between two of them is a dot."""
    pieces: list[list[str]] = [[]]
    for epoch, value in line:
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{across(epoch):.1f},{up(value):.1f}")
    drawn = []
    for piece in filter(None, pieces):
        x, _, y = piece[0].partition(",")
        drawn.append(
            f'<polyline class="{part}" points="{" ".join(piece)}"/>'
            if len(piece) > 1
            else f'<circle class="dot-{part}" cx="{x}" cy="{y}" r="3"/>'
        )
    return "".join(drawn)
