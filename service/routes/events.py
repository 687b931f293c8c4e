"""What happens to a job: as a JSON page, or as server-sent events until the job has ended."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from service.house import House, TheHouse
from service.paging import Cursor, Limit, next_cursor, position
from service.schemas import EventView, Page
from service.streams import EVENT_STREAM, LastEventId, frame, stream, wants_stream
from service.views import event_view
from store import queue
from store.events import list_events
from store.queue import ENDED

STREAM_PAGE = 200

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


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
    if wants_stream(request):
        return stream(house, lambda after: _frames(house, job_id, after), after)
    page = Page[EventView](items=events, next_cursor=next_cursor(events, limit, key="id"))
    return JSONResponse(page.model_dump(mode="json"))


def _read(house: House, job_id: str, after: int, limit: int) -> tuple[list[EventView], bool]:
    """Events after a number, and whether the job has ended (looked at first: then no later event is missed)."""
    with house.database.read() as session:
        ended = queue.find_job(session, job_id).status in ENDED
        return [event_view(row) for row in list_events(session, job_id, after=after, limit=limit)], ended


def _frames(house: House, job_id: str, after: int) -> tuple[list[tuple[int, str]], bool]:
    events, ended = _read(house, job_id, after, STREAM_PAGE)
    return [_frame(event) for event in events], ended and len(events) < STREAM_PAGE


def _frame(event: EventView) -> tuple[int, str]:
    return frame(event.id, event.type, json.dumps({"at": event.model_dump(mode="json")["at"], **event.data}))
