"""Cursors of lists: opaque to clients, the number of the last row to us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query

MAX_LIMIT = 500
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items at most.")]
Cursor = Annotated[
    str | None,
    Query(pattern=r"^[0-9]{1,18}$", description="`next_cursor` of the page before."),
]


def position(cursor: str | None) -> int | None:
    """The row after which a page begins."""
    return None if cursor is None else int(cursor)


def next_cursor(rows: Sequence[Any], limit: int, *, key: str = "number") -> str | None:
    """The cursor of the page after `rows`, if there may be one."""
    return str(getattr(rows[-1], key)) if len(rows) == limit else None
