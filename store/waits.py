"""Jobs that wait for room on the disk: set aside in the queue, and not to be claimed before there is enough."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import queue
from store.events import newest_event, record
from store.queue import Claim
from store.room import RESERVE_BYTES, free_bytes
from store.tables import Job

REASON = "insufficient_storage"


def set_aside(session: Session, claim: Claim, home: Path, *, needed: int) -> None:
    """Gives back a job that found no room: it goes on from its last checkpoint once `needed` bytes fit.

    If they fit by now, it was for a moment, or it is another disk that is full: then it is tried again at once, and
    given up after some tries as one whose process dies.
    """
    wanted, free = needed + RESERVE_BYTES, free_bytes(home)
    if free >= wanted:
        queue.crashed(session, claim, message="There was no room left on a disk.")
        return
    message = (
        f"There is no room left on the disk of the data folder: {wanted:,} bytes have to be free, and {free:,} are. "
        "Delete models or data sets, or free some of the disk; the job then goes on by itself from its last checkpoint."
    )
    queue.release(session, claim, message=message, reason=REASON)
    record(session, claim.job_id, "room", {"needed_bytes": wanted, "free_bytes": free})


def without_room(session: Session, home: Path) -> list[str]:
    """The ids of waiting jobs for which there is not enough room yet."""
    waiting = list(session.scalars(select(Job.id).where(Job.status == "queued", Job.reason == REASON)))
    free = free_bytes(home) if waiting else 0
    return [job_id for job_id in waiting if free < _wanted(session, job_id)]


def _wanted(session: Session, job_id: str) -> int:
    event = newest_event(session, job_id, "room")
    return RESERVE_BYTES if event is None else int(event.data["needed_bytes"])
