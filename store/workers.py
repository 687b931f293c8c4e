"""Workers that are alive, and the judgement that one is dead.

Death is judged by whoever watches, on its own monotonic clock: a worker whose count of beats has not changed for
`ttl` seconds of watching is dead. Wall clocks are never compared, so a moved clock or a sleeping laptop kills nobody.
A worker of the same place (machine, boot and process namespace) is dead as soon as its process is gone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from store import queue
from store.database import Database
from store.errors import StoreError
from store.liveness import process_runs, started, this_place
from store.postgresql import wait_in_turn
from store.queue import Claim, release_all, requeue_lost
from store.tables import Job, Worker, now
from store.waits import without_room

# Why a worker does not start this job now, or whatever would come; None if it does.
Hold = Callable[[Session, Job | None], dict[str, str] | None]


def register(session: Session, devices: Sequence[str]) -> str:
    """Enters this process as a worker; the id of this life of it."""
    worker = Worker(
        incarnation=str(uuid.uuid4()),
        place=this_place(),
        pid=os.getpid(),
        pid_created=started(os.getpid()),
        devices=list(devices),
        started_at=now(),
        beat_at=now(),
    )
    session.add(worker)
    return worker.incarnation


def beat(session: Session, incarnation: str) -> bool:
    """One heartbeat; False if others have declared this worker dead."""
    worker = session.get(Worker, incarnation, with_for_update=True)
    if worker is None:
        return False
    worker.beat, worker.beat_at = worker.beat + 1, now()
    return True


def has_work(session: Session, incarnation: str, *, kinds: Sequence[str], home: Path, hold: Hold | None = None) -> bool:
    """Whether `claim` would change anything. It writes nothing, so that workers may ask again and again."""
    worker = session.get(Worker, incarnation)
    if worker is None or queue.holds_unknown(session, incarnation, kinds=kinds):
        return True
    job = queue.next_job(session, kinds, without=without_room(session, home))
    found = None if hold is None else hold(session, job)
    return (hold is not None and found != worker.hold) or (found is None and job is not None)


def claim(
    session: Session, incarnation: str, *, kinds: Sequence[str], home: Path, hold: Hold | None = None
) -> Claim | None:
    """The next job for a worker that runs none of these kinds, if there is one that has the room it waited for.

    None if the worker holds back from it; then its row says why. Workers of one place are asked one after the other:
    what one has begun is known to the next.
    """
    queue.release_unknown(session, incarnation, kinds=kinds)
    passed = without_room(session, home)
    if hold is None:
        return queue.claim(session, incarnation, kinds=kinds, without=passed)
    worker = session.get(Worker, incarnation)
    wait_in_turn(session, f"work at {worker and worker.place}")

    def holds(job: Job | None) -> bool:
        found = hold(session, job)
        set_hold(session, incarnation, found)
        return found is not None

    return queue.claim(session, incarnation, kinds=kinds, without=passed, holds=holds)


def list_workers(session: Session) -> list[Worker]:
    """Workers that nobody has declared dead, oldest first."""
    return list(session.scalars(select(Worker).order_by(Worker.started_at)))


def set_devices(session: Session, incarnation: str, devices: Sequence[str]) -> None:
    """What this worker can train on, once it has found out."""
    worker = session.get(Worker, incarnation, with_for_update=True)
    if worker is not None:
        worker.devices = list(devices)


def set_hold(session: Session, incarnation: str, hold: dict[str, str] | None) -> None:
    """Why this worker starts no training now: `reason` in a word, `message` in a sentence. None: it does."""
    worker = session.get(Worker, incarnation, with_for_update=True)
    if worker is not None:
        worker.hold = hold


def sign_off(session: Session, incarnation: str) -> None:
    """Removes a worker that ends in good order and holds no job."""
    session.execute(delete(Worker).where(Worker.incarnation == incarnation))


def dismiss_all(session: Session) -> None:
    """For a copy of a database: whoever is entered in it works on the original."""
    release_all(session, message="It ran when this copy was taken; it goes on from its checkpoint.")
    session.flush()
    session.execute(delete(Worker))


class Watch:
    """Watches the workers of a database and takes the jobs of dead ones back into the queue."""

    def __init__(self, database: Database, *, ttl_seconds: float) -> None:
        self._database = database
        self._ttl = ttl_seconds
        self._place = this_place()
        self._seen: dict[str, tuple[int, float]] = {}

    def sweep(self) -> list[str]:
        """One look at all workers; the ids of the jobs that were taken back."""
        with self._database.read() as session:
            workers = list_workers(session)
            orphans = session.scalar(select(Job.id).where(Job.status == "running", Job.owner.is_(None)).limit(1))
        dead = [(worker.incarnation, worker.beat) for worker in workers if self._is_dead(worker)]
        self._seen = {w.incarnation: self._seen[w.incarnation] for w in workers if w.incarnation in self._seen}
        return self._bury(dead) if dead or orphans else []

    def alive(self) -> list[Worker]:
        """Workers that are not dead as far as this watch can tell."""
        with self._database.read() as session:
            return [worker for worker in list_workers(session) if not self._is_dead(worker)]

    def keep_sweeping(self, stop: threading.Event, *, interval_seconds: float) -> None:
        """Sweeps until `stop` is set; a database that is busy, or a full disk, is looked at again later."""
        while not stop.wait(interval_seconds):
            with contextlib.suppress(StoreError, SQLAlchemyError):
                self.sweep()

    def _is_dead(self, worker: Worker) -> bool:
        if worker.place == self._place and not process_runs(worker.pid, created=worker.pid_created):
            return True
        beat, since = self._seen.get(worker.incarnation, (-1, 0.0))
        if worker.beat != beat:
            self._seen[worker.incarnation] = (worker.beat, time.monotonic())
            return False
        return time.monotonic() - since > self._ttl

    def _bury(self, dead: list[tuple[str, int]]) -> list[str]:
        with self._database.write() as session:
            # It may have beaten since we looked: then it lives.
            still = [
                incarnation
                for incarnation, beat_count in dead
                if (worker := session.get(Worker, incarnation, with_for_update=True)) is not None
                and worker.beat == beat_count
            ]
            jobs = requeue_lost(session, still)
            session.flush()
            session.execute(delete(Worker).where(Worker.incarnation.in_(still)))
            return jobs
