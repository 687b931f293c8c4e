"""The picture of a model's mistakes: a row for each class, a column for each class that its images were taken for."""

from __future__ import annotations

from collections import Counter

from service.charts import GREEN, RED, escaped, frame, shortened
from service.evaluation import Evaluation

MOST = 40
LONGEST = 16
LETTER = 7.0
# Of the title and the note.
WIDTH = 640
CELLS = 520.0
TOP = 60
# Cells that are smaller have no room for a number.
NUMBERED = 26.0
LARGEST, SMALLEST = 44.0, 13.0
STYLE = """
.cell { stroke: #fff; stroke-width: 1 } .dark { fill: #fff; stroke: none } .count { stroke: none; text-anchor: middle }
"""


def picture(found: Evaluation, name: str) -> str:
    """An SVG; of many classes it shows those with the most mistakes, of theirs or taken for them."""
    shown = _shown(found)
    side = min(LARGEST, max(SMALLEST, CELLS / len(shown)))
    labels = {index: shortened(found.classes[index].label, LONGEST) for index in shown}
    left = 40 + LETTER * max(map(len, labels.values()))
    top = TOP + 20 + LETTER * max(map(len, labels.values()))
    place = {index: number for number, index in enumerate(shown)}
    parts = [_label(text, left, top, place[index], side) for index, text in labels.items()]
    for label, named, count in found.confusion:
        if label in place and named in place:
            corner = (left + place[named] * side, top + place[label] * side)
            parts.append(_cell(found, (label, named, count), corner, side))
    edge = side * len(shown)
    parts.append(f'<text class="small" x="{left + edge / 2:.1f}" y="{top + edge + 22:.1f}" text-anchor="middle">'
                 "taken for</text>")  # fmt: skip
    size = (round(max(left + edge + 30, WIDTH)), round(top + edge + 40))
    title = f"{shortened(name, 40)}: {100 * found.accuracy:.2f} % of {found.images:,} test images"
    return frame("".join(parts), title=title, note=_note(found, len(shown)), size=size, style=STYLE)


def _shown(found: Evaluation) -> list[int]:
    wrong: Counter[int] = Counter()
    for label, named, count in found.confusion:
        if label != named:
            wrong[label] += count
            wrong[named] += count
    every = range(len(found.classes))
    return sorted(sorted(every, key=lambda index: -wrong[index])[:MOST])


def _note(found: Evaluation, shown: int) -> str:
    rows = "Each row is a class; green is right, red was taken for the class of its column."
    return rows if shown == len(found.classes) else f"{rows} {shown} of {len(found.classes)} classes."


def _label(text: str, left: float, top: float, number: int, side: float) -> str:
    middle = (number + 0.5) * side
    return (
        f'<text x="{left - 8:.1f}" y="{top + middle + 4:.1f}" text-anchor="end">{escaped(text)}</text>'
        f'<text transform="translate({left + middle + 4:.1f} {top - 8:.1f}) rotate(-90)">{escaped(text)}</text>'
    )


def _cell(found: Evaluation, cell: tuple[int, int, int], corner: tuple[float, float], side: float) -> str:
    (label, named, count), (x, y) = cell, corner
    share = count / found.classes[label].images
    told = f"{found.classes[label].label} taken for {found.classes[named].label}: {count:,} ({100 * share:.1f} %)"
    # One image of a thousand is to be seen too.
    opacity = 0.12 + 0.88 * share**0.5
    number = ""
    if side >= NUMBERED:
        dark = " dark" if opacity > 0.6 else ""
        number = f'<text class="count{dark}" x="{x + side / 2:.1f}" y="{y + side / 2 + 4:.1f}">{count}</text>'
    return (
        f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}" '
        f'fill="{GREEN if label == named else RED}" fill-opacity="{opacity:.2f}"><title>{escaped(told)}</title></rect>'
        f"{number}"
    )
