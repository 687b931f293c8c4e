"""The content of a data set, from the body of a request to the disk: never more than a piece of it in memory.

What has arrived when a connection breaks stays, and the next part begins there: RFC 9110, section 14.5, partial PUT
with `Content-Range`, which names where a part belongs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import HTTPException, Request
from fastapi.concurrency import contextmanager_in_threadpool
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.guards import TooLarge
from store.artifacts import Artifacts
from store.uploads import OpenUpload, check_room, open_upload

NOT_CONTENT = frozenset({"multipart/form-data", "application/json"})
PIECE_BYTES = 1024 * 1024
RANGE_PATTERN = re.compile(r"^bytes (?:([0-9]{1,18})-([0-9]{1,18})|(\*))/([0-9]{1,18}|\*)$")
FORMS = "bytes FIRST-LAST/TOTAL (TOTAL may be *), or bytes */TOTAL when all has been sent"


@dataclass(frozen=True)
class Part:
    """What a request says it brings. `offset` None: the whole content; `length` and `total` None: not said."""

    offset: int | None = None
    length: int | None = None
    total: int | None = None

    def is_last(self, size: int) -> bool:
        """Whether the content is all there once so many bytes are."""
        return self.offset is None or size == self.total


Settled = TypeVar("Settled")


@dataclass(frozen=True)
class Reception:
    """How content is taken: at most `max_bytes`, broken off when nothing comes for `idle_seconds`."""

    artifacts: Artifacts
    max_bytes: int
    idle_seconds: float

    async def receive(
        self,
        request: Request,
        dataset_id: str,
        *,
        check: Callable[[], None],
        settle: Callable[[bool], Settled],
    ) -> Settled:
        """Adds the body to what has arrived of a data set; what `settle` makes of it, told whether all is there.

        Both `check`, before anything changes, and `settle` are called while nobody else can add: else another upload
        could begin anew on content that is complete.
        """
        part = part_of(request)
        if (part.total or 0) > self.max_bytes or (part.offset or 0) + (part.length or 0) > self.max_bytes:
            raise TooLarge(self.max_bytes)
        rest = (part.total - (part.offset or 0)) if part.total is not None else part.length or 0
        await run_in_threadpool(check_room, self.artifacts, rest)
        opening = open_upload(self.artifacts, dataset_id, offset=part.offset, check=check)
        async with contextmanager_in_threadpool(opening) as upload:
            limit = self.max_bytes if part.length is None else upload.size + part.length
            try:
                await self._pour(request, upload, limit)
            finally:
                await run_in_threadpool(upload.synchronise)
            if not upload.size:
                raise HTTPException(400, "There is no content. Send the archive as the body: `curl -T cats.zip URL`.")
            return await run_in_threadpool(settle, part.is_last(upload.size))

    async def _pour(self, request: Request, upload: OpenUpload, limit: int) -> None:
        waiting = bytearray()
        try:
            async for chunk in self._chunks(request):
                waiting += chunk
                if upload.size + len(waiting) > limit:
                    raise _too_long(limit, self.max_bytes)
                if len(waiting) >= PIECE_BYTES:
                    # Taken first: of a piece that did not fit on the disk nothing may be written twice.
                    piece, waiting = waiting, bytearray()
                    await run_in_threadpool(upload.write, piece)
        finally:
            # What came before a connection broke has come.
            if upload.size + len(waiting) <= limit:
                await run_in_threadpool(upload.write, waiting)

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream()
        while True:
            try:
                async with asyncio.timeout(self.idle_seconds):
                    chunk = await anext(stream, None)
            except ClientDisconnect:
                # Nobody is there to be answered; what came is kept.
                raise HTTPException(400, "The connection broke.") from None
            except TimeoutError:
                message = f"Nothing came for {self.idle_seconds:g} seconds. What came before is kept: go on from there."
                raise HTTPException(408, message, headers={"Connection": "close"}) from None
            if chunk is None:
                return
            yield chunk


def _too_long(limit: int, max_bytes: int) -> Exception:
    return TooLarge(limit) if limit == max_bytes else HTTPException(400, "The body is longer than its headers say.")


def part_of(request: Request) -> Part:
    """What the headers say of the body; 400 if they contradict each other."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in NOT_CONTENT:
        raise HTTPException(415, "Send the bytes of the archive as the body, not a form: `curl -T cats.zip URL`.")
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdecimal() and len(declared) < 19 else None
    text = request.headers.get("content-range")
    if text is None:
        return Part(length=length)
    match = RANGE_PATTERN.match(text.strip())
    if match is None:
        raise HTTPException(400, f"Content-Range is not of the form {FORMS}.")
    first, last, nothing, whole = match.groups()
    total = None if whole == "*" else int(whole)
    part = Part(total, 0, total) if nothing else Part(int(first), int(last) - int(first) + 1, total)
    _check(part, length, nothing=bool(nothing))
    return part


def _check(part: Part, declared: int | None, *, nothing: bool) -> None:
    assert part.length is not None
    if nothing and part.total is None:
        raise HTTPException(400, f"Content-Range is not of the form {FORMS}.")
    if (part.length < 1 and not nothing) or (part.total or part.length) < part.length:
        raise HTTPException(400, "Content-Range ends before it begins, or after TOTAL.")
    if part.total is not None and (part.offset or 0) + part.length > part.total:
        raise HTTPException(400, "Content-Range ends after TOTAL.")
    if declared not in {None, part.length}:
        raise HTTPException(400, f"Content-Range names {part.length} bytes and Content-Length {declared}.")
