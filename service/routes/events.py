"""What happens to a job: as a JSON page, or as server-sent events until the job has ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from service.house import House, TheHouse
from service.paging import Cursor, Limit, next_cursor, position
from service.schemas import EventView, Page
from service.views import event_view
from store import queue
from store.events import list_events
from store.queue import ENDED

POLL_SECONDS = 0.3
KEEP_ALIVE_SECONDS = 15.0
STREAM_PAGE = 200
EVENT_STREAM = "text/event-stream"

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

LastEventId = Annotated[
    str | None, Header(pattern=r"^[0-9]{1,18}$", description="Go on after this event.", alias="Last-Event-ID")
]


@router.get(
    "/{job_id}/events",
    summary="What happened, or happens, to a job",
    response_model=Page[EventView],
    responses={200: {"content": {EVENT_STREAM: {"example": 'id: 7\nevent: state\ndata: {"status": "running"}\n\n'}}}},
)
async def get_events(
    job_id: str,
    request: Request,
    house: TheHouse,
    limit: Limit = 100,
    cursor: Cursor = None,
    last_event_id: LastEventId = None,
) -> Response:
    """With `Accept: text/event-stream` a stream that ends when the job has; `Last-Event-ID` resumes it."""
    after = position(last_event_id) or position(cursor) or 0
    events, _ = await run_in_threadpool(_read, house, job_id, after, limit)
    if EVENT_STREAM in request.headers.get("accept", ""):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(house, job_id, after), media_type=EVENT_STREAM, headers=headers)
    page = Page[EventView](items=events, next_cursor=next_cursor(events, limit, key="id"))
    return JSONResponse(page.model_dump(mode="json"))


def _read(house: House, job_id: str, after: int, limit: int) -> tuple[list[EventView], bool]:
    """Events after a number, and whether the job has ended (looked at first: then no later event is missed)."""
    with house.database.read() as session:
        ended = queue.find_job(session, job_id).status in ENDED
        return [event_view(row) for row in list_events(session, job_id, after=after, limit=limit)], ended


async def _stream(house: House, job_id: str, after: int) -> AsyncIterator[str]:
    spoke_at = time.monotonic()
    while not house.closing.is_set():
        events, ended = await run_in_threadpool(_read, house, job_id, after, STREAM_PAGE)
        for event in events:
            after = event.id
            yield _frame(event)
        if ended and len(events) < STREAM_PAGE:
            return
        if events:
            spoke_at = time.monotonic()
        elif time.monotonic() - spoke_at > KEEP_ALIVE_SECONDS:
            spoke_at = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(POLL_SECONDS)


def _frame(event: EventView) -> str:
    data: dict[str, Any] = {"at": event.model_dump(mode="json")["at"], **event.data}
    return f"id: {event.id}\nevent: {event.type}\ndata: {json.dumps(data)}\n\n"
