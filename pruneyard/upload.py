"""The content of a data set on its way to the service: in parts, each taken up where the service says it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import cast

import httpx

from pruneyard.answers import Dataset, UploadState
from pruneyard.connection import Connection, checked, content_of
from pruneyard.errors import AWAY, ApiError, DatasetFailed, NotReachable, PruneyardError
from pruneyard.packing import Archive

MEBIBYTE = 1024 * 1024
PART_BYTES = 8 * MEBIBYTE
LEAST_PART_BYTES = MEBIBYTE // 4
# What is sent between two reports of progress.
PIECE_BYTES = MEBIBYTE // 4
# A little longer than a service keeps the place of a connection that died without a word, which is a minute.
PATIENCE = 75.0
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0
BUSY = AWAY | {408, 429}
# Bytes of a request of ours that broke may still be written when the next one asks.
MOST_GROWTHS = 2

OnProgress = Callable[[int, int], object]


class Patience:
    """Bears trouble for so many seconds since something last moved, with longer and longer pauses."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.forget()

    def forget(self) -> None:
        """Something moved."""
        self._since: float | None = None
        self._delay = FIRST_DELAY

    def bear(self, error: Exception, *, wanted: float = 0.0) -> None:
        """Pause, for `wanted` seconds at least; raises the error when that is too long."""
        now = time.monotonic()
        self._since = self._since or now
        delay = max(self._delay, wanted)
        if now + delay > self._since + self._seconds:
            raise error
        time.sleep(delay)
        self._delay = min(2 * self._delay, LONGEST_DELAY)


class Upload:
    """Sends an archive to the data set at `path`; `on_progress` is called with bytes sent and of how many.

    What was sent may count down: of a part that broke, only what has arrived counts.
    """

    def __init__(
        self,
        connection: Connection,
        path: str,
        archive: Archive,
        *,
        on_progress: OnProgress | None = None,
        part_bytes: int = PART_BYTES,
        patience: float = PATIENCE,
    ) -> None:
        self._connection = connection
        self._path = path
        self._archive = archive
        self._on_progress = on_progress
        self._patience = Patience(patience)
        self._most_bytes = self._part_bytes = part_bytes
        self._received = -1
        self._put_right: set[int] = set()
        self._busy_at: int | None = None
        self._growths = 0

    def run(self) -> Dataset:
        """The data set once all has arrived; raises DatasetFailed, ApiError, NotReachable, PruneyardError."""
        view: Dataset | None = None
        while True:
            try:
                view = self._ask() if view is None else self._send(view)
            except (httpx.TransportError, NotReachable, ApiError) as error:
                self._bear(error)
                # What has arrived only the service knows.
                view = None
                continue
            if view["status"] != "uploading":
                return self._ended(view)
            self._note(view)

    def _ask(self) -> Dataset:
        return cast(Dataset, self._connection.request("GET", self._path, repeat=False))

    def _send(self, view: Dataset) -> Dataset:
        first = received(view)
        part = self._archive.part(first, self._part_bytes)
        # Nothing is left to send if the service stopped between the last byte and the reading.
        span = f"{first}-{first + len(part) - 1}" if part else "*"
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(part)),
            "Content-Range": f"bytes {span}/{self._archive.size}",
        }
        content = self._pieces(first, part)
        response = checked(self._connection.http.put(f"{self._path}/content", content=content, headers=headers))
        answer = cast(Dataset, content_of(response))
        if answer["status"] == "uploading" and received(answer) <= first:
            raise PruneyardError(f"The service took a part at byte {first} but counts {received(answer)} bytes only.")
        self._part_bytes = min(2 * self._part_bytes, self._most_bytes)
        self._busy_at, self._growths = None, 0
        return answer

    def _pieces(self, first: int, part: bytes) -> Iterator[bytes]:
        view = memoryview(part)
        for start in range(0, len(part), PIECE_BYTES):
            piece = bytes(view[start : start + PIECE_BYTES])
            yield piece
            self._tell(first + start + len(piece))

    def _note(self, view: Dataset) -> None:
        count = received(view)
        self._require_fit(count, view.get("upload") or {"received": 0})
        if count > self._received:
            self._patience.forget()
        self._received = count
        self._tell(count)

    def _require_fit(self, count: int, state: UploadState) -> None:
        size = self._archive.size
        total, most = state.get("total"), state.get("max_bytes")
        if total not in {None, size} or count > size:
            raise PruneyardError(
                f"{self._archive.path} has {size} bytes to send, but this upload was begun with {total or count}: "
                "its files have changed since. Begin a new one."
            )
        if most is not None and size > most:
            raise PruneyardError(f"{self._archive.path} has {size} bytes to send; this service takes at most {most}.")

    def _bear(self, error: httpx.TransportError | NotReachable | ApiError) -> None:
        """Pause after what can pass, raise what cannot."""
        if isinstance(error, httpx.TransportError):
            self._shorten_parts(error)
            self._patience.bear(self._connection.not_reachable(error))
        elif isinstance(error, NotReachable):
            self._patience.bear(error)
        elif error.status == 409:
            self._bear_conflict(error)
        elif error.status in BUSY:
            self._patience.bear(error, wanted=error.retry_after or 0.0)
        else:
            raise error

    def _shorten_parts(self, error: httpx.TransportError) -> None:
        """A line that breaks often gets parts that are through before it does."""
        if not isinstance(error, httpx.ConnectError):
            self._part_bytes = max(self._part_bytes // 2, LEAST_PART_BYTES)

    def _bear_conflict(self, error: ApiError) -> None:
        """Another offset than thought is put right once a part; an upload under way ends soon if it was ours."""
        if "received" in error.problem:
            if self._received in self._put_right:
                raise error
            self._put_right.add(self._received)
            return
        if self._busy_at is not None and self._received > self._busy_at:
            self._growths += 1
        self._busy_at = self._received
        if self._growths > MOST_GROWTHS:
            raise error
        self._patience.bear(error, wanted=error.retry_after or 0.0)

    def _ended(self, view: Dataset) -> Dataset:
        if view["status"] == "failed":
            raise DatasetFailed(view)
        self._tell(self._archive.size)
        return view

    def _tell(self, count: int) -> None:
        if self._on_progress is not None:
            self._on_progress(count, self._archive.size)


def received(view: Dataset) -> int:
    """Bytes of a data set's content that have arrived."""
    state = view.get("upload")
    return state["received"] if state else 0
