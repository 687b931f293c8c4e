"""When a checkpoint within an epoch is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of the time that a training takes, writing checkpoints within epochs takes a twentieth at most.
LEAST_TIMES_ITS_COST = 20


class Cadence:
    """Every `seconds`, or less often where writing one takes long; counted from the last one, whatever asked for it."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since: float | None = None
        self._cost = 0.0

    def due(self) -> bool:
        """Whether it is time; the first time this is asked, time begins."""
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since >= max(self._seconds, LEAST_TIMES_ITS_COST * self._cost)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A checkpoint is written in this block."""
        began = self._clock()
        yield
        self._since = self._clock()
        self._cost = self._since - began
