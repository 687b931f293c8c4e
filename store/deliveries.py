"""Messages about ends of jobs: written in the transaction that ends the job, kept until they are delivered.

Delivery is at least once: whoever takes a message has it to itself for a while, and one that dies with it leaves it to
the next. The id and the body of a message are the same each time it is sent, so that receivers can tell.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import to_json
from sqlalchemy import delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store.database import Database
from store.events import record
from store.ids import new_id
from store.tables import Delivery, Job, Webhook, now

SERVICE = "service"
# Longer than the longest that one attempt to send takes.
LEASE = timedelta(minutes=2)
# After the first attempt, the second, ...: a day and a half in all, as Standard Webhooks has it.
PAUSES = tuple(
    timedelta(seconds=seconds) for seconds in (5, 60, 300, 1800, 2 * 3600, 4 * 3600, 8 * 3600, 10 * 3600, 12 * 3600)
)
FIELDS = ("id", "kind", "name", "status", "reason", "message", "attempt", "result")
MOMENTS = ("created_at", "started_at", "finished_at")


@dataclass(frozen=True)
class Message:
    """A message that was taken to be sent; `tries` counts this time too."""

    id: str
    job_id: str
    body: str
    tries: int


def subscribed(session: Session) -> bool:
    """Whether ends of jobs are to be told."""
    return session.get(Webhook, SERVICE) is not None


def subscribe(database: Database, *, wanted: bool) -> None:
    """From now on ends of jobs are to be told, whichever process ends them; or not, and what was to be is forgotten."""
    with database.read() as session:
        if subscribed(session) == wanted:
            return  # without a writer's lock, and on a full disk too
    with database.write() as session:
        session.execute(delete(Webhook))
        if wanted:
            # Another service may just be starting too.
            with suppress(IntegrityError), session.begin_nested():
                session.add(Webhook(name=SERVICE))
        else:
            session.execute(delete(Delivery))


def announce_end(session: Session, job: Job) -> None:
    """Writes the message that this job has ended, if that is to be told."""
    if subscribed(session):
        body = to_json(_end_of(job), inf_nan_mode="null").decode()
        session.add(Delivery(id=new_id("msg"), job_id=job.id, body=body))


def take_due(database: Database) -> Message | None:
    """The message that has been due for longest, for this caller alone until LEASE is over."""
    moment = now()
    # A moment further ahead than any is set is of a clock that went wrong since.
    due = or_(Delivery.due_at <= moment, Delivery.due_at > moment + 2 * PAUSES[-1])
    query = select(Delivery).where(due).order_by(Delivery.due_at, Delivery.number).limit(1)
    with database.read() as session:
        if session.scalar(query) is None:
            return None  # most often, and nobody was held up for it
    with database.write() as session:
        row = session.scalar(query.with_for_update(skip_locked=True))
        if row is None:
            return None
        row.tries, row.due_at = row.tries + 1, moment + LEASE
        return Message(row.id, row.job_id, row.body, row.tries)


def delivered(session: Session, message: Message) -> None:
    """The receiver has it: it is forgotten here."""
    session.execute(delete(Delivery).where(Delivery.id == message.id))


def refused(session: Session, message: Message, *, why: str, for_good: bool = False, spread: float = 1.0) -> bool:
    """The receiver does not have it: whether it is sent again, after a pause times `spread`.

    After the last attempt, or if it is refused for good, the job tells that it was not delivered, and `why`.
    """
    if for_good or message.tries > len(PAUSES):
        delivered(session, message)
        record(session, message.job_id, "notice", {"message": f"The webhook was not told how this job ended: {why}"})
        return False
    row = session.scalar(select(Delivery).where(Delivery.id == message.id).with_for_update())
    if row is not None:
        row.due_at = now() + PAUSES[message.tries - 1] * spread
    return True


def _end_of(job: Job) -> dict[str, Any]:
    data = {name: getattr(job, name) for name in FIELDS}
    data |= {name: _rfc3339(getattr(job, name)) for name in MOMENTS}
    data["links"] = {"job": f"/v1/jobs/{job.id}"}
    return {"type": f"job.{job.status}", "timestamp": _rfc3339(job.finished_at), "data": data}


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
