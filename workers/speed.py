"""How many channels have to go for a network to be so many times as fast: found by timing, not by counting.

Milliseconds do not follow multiply-accumulates: a narrow layer is bound by memory, and a call has its own cost. So
each try is exported, loaded and run beside the parent, as it would be served.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from inference.comparing import compare
from nets import filters
from nets.architectures import Network
from nets.datasets import Dataset
from nets.errors import TargetNotReached
from nets.publishing import Publication, publish
from workers.run import Run

TRIES = 7
# A little more than was asked for is as good: it would be lost in the next measurement.
ENOUGH = 1.1
CLOSE = 0.01


class Speeds:
    """How many times as fast a network is as its parent, for one image, by tries that are counted."""

    def __init__(self, run: Run, data: Dataset, parent: Path, architecture: dict[str, object]) -> None:
        self._run, self._data, self._parent, self._architecture = run, data, parent, architecture

    def of(self, network: Network) -> float:
        """Publishes the network for a moment, and times it."""
        request = Publication(
            id="mdl_try",
            kind="pruned",
            architecture=dict(self._architecture),
            data=self._data,
            training={},
            metrics={},
        )
        with tempfile.TemporaryDirectory(dir=self._run.artifacts.home) as folder:
            publish(Path(folder), network, request=request, graphs=self._run.artifacts.graphs())
            threads = self._run.settings.inference_threads
            return compare(self._parent, Path(folder), threads=threads, batches=(1,))[0].speedup


def share_for_speed(speeds: Speeds, cutter: filters.Cutter, data: Dataset, *, asked: float) -> float:
    """The least share of channels found after whose cut the network is `asked` times as fast; TargetNotReached."""
    low, high = (0.0, 1.0), (1.0, math.nan)  # share, and how fast that is
    share = _first_guess(cutter, data, asked)
    for _ in range(TRIES):
        found = speeds.of(cutter.at(share))
        if asked <= found <= asked * ENOUGH:
            return share
        low, high = (low, (share, found)) if found >= asked else ((share, found), high)
        if math.isnan(high[1]):
            high = (1.0, _fastest(speeds, cutter, asked))
        if high[0] - low[0] < CLOSE:
            break
        share = _between(low, high, asked)
    return high[0]


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
