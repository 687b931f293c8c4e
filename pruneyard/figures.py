"""Numbers and tables as people read them."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

NONE = "–"
PIPE_WIDTH = 200


def figure(value: float | None, form: str = "", *, unit: str = "") -> str:
    """A number in a format, or a dash when there is none or it is not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:{form}}{unit}"


def percent(value: float | None) -> str:
    """A share from 0 to 1, with two decimals."""
    return NONE if value is None else figure(100 * value, ".2f", unit=" %")


def duration(seconds: float | None) -> str:
    """Minutes and seconds, with hours when there are any."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: float | None) -> str:
    """Bytes in units of 1000."""
    if count is None:
        return NONE
    if count < 1000:
        return f"{count:.0f} B"
    power = 1 if count < 1e6 else 2 if count < 1e9 else 3
    return f"{count / 1000**power:.1f} {['kB', 'MB', 'GB'][power - 1]}"


def console(*, stderr: bool = False) -> Console:
    """A console; lines are not cut at 80 columns when they go to a file or a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else PIPE_WIDTH)


def table(
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    title: str | None = None,
    numbers: Collection[str] = (),
    whole: Collection[str] = (),
) -> Table:
    """A table of plain text: what users named is never read as markup.

    Columns of `numbers` stand to the right; those in `whole` are never folded, so that they can be copied.
    """
    made = Table(title=title, title_justify="left")
    for column in columns:
        justify: JustifyMethod = "right" if column in numbers else "left"
        made.add_column(column, overflow="fold", justify=justify, no_wrap=column in whole)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def grid(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what they stand for, below each other; rows of which nothing is known are left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(no_wrap=True, style="dim")
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(Text(name), Text(value))
    return made
