"""Server-sent events that follow something until it ends; each has a position, from which a client can go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated

from fastapi import Header, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from service.house import House

POLL_SECONDS = 0.3
KEEP_ALIVE_SECONDS = 15.0
EVENT_STREAM = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

LastEventId = Annotated[
    str | None, Header(pattern=r"^[0-9]{1,18}$", description="Go on after this event.", alias="Last-Event-ID")
]
# Frames after a position, each with its own, and whether there will be no more after these.
Read = Callable[[int], tuple[Sequence[tuple[int, str]], bool]]


def wants_stream(request: Request) -> bool:
    """Whether the client asks for events as they come."""
    return EVENT_STREAM in request.headers.get("accept", "")


def stream(house: House, read: Read, after: int) -> StreamingResponse:
    """What `read` finds, from now on until it says that this is all, or the service closes."""
    return StreamingResponse(_follow(house, read, after), media_type=EVENT_STREAM, headers=HEADERS)


def frame(position: int, kind: str, data: str) -> tuple[int, str]:
    """One event; `data` is one line."""
    return position, f"id: {position}\nevent: {kind}\ndata: {data}\n\n"


async def _follow(house: House, read: Read, after: int) -> AsyncIterator[str]:
    spoke_at = time.monotonic()
    while not house.closing.is_set():
        frames, finished = await run_in_threadpool(read, after)
        for position, text in frames:
            after = position
            yield text
        if finished:
            return
        if frames:
            spoke_at = time.monotonic()
        elif time.monotonic() - spoke_at > KEEP_ALIVE_SECONDS:
            spoke_at = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(POLL_SECONDS)
