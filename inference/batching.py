"""Requests for single images, run in batches, without waiting for a batch to fill.

An idle batcher runs what it is given at once. While a batch runs, requests gather, and the next batch takes
them: so batches grow with load and only with load.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.statistics import ModelStatistics

# What the network is given of one image: pixels, uint8 (H, W, C), or what it reads itself, float32 (C, H, W).
Image = NDArray[Any]
Logits = NDArray[np.float32]
Outcome = Logits | Exception
Waiting = dict[asyncio.Future[Logits], tuple[Image, float]]
# What came of a batch, and when it was begun and ended.
Timed = tuple[list[Outcome], float, float]

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

    `run` takes a stack of images to logits (N, classes) and runs in `executor` (a thread of its own by default), one
    batch at a time: up to `max_batch` images, and fewer of a network so slow that these take longer than
    `BATCH_SECONDS`. The executor's thread takes its next batch by itself: under load the loop has tens of requests to
    read before it would hear that the last batch has ended. Between two batches it does what others have handed in.
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
        self._executor = executor or ThreadPoolExecutor(1, "batch")
        self._statistics = statistics or ModelStatistics()
        # Images go in by the loop; the executor's thread takes them out, and the loop those that nobody wants any more.
        self._queue: OrderedDict[asyncio.Future[Logits], tuple[Image, float]] = OrderedDict()
        self._lock = Lock()
        # Done once no batch runs and none is about to; None while there is nothing to wait for.
        self._busy: asyncio.Future[None] | None = None
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
            if len(futures) == 1:  # to gather one takes longer than to wait for it
                return (await futures[0])[np.newaxis]
            return np.stack(await asyncio.gather(*futures))
        finally:
            # A request that was cancelled, or of which one image failed, wants no more of its answers.
            with self._lock:
                for future in futures:
                    self._queue.pop(future, None)
            for future in futures:
                future.cancel()

    def predict_now(self, images: Sequence[Image] | Image) -> Logits | None:
        """Logits (N, classes) at once, in the thread of the loop; None unless the batcher is idle and they are quick.

        For a caller who knows that nobody else asks just now: two hand-overs between threads cost more than a small
        network takes. It keeps the loop from all else for up to `QUICK_SECONDS`.
        """
        idle = self._busy is None and not self._queue and not self._closed
        known = self._seconds_per_image
        if not idle or known is None or not 0 < len(images) <= self._max_batch or known * len(images) > QUICK_SECONDS:
            return None
        started = time.perf_counter()
        rows: Logits = self._run(_stacked(images))
        self._count(len(images), time.perf_counter() - started)
        return rows

    async def close(self) -> None:
        """Fails what is queued with BatcherClosed and waits for the running batch, which still answers."""
        self._closed = True
        self._fail_queued(BatcherClosed("The model was unloaded before this image had its turn; ask again."))
        if self._busy is not None:
            await asyncio.wait([self._busy])

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
        entries = [(future, (image, now)) for future, image in zip(futures, images, strict=True)]
        with self._lock:
            self._queue.update(entries)
            if self._busy is None:
                self._busy = loop.create_future()
                # Not at once: what else has come in at this moment goes with it.
                loop.call_soon(self._hand_over, loop)
        return futures

    def _retry_after(self) -> float:
        if self._seconds_per_image is None:
            return FIRST_GUESS_SECONDS
        return self._seconds_per_image * (len(self._queue) + self._max_batch)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has the executor run the next batch; on whichever thread ended the one before."""
        try:
            self._executor.submit(self._run_next, loop)
        except RuntimeError as error:  # it takes no more work
            with suppress(RuntimeError):  # nor does the loop
                loop.call_soon_threadsafe(self._stop, error, loop)

    def _run_next(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._take()
        timed = _timed_batch(self._run, [image for image, _ in batch.values()])
        more = bool(self._queue)
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(self._ended, batch, timed, None if more else loop)
            if more:
                self._hand_over(loop)

    def _take(self) -> Waiting:
        batch: Waiting = {}
        most = self._largest_batch()
        with self._lock:
            while self._queue and len(batch) < most:
                future, entry = self._queue.popitem(last=False)
                if not future.done():
                    batch[future] = entry
        return batch

    def _ended(self, batch: Waiting, timed: Timed, idle: asyncio.AbstractEventLoop | None) -> None:
        """A batch has been run; with a loop, it was the last one for now."""
        outcomes, started, ended = timed
        if batch:
            waits = [max(0.0, started - since) for _, since in batch.values()]
            self._count(len(batch), ended - started, waits)
            _deliver(list(batch), outcomes)
        if idle is not None:  # before those who were answered go on: to them the batcher is at rest
            self._rest(idle)

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """The executor found nothing to do: waits for the next image, unless one has come in since."""
        if self._queue:
            self._hand_over(loop)
        elif self._busy is not None:
            self._busy.set_result(None)
            self._busy = None

    def _stop(self, error: Exception, loop: asyncio.AbstractEventLoop) -> None:
        self._fail_queued(error)
        self._rest(loop)

    def _largest_batch(self) -> int:
        if not self._seconds_per_image:
            return self._max_batch
        return max(1, min(self._max_batch, int(BATCH_SECONDS / self._seconds_per_image)))

    def _count(self, images: int, seconds: float, waits: Sequence[float] = ()) -> None:
        self._statistics.count_batch(images, seconds, waits)
        self._learn(seconds / images)

    def _learn(self, seconds: float) -> None:
        before = seconds if self._seconds_per_image is None else self._seconds_per_image
        self._seconds_per_image = before + SMOOTHING * (seconds - before)

    def _fail_queued(self, error: Exception) -> None:
        with self._lock:
            futures = list(self._queue)
            self._queue.clear()
        for future in futures:
            if not future.done():
                future.set_exception(error)


def _timed_batch(run: Callable[[Image], Logits], images: list[Image]) -> Timed:
    started = time.perf_counter()
    outcomes = _run_batch(run, images) if images else []
    return outcomes, started, time.perf_counter()


def _run_batch(run: Callable[[Image], Logits], images: list[Image]) -> list[Outcome]:
    """A row or an error for each image: if the batch fails, each image is run alone, so that only the bad ones fail."""
    try:
        rows = run(_stacked(images))
        if len(rows) != len(images):
            raise RuntimeError(f"{len(images)} images gave {len(rows)} answers")
        return list(rows)
    except Exception as error:
        if len(images) == 1:
            return [error]
        return [outcome for image in images for outcome in _run_batch(run, [image])]


def _stacked(images: Sequence[Image] | Image) -> Image:
    """The images in one array; ValueError if they are not of one size.

    numpy lets other threads run while it copies each image, and then has to wait for them; joined bytes are copied in
    one go, unless they are so many that it takes long.
    """
    first = images[0]
    if all(image.shape == first.shape and image.dtype == first.dtype and image.flags.c_contiguous for image in images):
        joined = bytearray().join(image.data for image in images)
        return np.frombuffer(joined, dtype=first.dtype).reshape(len(images), *first.shape)
    return np.stack(list(images))


def _deliver(futures: list[asyncio.Future[Logits]], outcomes: list[Outcome]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
