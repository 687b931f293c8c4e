"""Turns at the cores: networks of all models run one after the other, whoever asks them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from inference.batching import BATCH_SECONDS, BatcherClosed
from inference.runtimes import Network

R = TypeVar("R")


class Turns:
    """Each turn has all threads that inference may have: two networks at a time would fight for the same cores.

    Turns are short, so that no model waits long for another. Loads and trials take none.
    """

    def __init__(self) -> None:
        self._runner = ThreadPoolExecutor(1, "predict")
        self._cores = threading.RLock()  # held by whoever runs a network: the runner, or the loop for a moment

    @property
    def executor(self) -> Executor:
        """Where whoever waits for nothing else has turns, first come, first served."""
        return self._runner

    def alone(self, run: Callable[[Any], NDArray[np.float32]]) -> Network:
        """The same function, that runs while no other does."""

        def held(images: NDArray[Any]) -> NDArray[np.float32]:
            with self._cores:
                return run(images)

        return held

    def at_once(self, call: Callable[[], R]) -> R | None:
        """What is called now if nobody has a turn, in this thread; else None."""
        if not self._cores.acquire(blocking=False):
            return None
        try:
            return call()
        finally:
            self._cores.release()

    def in_turn(self, network: Network) -> Network:
        """The same network, for other threads: it takes as many turns as its images need, others' between them."""
        alone = self.alone(network)

        def timed(images: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
            started = time.perf_counter()
            return alone(images), (time.perf_counter() - started) / len(images)

        def run(images: NDArray[Any]) -> NDArray[np.float32]:
            rows: list[NDArray[np.float32]] = []
            size, done = 1, 0
            while done < len(images):
                found, seconds = self._have_turn(timed, images[done : done + size])
                rows.append(found)
                done += size
                size = len(images) if seconds <= 0 else max(1, int(BATCH_SECONDS / seconds))
            return np.concatenate(rows)

        return run

    def close(self) -> None:
        """Gives no more turns; whoever waits for one is told so."""
        self._runner.shutdown(wait=False, cancel_futures=True)

    def _have_turn(self, call: Callable[[NDArray[Any]], R], images: NDArray[Any]) -> R:
        try:
            turn = self._runner.submit(call, images)
        except RuntimeError as error:  # it takes no more work
            raise BatcherClosed("The service ends; ask again.") from error
        try:
            return turn.result()
        except CancelledError as error:
            raise BatcherClosed("The service ended before this had its turn; ask again.") from error
