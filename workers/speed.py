"""How many channels have to go for a network to be so many times as fast: found by timing, not by counting.

Milliseconds do not follow multiply-accumulates: a narrow layer is bound by memory, and a call has its own cost. So
each try is exported, loaded and run beside the parent, as it would be served.
"""

from __future__ import annotations

import math
import shutil

from inference.comparing import compare, fastest
from inference.models import GoldenMismatch
from inference.runtimes import CannotRun
from nets import filters
from nets.architectures import Network
from nets.datasets import Dataset
from nets.errors import CannotCompare, TargetNotReached
from nets.publishing import Publication, publish
from workers.parents import Parent
from workers.run import Run

TRIES = 7
# A little more than was asked for is as good: it would be lost in the next measurement.
ENOUGH = 1.1
CLOSE = 0.01


class Speeds:
    """How many times as fast a network is as its parent, for one image."""

    def __init__(self, run: Run, parent: Parent) -> None:
        self._run, self._parent = run, parent
        self._threads = run.settings.inference_threads
        try:
            self._served = parent.served(threads=self._threads)
        except (CannotRun, GoldenMismatch) as error:
            raise CannotCompare(str(error)) from error

    def of(self, network: Network) -> float:
        """Publishes the network for a moment, and times it."""
        self._run.on_work()
        manifest = self._parent.manifest
        request = Publication(
            id=manifest.id,
            kind="pruned",
            architecture=manifest.architecture,
            data=self._parent.data,
            training={},
            metrics={},
        )
        folder = self._run.artifacts.new_scratch()
        try:
            publish(folder, network, request=request, graphs=self._run.artifacts.graphs())
            return compare(self._served, fastest(folder, threads=self._threads), batches=(1,))[0].speedup
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def share_for_speed(speeds: Speeds, cutter: filters.Cutter, data: Dataset, *, asked: float) -> tuple[float, float]:
    """The least share of channels found after whose cut the network is `asked` times as fast, and how fast it then is.

    TargetNotReached if no share does.
    """
    low, high = (0.0, 1.0), (1.0, math.nan)  # share, and how fast that is
    share = _first_guess(cutter, data, asked)
    for _ in range(TRIES):
        found = speeds.of(cutter.at(share))
        if asked <= found <= asked * ENOUGH:
            return share, found
        low, high = (low, (share, found)) if found >= asked else ((share, found), high)
        if math.isnan(high[1]):
            high = (1.0, _fastest(speeds, cutter, asked))
        if high[0] - low[0] < CLOSE:
            break
        share = _between(low, high, asked)
    return high


def _fastest(speeds: Speeds, cutter: filters.Cutter, asked: float) -> float:
    """How fast it is with all cut that may be; TargetNotReached if that is not enough."""
    best = speeds.of(cutter.at(1.0))
    if best < asked:
        raise TargetNotReached("speedup", asked, best)
    return best


def _first_guess(cutter: filters.Cutter, data: Dataset, asked: float) -> float:
    """As if time went with multiply-accumulates."""
    measure = filters.measures(cutter, data)["macs"]
    return filters.share_for(cutter, measure, max(1 / asked, measure(cutter.at(1.0))), name="macs")


def _between(low: tuple[float, float], high: tuple[float, float], asked: float) -> float:
    """Where the speed asked for should lie, if its logarithm grows evenly; the middle where it does not grow."""
    if high[1] <= low[1]:
        return (low[0] + high[0]) / 2
    part = math.log(asked * math.sqrt(ENOUGH) / low[1]) / math.log(high[1] / low[1])
    return low[0] + (high[0] - low[0]) * min(0.9, max(0.1, part))
