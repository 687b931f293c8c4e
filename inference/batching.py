"""Requests for single images, run in batches, without waiting for a batch to fill.

An idle batcher runs what it is given at once. While a batch runs, requests gather, and the next batch takes
them: so batches grow with load and only with load.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.statistics import ModelStatistics

# What the network is given of one image: pixels, uint8 (H, W, C), or what it reads itself, float32 (C, H, W).
Image = NDArray[Any]
Logits = NDArray[np.float32]
Outcome = Logits | Exception

SMOOTHING = 0.2
FIRST_GUESS_SECONDS = 1.0
QUICK_SECONDS = 0.002
# Batches of all models take turns, so none may be long: another model's single image waits for it.
BATCH_SECONDS = 0.1


class QueueFull(RuntimeError):
    """More images wait than may; `retry_after` is about when they are done, in seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} images wait already; try again in {retry_after:.1f} s")
        self.waiting = waiting
        self.retry_after = retry_after


class TooManyImages(ValueError):
    """More images in one request than the queue can ever hold."""


class BatcherClosed(RuntimeError):
    """The model was unloaded before the request had its turn."""


class Batcher:
    """Collects images for one model. All methods belong to the thread of one event loop.

    `run` takes a stack of images to logits (N, classes) and runs in `executor` (the loop's own by default), one batch
    at a time: up to `max_batch` images, and fewer of a network so slow that these take longer than `BATCH_SECONDS`.
    """

    def __init__(
        self,
        run: Callable[[Image], Logits],
        *,
        max_batch: int = 32,
        max_queued: int = 256,
        executor: Executor | None = None,
        statistics: ModelStatistics | None = None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_queued = max_queued
        self._executor = executor
        self._statistics = statistics or ModelStatistics()
        self._queue: OrderedDict[asyncio.Future[Logits], tuple[Image, float]] = OrderedDict()
        self._drain_task: asyncio.Task[None] | None = None
        self._closed = False
        self._seconds_per_image: float | None = None

    @property
    def waiting(self) -> int:
        """Images that are queued and not yet taken into a batch."""
        return len(self._queue)

    async def predict(self, pixels: Image) -> Logits:
        """Logits (classes,) of one image. Raises QueueFull, BatcherClosed or what `run` raised for it."""
        rows = await self.predict_many([pixels])
        row: Logits = rows[0]
        return row

    async def predict_many(self, images: Sequence[Image] | Image) -> Logits:
        """Logits (N, classes) of N images, all or none of which are queued; they may run beside others' images."""
        futures = self._admit(images)
        try:
            return np.stack(await asyncio.gather(*futures))
        finally:
            # A request that was cancelled, or of which one image failed, wants no more of its answers.
            for future in futures:
                self._queue.pop(future, None)
                future.cancel()

    def predict_now(self, images: Sequence[Image] | Image) -> Logits | None:
        """Logits (N, classes) at once, in the thread of the loop; None unless the batcher is idle and they are quick.

        For a caller who knows that nobody else asks just now: two hand-overs between threads cost more than a small
        network takes. It keeps the loop from all else for up to `QUICK_SECONDS`.
        """
        idle = self._drain_task is None and not self._queue and not self._closed
        known = self._seconds_per_image
        if not idle or known is None or not 0 < len(images) <= self._max_batch or known * len(images) > QUICK_SECONDS:
            return None
        started = time.perf_counter()
        rows: Logits = self._run(np.stack(list(images)))
        self._count(len(images), time.perf_counter() - started)
        return rows

    async def close(self) -> None:
        """Fails what is queued with BatcherClosed and waits for the running batch, which still answers."""
        self._closed = True
        self._fail_queued()
        if self._drain_task is not None:
            await asyncio.wait([self._drain_task])

    def _admit(self, images: Sequence[Image] | Image) -> list[asyncio.Future[Logits]]:
        if self._closed:
            raise BatcherClosed("The model was unloaded; ask again.")
        if not 0 < len(images) <= self._max_queued:
            raise TooManyImages(f"A request has 1 to {self._max_queued} images.")
        if len(self._queue) + len(images) > self._max_queued:
            raise QueueFull(len(self._queue), self._retry_after())
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Logits]] = [loop.create_future() for _ in images]
        now = time.perf_counter()
        self._queue.update((future, (image, now)) for future, image in zip(futures, images, strict=True))
        if self._drain_task is None:
            self._drain_task = loop.create_task(self._drain())
        return futures

    def _retry_after(self) -> float:
        if self._seconds_per_image is None:
            return FIRST_GUESS_SECONDS
        return self._seconds_per_image * (len(self._queue) + self._max_batch)

    async def _drain(self) -> None:
        batch: dict[asyncio.Future[Logits], tuple[Image, float]] = {}
        try:
            while batch := self._take():
                outcomes, seconds = await self._outcomes([image for image, _ in batch.values()])
                took_up = time.perf_counter() - seconds
                waits = [max(0.0, took_up - since) for _, since in batch.values()]
                self._count(len(batch), seconds, waits)
                _deliver(list(batch), outcomes)
        finally:
            # Reached with work left only when the loop is being shut down.
            self._drain_task = None
            self._fail_queued()
            for future in batch:
                future.cancel()

    def _take(self) -> dict[asyncio.Future[Logits], tuple[Image, float]]:
        batch: dict[asyncio.Future[Logits], tuple[Image, float]] = {}
        most = self._largest_batch()
        while self._queue and len(batch) < most:
            future, entry = self._queue.popitem(last=False)
            if not future.done():
                batch[future] = entry
        return batch

    def _largest_batch(self) -> int:
        if not self._seconds_per_image:
            return self._max_batch
        return max(1, min(self._max_batch, int(BATCH_SECONDS / self._seconds_per_image)))

    async def _outcomes(self, images: list[Image]) -> tuple[list[Outcome], float]:
        """A row or an error for each image, and the seconds that they took once it was their turn."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, _timed_batch, self._run, images)
        except Exception as error:  # the executor takes no more work
            return [error] * len(images), 0.0

    def _count(self, images: int, seconds: float, waits: Sequence[float] = ()) -> None:
        self._statistics.count_batch(images, seconds, waits)
        self._learn(seconds / images)

    def _learn(self, seconds: float) -> None:
        before = seconds if self._seconds_per_image is None else self._seconds_per_image
        self._seconds_per_image = before + SMOOTHING * (seconds - before)

    def _fail_queued(self) -> None:
        while self._queue:
            future, _ = self._queue.popitem(last=False)
            if not future.done():
                future.set_exception(BatcherClosed("The model was unloaded before this image had its turn; ask again."))


def _timed_batch(run: Callable[[Image], Logits], images: list[Image]) -> tuple[list[Outcome], float]:
    started = time.perf_counter()
    outcomes = _run_batch(run, images)
    return outcomes, time.perf_counter() - started


def _run_batch(run: Callable[[Image], Logits], images: list[Image]) -> list[Outcome]:
    """A row or an error for each image: if the batch fails, each image is run alone, so that only the bad ones fail."""
    try:
        rows = run(np.stack(images))
        if len(rows) != len(images):
            raise RuntimeError(f"{len(images)} images gave {len(rows)} answers")
        return list(rows)
    except Exception as error:
        if len(images) == 1:
            return [error]
        return [outcome for image in images for outcome in _run_batch(run, [image])]


def _deliver(futures: list[asyncio.Future[Logits]], outcomes: list[Outcome]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
