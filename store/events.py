"""What happened to a job, in order."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.tables import Event


def record(session: Session, job_id: str, kind: str, data: dict[str, Any]) -> None:
    """Adds an event; it becomes visible with the transaction it is part of."""
    session.add(Event(job_id=job_id, type=kind, data=data))


def newest_event(session: Session, job_id: str, kind: str) -> Event | None:
    """The last event of this type of a job."""
    query = select(Event).where(Event.job_id == job_id, Event.type == kind).order_by(Event.number.desc()).limit(1)
    return session.scalar(query)


def list_events(session: Session, job_id: str, *, after: int = 0, limit: int = 100) -> list[Event]:
    """Events of a job with a number above `after`, oldest first."""
    query = select(Event).where(Event.job_id == job_id, Event.number > after).order_by(Event.number).limit(limit)
    return list(session.scalars(query))
