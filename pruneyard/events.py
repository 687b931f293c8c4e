"""A job's events as they happen (server-sent events, WHATWG HTML section 9.2), taken up again after a break."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import httpx

from pruneyard.answers import Event, Job
from pruneyard.connection import Connection, checked
from pruneyard.errors import Away, NotReachable, PruneyardError

FINISHED = frozenset({"succeeded", "failed", "cancelled"})
NO_STREAM = frozenset({405, 406, 501})
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0
PATIENCE = 60.0
SILENCE = 90.0


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Events from the lines of a stream; data that is not JSON stays text."""
    last_id: str | None = None
    name, data = "", list[str]()
    for line in lines:
        if not line:
            if data:
                yield {"id": last_id, "event": name or "message", "data": _value("\n".join(data))}
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id" and "\0" not in value:
            last_id = value
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


class EventStream:
    """The events of one job; iterate it once."""

    def __init__(self, connection: Connection, path: str, *, job: Callable[[], Job]) -> None:
        self._connection = connection
        self._path = path
        self._job = job
        self._last_id: str | None = None
        self._delay = FIRST_DELAY
        self._heard = time.monotonic()

    def __iter__(self) -> Iterator[Event]:
        finished = False
        while True:
            try:
                with self._open() as response:
                    if not _is_stream(response):
                        break
                    yield from self._read(response)
                # A server that shuts down ends its streams in good order too: once a job is
                # finished, one more look from the last id on shows what was missed.
                known, finished = finished, self._job()["status"] in FINISHED
            except (httpx.TransportError, NotReachable, Away) as error:
                self._pause(error)
                continue
            if finished and (known or self._last_id is None):
                return
            time.sleep(FIRST_DELAY)
        yield from self._poll()

    @contextmanager
    def _open(self) -> Iterator[httpx.Response]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._last_id is not None:
            headers["Last-Event-ID"] = self._last_id
        timeout = httpx.Timeout(10.0, read=SILENCE)
        with self._connection.http.stream("GET", self._path, headers=headers, timeout=timeout) as response:
            if not response.is_success and response.status_code not in NO_STREAM:
                response.read()
                checked(response)
            yield response

    def _read(self, response: httpx.Response) -> Iterator[Event]:
        for event in parse_events(self._lines(response)):
            self._last_id = event["id"] if event["id"] is not None else self._last_id
            yield event

    def _lines(self, response: httpx.Response) -> Iterator[str]:
        """Those of a stream; a quiet one has some too, by which it is known to be there."""
        for line in response.iter_lines():
            self._heard, self._delay = time.monotonic(), FIRST_DELAY
            yield line

    def _pause(self, error: httpx.TransportError | PruneyardError) -> None:
        if time.monotonic() - self._heard > PATIENCE + SILENCE:
            raise error if isinstance(error, PruneyardError) else self._connection.not_reachable(error)
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, LONGEST_DELAY)

    def _poll(self) -> Iterator[Event]:
        before: Job | None = None
        while True:
            job = self._job()
            if job != before:
                yield {"id": None, "event": "job", "data": job}
            if job["status"] in FINISHED:
                return
            before = job
            time.sleep(FIRST_DELAY)


def _is_stream(response: httpx.Response) -> bool:
    return response.is_success and response.headers.get("Content-Type", "").startswith("text/event-stream")
