"""What is written down of a job: its epochs, its checkpoints, its log, and all of it in one zip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from service.bundles import LOG_BYTES, bundle, table
from service.charts import MEDIA_TYPE, SAFE
from service.curves_picture import picture
from service.house import House, TheDatabase, TheHouse
from service.job_logs import lines_after, tail
from service.paging import MAX_LIMIT, Cursor, Limit, next_cursor, position
from service.schemas import CheckpointView, MetricView, Page
from service.streams import EVENT_STREAM, LastEventId, frame, stream, wants_stream
from service.views import checkpoint_view, metric_view
from store import metrics, queue
from store.checkpoints import list_checkpoints
from store.queue import ENDED

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
CSV = "text/csv"
MAX_EPOCHS = 10_000
# A log holds what others printed: no browser is to take it for a page.
PLAIN = {"X-Content-Type-Options": "nosniff"}


@router.get(
    "/{job_id}/metrics",
    summary="Metrics of each epoch",
    response_model=Page[MetricView],
    responses={200: {"content": {CSV: {}}}},
)
def get_metrics(
    job_id: str,
    database: TheDatabase,
    limit: Limit = MAX_LIMIT,
    cursor: Cursor = None,
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Page[MetricView] | Response:
    """`?format=csv` is a table for spreadsheets, of all epochs unless there is a `limit` of fewer than 500."""
    whole = form == "csv" and limit == MAX_LIMIT
    with database.read() as session:
        queue.find_job(session, job_id)
        rows = metrics.list_metrics(session, job_id, after=position(cursor) or 0, limit=MAX_EPOCHS if whole else limit)
    views = [metric_view(row) for row in rows]
    if form == "csv":
        return Response(table(views), media_type=CSV)
    return Page(items=views, next_cursor=next_cursor(rows, limit, key="epoch"))


@router.get(
    "/{job_id}/curves.svg",
    summary="Loss and accuracy of each epoch, as a picture",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: {}}}},
)
def get_curves(job_id: str, database: TheDatabase) -> Response:
    """On training and on validation images, as far as the job has come."""
    with database.read() as session:
        job = queue.find_job(session, job_id)
        rows = metrics.list_metrics(session, job_id, limit=MAX_EPOCHS)
    return Response(picture([metric_view(row) for row in rows], job.name), media_type=MEDIA_TYPE, headers=SAFE)


@router.get("/{job_id}/checkpoints", summary="Checkpoints of a job, newest first")
def get_checkpoints(job_id: str, database: TheDatabase) -> Page[CheckpointView]:
    """Where it would go on from. Those of a job that has succeeded are gone, but for its `keep_epochs`."""
    with database.read() as session:
        queue.find_job(session, job_id)
        return Page(items=[checkpoint_view(row) for row in list_checkpoints(session, job_id)])


@router.get(
    "/{job_id}/logs",
    summary="What the process of a job printed, or prints",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, EVENT_STREAM: {"example": "id: 71\nevent: line\ndata: ...\n\n"}}}},
)
async def get_logs(
    job_id: str,
    request: Request,
    house: TheHouse,
    last_event_id: LastEventId = None,
) -> Response:
    """Its last megabyte, which may name folders of the machine.

    With `Accept: text/event-stream` its lines as they come, until the job has ended; `Last-Event-ID` resumes it.
    """
    await run_in_threadpool(_has_ended, house, job_id)
    if wants_stream(request):
        return stream(house, lambda after: _lines(house, job_id, after), position(last_event_id) or 0)
    text = await run_in_threadpool(tail, house.artifacts.job_log(job_id), LOG_BYTES)
    return PlainTextResponse(text.decode(errors="replace"), headers=PLAIN)


@router.get(
    "/{job_id}/bundle",
    summary="All that is known of a job, in one zip",
    response_class=Response,
    responses={200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_bundle(job_id: str, house: TheHouse) -> Response:
    """Spec with seeds, curves, events, checkpoints, versions and the end of its log, to see why it failed."""
    content = bundle(house.database, house.artifacts, job_id)
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.zip"'}
    return Response(content, media_type="application/zip", headers=headers)


def _has_ended(house: House, job_id: str) -> bool:
    with house.database.read() as session:
        return queue.find_job(session, job_id).status in ENDED


def _lines(house: House, job_id: str, after: int) -> tuple[Sequence[tuple[int, str]], bool]:
    """Looked at first: a job that has ended prints no more."""
    ended = _has_ended(house, job_id)
    found = lines_after(house.artifacts.job_log(job_id), after, finished=ended)
    return [frame(end, "line", line) for end, line in found], ended and not found
