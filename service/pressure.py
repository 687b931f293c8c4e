"""How slow predictions were of late, held against a budget: while they are over it trainings give way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path

import structlog
from starlette.concurrency import run_in_threadpool

from service.observation import SECONDS, Traffic
from specs.settings import Settings
from store import slowness

TICK_SECONDS = 1.0
# A 95th percentile of less than a few requests is one request.
WINDOW = 5
LEAST_REQUESTS = 3
PREDICTIONS = ("/predict", "/infer")

log = structlog.get_logger()


@asynccontextmanager
async def watched(traffic: Traffic, settings: Settings) -> AsyncIterator[None]:
    """Has workers told in this block while predictions take longer than the settings give them, if they say."""
    if settings.predict_budget_ms is None:
        yield
        return
    pressure = Pressure(traffic, settings.home, budget=settings.predict_budget_ms / 1000)
    watching = asyncio.create_task(pressure.watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


class Pressure:
    """Looks at the requests of one app once a second; to be used on its event loop."""

    def __init__(self, traffic: Traffic, home: Path, *, budget: float) -> None:
        """`budget` is in seconds."""
        self._traffic = traffic
        self._home = home
        self._budget = budget
        self._counts = deque([self._count()], maxlen=WINDOW + 1)
        self._slow = False

    async def watch(self) -> None:
        """Tells workers, for as long as this task runs."""
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                await run_in_threadpool(self._tell, slow=self.look() > self._budget)
        finally:
            slowness.take_back(self._home)

    def look(self) -> float:
        """The 95th percentile in seconds of predictions since the look WINDOW looks ago; 0 if there were too few."""
        self._counts.append(self._count())
        recent = [now - before for before, now in zip(self._counts[0], self._counts[-1], strict=True)]
        return percentile(SECONDS, recent, share=0.95) if sum(recent) >= LEAST_REQUESTS else 0.0

    def _count(self) -> list[int]:
        """Predictions so far by how long they took, one number for each bucket."""
        counts = [0] * (len(SECONDS) + 1)
        for (_, route), histogram in self._traffic.seconds.items():
            if route.endswith(PREDICTIONS):
                counts = [sum(pair) for pair in zip(counts, histogram.counts, strict=True)]
        return counts

    def _tell(self, *, slow: bool) -> None:
        if slow:
            slowness.tell(self._home)
        elif self._slow:
            slowness.take_back(self._home)
        if slow != self._slow:
            log.info("predictions are slow, trainings give way" if slow else "predictions are fast enough again")
        self._slow = slow


def percentile(bounds: Sequence[float], counts: Sequence[int], *, share: float) -> float:
    """The value that so many do not exceed, as if those of a bucket were spread over it evenly (Prometheus' way)."""
    wanted, seen, below = share * sum(counts), 0, 0.0
    for bound, count in zip((*bounds, inf), counts, strict=True):
        if count and seen + count >= wanted:
            return below + (bound - below) * (wanted - seen) / count
        seen, below = seen + count, bound
    return 0.0
