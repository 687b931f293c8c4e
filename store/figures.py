"""Counted figures of networks, kept so that none is counted twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store.tables import CountedFigures

MAX_KEPT = 10_000


def find_figures(session: Session, keys: Iterable[str]) -> dict[str, CountedFigures]:
    """Those of these keys that have been counted."""
    rows = session.scalars(select(CountedFigures).where(CountedFigures.key.in_(list(keys))))
    return {row.key: row for row in rows}


def keep_figures(session: Session, key: str, *, parameters: int, macs: int) -> None:
    """Keeps figures under a key, a SHA-256 in hexadecimal; of too many the oldest go."""
    # Another process may have counted the same in the meantime.
    with contextlib.suppress(IntegrityError), session.begin_nested():
        session.add(CountedFigures(key=key, parameters=parameters, macs=macs))
    surplus = (session.scalar(select(func.count()).select_from(CountedFigures)) or 0) - MAX_KEPT
    if surplus > 0:
        oldest = select(CountedFigures.key).order_by(CountedFigures.counted_at).limit(surplus)
        session.execute(delete(CountedFigures).where(CountedFigures.key.in_(oldest)))
