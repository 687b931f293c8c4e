"""Counts of values by size, in fixed buckets: what a latency looks like when there are too many to keep."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import inf

# A stage of a prediction takes from some hundredths of a millisecond to, behind a long queue, seconds.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Histogram:
    """Values counted by the least bound that they do not exceed; larger ones in a last bucket.

    `bounds` rise. To be used by one thread, or under a lock of the caller's; `copy` is for another thread to read.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Counts one value, seconds or whatever else the bounds are of."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """The same counts, which do not change any more."""
        copied = Histogram(self.bounds)
        copied.counts, copied.sum = list(self.counts), self.sum
        return copied

    def cumulative(self) -> list[tuple[float, int]]:
        """For each bound, infinity at last, how many values do not exceed it."""
        return list(zip((*self.bounds, inf), accumulate(self.counts), strict=True))
