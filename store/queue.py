"""The job queue. Functions take part in the caller's transaction and never commit.

Delivery is at least once. Each claim raises the job's `attempt`; whatever a worker writes, it writes through
`held`, which refuses it once the job is no longer running at that attempt. So a worker that was
thought dead and comes back can change nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from specs.jobs import lane_of
from store.deliveries import announce_end
from store.errors import Conflict, KeyReused, LostClaim, NotFound
from store.events import newest_event, record
from store.ids import may_name, new_id
from store.postgresql import wait_in_turn
from store.tables import JOB_STATUSES, Dataset, IdempotencyKey, Job, now

MAX_CRASHES = 3
TRAINING_PHASES = ("training", "measuring")
ENDED = ("succeeded", "failed", "cancelled")
# What this transaction read before the lock was had may have changed on PostgreSQL.
AS_IT_IS = {"populate_existing": True}
ENDINGS = {"succeeded": "succeeded", "failed": "failed", "cancelled": "been cancelled"}


@dataclass(frozen=True)
class Claim:
    """A worker's right to one attempt at one job."""

    job_id: str
    attempt: int

    @property
    def name(self) -> str:
        """Tells this attempt from all others, in names of files."""
        return f"{self.job_id}-{self.attempt}"


def enqueue(session: Session, *, kind: str, name: str, spec: str, priority: int = 0) -> Job:
    """A new job at the end of the queue; `spec` is JSON."""
    job = Job(id=new_id("job"), kind=kind, name=name, spec=spec, priority=priority, status="queued")
    session.add(job)
    session.flush()
    _record_state(session, job)
    return job


def replay(session: Session, key: str, request: bytes) -> Job | None:
    """The job that this idempotency key made before; KeyReused if it was for another request.

    Of several that ask at once with one key the first makes the job, and the others find it.
    """
    wait_in_turn(session, f"idempotency key {key}")
    known = session.get(IdempotencyKey, key)
    if known is None:
        return None
    if known.request_sha256 != hashlib.sha256(request).hexdigest():
        raise KeyReused("This Idempotency-Key was used with another body.")
    return find_job(session, known.job_id)


def remember_key(session: Session, key: str, request: bytes, job: Job) -> None:
    """Ties an idempotency key to the job it made."""
    digest = hashlib.sha256(request).hexdigest()
    session.add(IdempotencyKey(key=key, request_sha256=digest, job_id=job.id))


def find_job(session: Session, job_id: str) -> Job:
    """The job of this id, or NotFound."""
    job = session.scalar(select(Job).where(Job.id == job_id)) if may_name(job_id) else None
    if job is None:
        raise NotFound("job")
    return job


def find_job_named(session: Session, reference: str) -> Job | None:
    """The job of this id that is to make a model, else the newest of this name that is."""
    called = select(Job).where(or_(Job.id == reference, Job.name == reference), Job.kind.in_(lane_of("train")))
    return session.scalar(called.order_by(Job.number.desc()).limit(1)) if may_name(reference) else None


def running_claims(session: Session) -> set[str]:
    """The names of the claims that jobs run at."""
    running = session.execute(select(Job.id, Job.attempt).where(Job.status == "running"))
    return {Claim(*row).name for row in running}


def count_jobs(session: Session) -> dict[str, int]:
    """How many jobs there are in each status, also those without any."""
    query = select(Job.status, func.count()).group_by(Job.status)
    return dict.fromkeys(JOB_STATUSES, 0) | dict(session.execute(query).all())


def list_jobs(session: Session, *, before: int | None = None, status: str | None = None, limit: int = 50) -> list[Job]:
    """Jobs numbered below `before`, newest first."""
    query = select(Job).order_by(Job.number.desc()).limit(limit)
    if before is not None:
        query = query.where(Job.number < before)
    if status is not None:
        query = query.where(Job.status == status)
    return list(session.scalars(query))


def queue_position(session: Session, job: Job) -> int | None:
    """How many queued jobs will be claimed before this one; None if it is not queued."""
    if job.status != "queued":
        return None
    earlier = or_(Job.priority > job.priority, (Job.priority == job.priority) & (Job.number < job.number))
    same_lane = Job.kind.in_(lane_of(job.kind))
    count = session.scalar(select(func.count()).select_from(Job).where(Job.status == "queued", same_lane, earlier))
    return count or 0


def next_job(session: Session, kinds: Sequence[str], *, without: Sequence[str] = ()) -> Job | None:
    """The queued job of these kinds that goes first, `without` these jobs."""
    waiting = select(Job).where(Job.status == "queued", Job.kind.in_(kinds), Job.id.not_in(without))
    return session.scalar(waiting.order_by(Job.priority.desc(), Job.number).limit(1))


def running(session: Session, kinds: Sequence[str]) -> list[Job]:
    """Jobs of these kinds that workers are at."""
    return list(session.scalars(select(Job).where(Job.status == "running", Job.kind.in_(kinds))))


def claim(
    session: Session,
    worker: str,
    *,
    kinds: Sequence[str] | None = None,
    without: Sequence[str] = (),
    holds: Callable[[Job | None], bool] | None = None,
) -> Claim | None:
    """Takes the first queued job for this worker, of these kinds or of any, `without` these jobs, if there is one.

    None also if the worker `holds` back from it.
    """
    queued = (Job.status == "queued") & Job.id.not_in(without)
    query = (
        select(Job)
        .where(queued if kinds is None else queued & Job.kind.in_(kinds))
        .order_by(Job.priority.desc(), Job.number)
        .limit(1)
        # PostgreSQL: rows that another worker is just taking are passed over. SQLite has one writer at a time.
        .with_for_update(skip_locked=True)
    )
    job = session.scalar(query)
    held_back = holds is not None and holds(job)
    if job is None or held_back:
        return None
    job.status, job.owner, job.attempt = "running", worker, job.attempt + 1
    job.phase, job.reason, job.message = "starting", None, None
    job.started_at = job.started_at or now()
    _record_state(session, job)
    return Claim(job.id, job.attempt)


def held(session: Session, claim: Claim) -> Job:
    """The job, locked, if it still runs at this claim's attempt; LostClaim if not."""
    query = (
        select(Job)
        .where(Job.id == claim.job_id, Job.attempt == claim.attempt, Job.status == "running")
        .with_for_update()
        .execution_options(**AS_IT_IS)
    )
    job = session.scalar(query)
    if job is None:
        raise LostClaim(f"{claim.job_id} is no longer at attempt {claim.attempt}.")
    return job


def report(session: Session, claim: Claim, *, phase: str, step: int, progress: dict[str, Any] | None = None) -> None:
    """How far a running job is; `step` must rise while the job makes progress."""
    job = held(session, claim)
    if job.phase != phase:
        record(session, job.id, "phase", {"phase": phase, "attempt": job.attempt})
    job.phase, job.step = phase, step
    if progress is not None:
        job.progress = progress


def notice(session: Session, claim: Claim, *, message: str) -> None:
    """Something about a running job that is worth a sentence."""
    record(session, held(session, claim).id, "notice", {"message": message})


def find_out(session: Session, claim: Claim, found: dict[str, Any]) -> None:
    """What a running job found by measuring: another attempt would find it otherwise, and goes by this."""
    record(session, held(session, claim).id, "found", found)


def found_out(session: Session, claim: Claim) -> dict[str, Any] | None:
    """What this attempt, or one before it, found by measuring."""
    event = newest_event(session, claim.job_id, "found")
    return None if event is None else event.data


def foresee(session: Session, claim: Claim, need: dict[str, Any]) -> None:
    """What memory a running job will need, to be told should it come to want."""
    record(session, held(session, claim).id, "memory", need)


def foreseen(session: Session, claim: Claim) -> dict[str, Any] | None:
    """What memory the job will need in the phase it is in, if that was written down."""
    event = newest_event(session, claim.job_id, "memory")
    phase = find_job(session, claim.job_id).phase
    return event.data if event is not None and phase in TRAINING_PHASES else None


def succeed(session: Session, claim: Claim, result: dict[str, Any]) -> None:
    """The job's work is done and durable."""
    job = held(session, claim)
    job.result = result
    if job.progress:
        job.progress = {**job.progress, "fraction": 1.0, "eta_seconds": 0.0}
    _end(session, job, "succeeded")


def has_succeeded(session: Session, claim: Claim) -> bool:
    """Whether the job did succeed at this attempt; a transaction that is just saying so is waited for."""
    job = _locked(session, claim.job_id)
    return job.status == "succeeded" and job.attempt == claim.attempt


def fail(session: Session, claim: Claim, *, reason: str, message: str) -> None:
    """The job cannot be done; `reason` is one word for programs, `message` a sentence."""
    job = held(session, claim)
    _end(session, job, "failed", reason=reason, message=message)


def release(session: Session, claim: Claim, *, message: str, reason: str | None = None) -> None:
    """Gives the job back, without counting against it: to the queue, at its old place, unless more was asked for.

    With a `reason` it waits for something there.
    """
    _give_back(session, held(session, claim), message, reason)


def crashed(session: Session, claim: Claim, *, message: str) -> None:
    """The job's process died: the job is tried again, up to MAX_CRASHES times."""
    _crashed(session, held(session, claim), message)


def pause(session: Session, job_id: str) -> Job:
    """Sets a job aside: at once if it waits, by its worker if it runs. Asking twice changes nothing."""
    job = _locked(session, job_id)
    if job.status == "queued":
        _set_aside(session, job)
    elif job.status == "running":
        job.pause_requested = True
    elif job.status != "paused":
        raise Conflict(f"The job has already {ENDINGS[job.status]}; it can no longer be paused.")
    return job


def resume(session: Session, job_id: str) -> Job:
    """Puts a paused job back at its old place in the queue; one that is not paused goes on, whatever was asked."""
    job = _locked(session, job_id)
    if job.status in ENDED:
        raise Conflict(f"The job has already {ENDINGS[job.status]}; there is nothing to resume.")
    job.pause_requested = False
    if job.status == "paused":
        _requeue(session, job, "Resumed on request.")
    return job


def retry(session: Session, job_id: str) -> Job:
    """Puts a job that failed or was cancelled back at its old place in the queue; it goes on from its checkpoints.

    One that has not ended stays as it is, so that asking twice changes nothing.
    """
    job = _locked(session, job_id)
    if job.status == "succeeded":
        raise Conflict("The job has already succeeded. A clone of it would be another job.")
    if job.kind == "ingest":
        raise Conflict("A data set is read once. Make it anew and send its content again.")
    if job.status in ENDED:
        job.crashes, job.finished_at = 0, None
        job.cancel_requested = job.pause_requested = False
        _requeue(session, job, "Tried again on request.")
    return job


def cancel(session: Session, job_id: str) -> Job:
    """Asks for a job's end: at once if it waits, by its worker if it runs. Asking twice changes nothing."""
    job = _locked(session, job_id)
    if job.status in {"queued", "paused"}:
        _end(session, job, "cancelled", reason="user", message="Cancelled on request before it ran.")
    elif job.status == "running":
        job.cancel_requested = True
    elif job.status != "cancelled":
        raise Conflict(f"The job has already {ENDINGS[job.status]}; it can no longer be cancelled.")
    return job


def cancelled(session: Session, claim: Claim) -> None:
    """The worker has stopped the job on request."""
    _end(session, held(session, claim), "cancelled", reason="user", message="Cancelled on request.")


def release_all(session: Session, *, message: str) -> None:
    """Gives back all that runs, where nobody can be running anything."""
    for job in session.scalars(select(Job).where(Job.status == "running").with_for_update()):
        _give_back(session, job, message)


def holds_unknown(session: Session, worker: str, *, kinds: Sequence[str]) -> bool:
    """Whether there is anything for `release_unknown`."""
    return session.scalar(select(Job.id).where(_of(worker, kinds)).limit(1)) is not None


def release_unknown(session: Session, worker: str, *, kinds: Sequence[str]) -> None:
    """Gives back what a worker holds without knowing: it claimed, and the connection was lost before it heard so.

    For a worker that runs none of these kinds, as one that is about to claim.
    """
    for job in session.scalars(select(Job).where(_of(worker, kinds)).with_for_update()):
        _give_back(session, job, "Its worker lost the database as it took the job.")


def _of(worker: str, kinds: Sequence[str]) -> ColumnElement[bool]:
    return (Job.status == "running") & (Job.owner == worker) & Job.kind.in_(kinds)


def requeue_lost(session: Session, dead_workers: Iterable[str]) -> list[str]:
    """Takes running jobs from dead workers, and from workers that are not known; the ids of those jobs."""
    lost = or_(Job.owner.in_(list(dead_workers)), Job.owner.is_(None))
    jobs = list(session.scalars(select(Job).where(Job.status == "running", lost).with_for_update()))
    for job in jobs:
        _crashed(session, job, "The worker died.")
    return [job.id for job in jobs]


def _locked(session: Session, job_id: str) -> Job:
    query = select(Job).where(Job.id == job_id).with_for_update()
    job = session.scalar(query, execution_options=AS_IT_IS) if may_name(job_id) else None
    if job is None:
        raise NotFound("job")
    return job


def _crashed(session: Session, job: Job, message: str) -> None:
    job.crashes += 1
    if job.crashes >= MAX_CRASHES and not job.cancel_requested:
        message = f"The process of this job died {job.crashes} times. Last: {message}"
        _end(session, job, "failed", reason="crashed", message=message)
    else:
        _give_back(session, job, message)


def _give_back(session: Session, job: Job, message: str, reason: str | None = None) -> None:
    """What was asked of a running job stands, however it stopped: a worker's shutdown cancels no cancelling."""
    if job.cancel_requested:
        _end(session, job, "cancelled", reason="user", message="Cancelled on request.")
    elif job.pause_requested:
        _set_aside(session, job)
    else:
        _requeue(session, job, message, reason)


def _set_aside(session: Session, job: Job) -> None:
    message = "Paused on request; resumed it goes on from its last checkpoint, if it has one."
    job.status, job.owner, job.phase, job.reason, job.message = "paused", None, None, None, message
    job.pause_requested = False
    _record_state(session, job)


def _requeue(session: Session, job: Job, message: str, reason: str | None = None) -> None:
    job.status, job.owner, job.phase, job.reason, job.message = "queued", None, None, reason, message
    _record_state(session, job)


def _end(session: Session, job: Job, status: str, *, reason: str | None = None, message: str | None = None) -> None:
    job.status, job.reason, job.message = status, reason, message
    job.owner, job.phase, job.pause_requested, job.finished_at = None, None, False, now()
    _record_state(session, job)
    announce_end(session, job)
    if status != "succeeded":
        _fail_dataset(session, job)


def _fail_dataset(session: Session, job: Job) -> None:
    """A data set whose reading ended without success, however it ended, is not read any more."""
    reading = (Dataset.job_id == job.id) & (Dataset.status == "processing")
    reason = "cancelled" if job.status == "cancelled" else job.reason
    session.execute(update(Dataset).where(reading).values(status="failed", reason=reason, message=job.message))


def _record_state(session: Session, job: Job) -> None:
    data = {"status": job.status, "attempt": job.attempt, "reason": job.reason, "message": job.message}
    record(session, job.id, "state", data)
