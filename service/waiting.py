"""Why a queued job does not run yet."""

from __future__ import annotations

from service.schemas import Waiting
from specs.jobs import LANES, lane_of
from store import queue
from store.database import Session
from store.tables import Job, Worker
from store.workers import list_workers


def waits_for(session: Session, job: Job, *, position: int | None) -> Waiting | None:
    """What a queued job waits for; None if a worker is about to take it, or it is not queued."""
    if position is None:
        return None
    workers = list_workers(session)
    if not workers:
        return Waiting(reason="no_worker", message="No worker runs; `pruneyard work` starts one.")
    if job.reason is not None:
        return Waiting(reason=job.reason, message=job.message or "")
    running = queue.running(session, lane_of(job.kind))
    owners = {other.owner for other in running}
    idle = [worker for worker in workers if worker.incarnation not in owners]
    held = _held(idle) if job.kind in LANES[0] else None
    if held is not None or not position:
        return held or (None if idle else _busy(running))
    jobs = "1 job goes" if position == 1 else f"{position} jobs go"
    return Waiting(reason="earlier_jobs", message=f"{jobs} first.")


def _held(idle: list[Worker]) -> Waiting | None:
    """Why none of the workers that have nothing to do starts a training, by what the first of them says."""
    holds = [worker.hold for worker in idle if worker.hold is not None]
    return Waiting(**holds[0]) if holds and len(holds) == len(idle) else None


def _busy(running: list[Job]) -> Waiting:
    names = ", ".join(f'"{other.name}"' for other in running)
    message = f"The worker is at {names}." if len(running) == 1 else f"All workers are busy, with {names}."
    return Waiting(reason="busy", message=message, eta_seconds=_until_one_is_free(running))


def _until_one_is_free(running: list[Job]) -> float | None:
    """By what the running jobs say of themselves; None as long as one does not."""
    known = [eta for job in running if (eta := (job.progress or {}).get("eta_seconds")) is not None]
    return min(known) if len(known) == len(running) else None
