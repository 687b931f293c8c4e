"""How long a request may take: said by who asks, in the header X-Timeout-Ms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request

from service.problems import BadField, DeadlinePassed

HEADER = "x-timeout-ms"
MOST_MS = 3_600_000
PARAMETER: dict[str, Any] = {
    "name": "X-Timeout-Ms",
    "in": "header",
    "description": "Milliseconds after which the answer is of no use: 504, and images that still wait are dropped.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST_MS},
}


@asynccontextmanager
async def deadline(request: Request) -> AsyncIterator[None]:
    """Breaks off what is inside when the request's time is over: DeadlinePassed.

    A network that runs already is left to end, since others' images may be in the same batch.
    """
    text = request.headers.get(HEADER)
    if text is None:
        yield
        return
    milliseconds = _milliseconds(text)
    scope = asyncio.timeout(milliseconds / 1000)
    try:
        async with scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlinePassed(f"The answer was not there within {milliseconds} ms.") from None


def _milliseconds(text: str) -> int:
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_MS)) else 0
    if not 1 <= value <= MOST_MS:
        hint = f"Send a whole number of milliseconds, 1 to {MOST_MS}, or leave the header out."
        raise BadField("header:X-Timeout-Ms", message="This is no time to wait.", hint=hint)
    return value
