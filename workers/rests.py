"""Rests between the steps of a training while predictions are slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from store.slowness import is_told

LOOK_SECONDS = 0.5
LONGEST_SECONDS = 1.0


class Rests:
    """As long as predictions are slow a training that asks after each step works half of the time.

    Waiting changes no step: the weights come out the same.
    """

    def __init__(
        self,
        home: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._home = home
        self._clock = clock
        self._sleep = sleep
        self._looked_at = float("-inf")
        self._slow = False
        self._since: float | None = None

    def take(self) -> None:
        """Rests as long as the step took since the last call, if predictions are slow."""
        moment = self._clock()
        if moment - self._looked_at >= LOOK_SECONDS:
            self._looked_at, self._slow = moment, is_told(self._home)
        if self._slow and self._since is not None:
            self._sleep(min(LONGEST_SECONDS, moment - self._since))
        self._since = self._clock()
