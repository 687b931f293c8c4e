"""Jobs: made, listed, looked at, set aside, cancelled, tried again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, HTTPException, Query, Response

from service import examples
from service.house import TheDatabase
from service.paging import Cursor, Limit, next_cursor, position
from service.schemas import JobView, Page
from service.submission import clone, retry, submit
from service.views import job_view
from specs.jobs import JobSpec, QuantizeSpec
from store import queue

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Status = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your own: sent again with the same body, it finds the job it made the first time.",
    ),
]


DryRun = Annotated[
    bool,
    Query(
        description="Makes a `quote` job instead, which waits for no training: of a training it tells seconds, memory "
        "and disk from its first steps on this machine; of a pruning how much each layer bears, from validation images "
        "and without training, and suggests a job."
    ),
]


Priority = Annotated[
    int, Query(ge=-100, le=100, description="Waiting jobs of a higher one go first; equal ones in their order.")
]


@router.post("", status_code=202, summary="Ask for a training or a pruning")
def create_job(
    spec: Annotated[JobSpec, Body(openapi_examples=examples.JOBS)],
    database: TheDatabase,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    dry_run: DryRun = False,
    priority: Priority = 0,
) -> JobView:
    if dry_run and isinstance(spec, QuantizeSpec):
        raise HTTPException(
            501, "There are no quotes of quantizing; nothing was started. Leave out dry_run to start it."
        )
    with database.write() as session:
        view = job_view(session, submit(session, spec, key=idempotency_key, dry_run=dry_run, priority=priority))
    response.headers["Location"] = f"/v1/jobs/{view.id}"
    return view


@router.get("", summary="Jobs, newest first")
def list_jobs(
    database: TheDatabase,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
) -> Page[JobView]:
    with database.read() as session:
        jobs = queue.list_jobs(session, before=position(cursor), status=status, limit=limit)
        return Page(items=[job_view(session, job) for job in jobs], next_cursor=next_cursor(jobs, limit))


@router.get("/{job_id}", summary="One job")
def get_job(job_id: str, database: TheDatabase) -> JobView:
    with database.read() as session:
        return job_view(session, queue.find_job(session, job_id))


@router.post("/{job_id}/cancel", status_code=202, summary="Stop a job for good")
def cancel_job(job_id: str, database: TheDatabase) -> JobView:
    """A waiting job ends at once; a running one within a second. Asking twice changes nothing."""
    with database.write() as session:
        return job_view(session, queue.cancel(session, job_id))


@router.post("/{job_id}/pause", status_code=202, summary="Set a job aside")
def pause_job(job_id: str, database: TheDatabase) -> JobView:
    """A running job writes a checkpoint and leaves its worker to others. Asking twice changes nothing."""
    with database.write() as session:
        return job_view(session, queue.pause(session, job_id))


@router.post("/{job_id}/resume", status_code=202, summary="Let a paused job go on")
def resume_job(job_id: str, database: TheDatabase) -> JobView:
    """It takes its old place in the queue and goes on from its checkpoint. Asking twice changes nothing."""
    with database.write() as session:
        return job_view(session, queue.resume(session, job_id))


@router.post("/{job_id}/retry", status_code=202, summary="Try a failed or cancelled job again")
def retry_job(job_id: str, database: TheDatabase) -> JobView:
    """The same job goes on from its checkpoints, as long as they are kept. Asking twice changes nothing."""
    with database.write() as session:
        return job_view(session, retry(session, job_id))


@router.post("/{job_id}/clone", status_code=202, summary="Ask for the same job once more, with changes")
def clone_job(
    job_id: str,
    database: TheDatabase,
    response: Response,
    changes: Annotated[dict[str, Any], Body(openapi_examples=examples.CHANGES)],
    idempotency_key: IdempotencyKey = None,
    priority: Priority = 0,
) -> JobView:
    """The body holds the fields that are to differ; objects are merged, unless they name something else."""
    with database.write() as session:
        view = job_view(session, clone(session, job_id, changes, key=idempotency_key, priority=priority))
    response.headers["Location"] = f"/v1/jobs/{view.id}"
    return view
