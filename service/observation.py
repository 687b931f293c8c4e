"""What is seen of every request: its id, how often and how fast it was answered, and a line in the log if asked for.

Plain ASGI and outermost, around the guards and the last handler of errors, so that nothing is answered unseen.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from itertools import count
from time import perf_counter
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.histograms import Histogram

REQUEST_ID: Final = b"x-request-id"
SANE_ID: Final = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER: Final = "other"
# Of a request whose client went before there was an answer; nobody is told, but it is counted (nginx has it so).
NO_ANSWER: Final = 499
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

log = structlog.get_logger()


class Traffic:
    """Requests of one app, counted. It belongs to the thread of the event loop.

    The labels are methods that HTTP knows, templates of routes and statuses, and so are few, whatever is asked for.
    """

    def __init__(self) -> None:
        self.in_progress = 0
        self.answers: dict[tuple[str, str, int], int] = {}
        self.seconds: dict[tuple[str, ...], Histogram] = {}

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request that has been answered."""
        answer, kind = (method, route, status), (method, route)
        self.answers[answer] = self.answers.get(answer, 0) + 1
        histogram = self.seconds.get(kind)
        if histogram is None:
            histogram = self.seconds[kind] = Histogram(SECONDS)
        histogram.add(seconds)

    def copy(self) -> Traffic:
        """The same counts, which do not change any more."""
        copied = Traffic()
        copied.in_progress, copied.answers = self.in_progress, dict(self.answers)
        copied.seconds = {kind: histogram.copy() for kind, histogram in self.seconds.items()}
        return copied


class Observation:
    """Gives each request an id, its own if it brings a sane one, which stands in its response and its log lines."""

    def __init__(self, app: ASGIApp, *, traffic: Traffic, access_log: bool) -> None:
        self.app = app
        self._traffic = traffic
        self._access_log = access_log
        self._made = _new_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _given_id(scope) or next(self._made)
        # Never reset: each request is a task of its own, and the server logs an error in it after we have ended.
        structlog.contextvars.bind_contextvars(request_id=request_id.decode("ascii"))
        status, size = NO_ANSWER, 0

        async def answer(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, request_id)]}
            else:
                size += len(message.get("body", b""))
            await send(message)

        self._traffic.in_progress += 1
        started = perf_counter()
        try:
            await self.app(scope, receive, answer)
        finally:
            self._traffic.in_progress -= 1
            self._note(scope, status, size, perf_counter() - started)

    def _note(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else OTHER
        # The template, never the path: paths are many, and may hold what is nobody's business.
        route = getattr(scope.get("route"), "path", OTHER)
        self._traffic.add(method, route, status, seconds)
        if self._access_log:
            log.info(
                "request",
                method=method,
                route=route,
                status=status,
                ms=round(seconds * 1000, 3),
                bytes=0 if method == "HEAD" else size,
                client=(scope.get("client") or (None,))[0],
            )


def _new_ids() -> Iterator[bytes]:
    """Ids that no other process has: random once, then counted, which takes a fraction of what random bytes take."""
    process = secrets.token_hex(10)
    for number in count(1):
        yield f"{process}{number:012x}".encode("ascii")


def _given_id(scope: Scope) -> bytes | None:
    """The id that a request brings, if it is one and sane."""
    given = [value for name, value in scope["headers"] if name == REQUEST_ID]
    return given[0] if len(given) == 1 and SANE_ID.fullmatch(given[0]) else None
