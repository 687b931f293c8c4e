"""The worker's heartbeat, on a thread of its own, so that no work of the main thread delays it."""

from __future__ import annotations

import threading
import time

import structlog

from store import workers
from store.database import Database

BEATS_PER_TTL = 10
FENCE_SHARE = 0.6

log = structlog.get_logger()


class Heartbeat:
    """Beats until stopped. `lost` is set when this worker must consider itself dead:

    others have said so, or no beat could be written for so long that they soon may.
    """

    def __init__(self, database: Database, incarnation: str, *, ttl_seconds: float) -> None:
        self.lost = threading.Event()
        self._database = database
        self._incarnation = incarnation
        self._interval = ttl_seconds / BEATS_PER_TTL
        self._patience = ttl_seconds * FENCE_SHARE
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the beating; the worker must hold no job by then."""
        self._stop.set()
        self._thread.join()

    def _beat_until_stopped(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self._interval) and not self.lost.is_set():
            try:
                known = self._beat()
            except Exception as error:  # a full disk, a lost server: whatever it is, no beat was written
                log.warning("a heartbeat could not be written", error=str(error))
                known = time.monotonic() - last < self._patience
            else:
                last = time.monotonic()
            if not known:
                log.error("this worker counts as dead and stops its job")
                self.lost.set()

    def _beat(self) -> bool:
        with self._database.write() as session:
            return workers.beat(session, self._incarnation)
