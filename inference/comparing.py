"""How much faster one model is than another, measured on both in turn, so that a slow moment meets both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from inference.measuring import measure
from inference.models import LoadedModel, load_model

BATCHES = (1, 8, 32)
WARM_UPS = 3
LEAST_PAIRS, MOST_PAIRS = 9, 200
SECONDS = 1.5  # of pairs for each batch


@dataclass(frozen=True)
class Timing:
    """Milliseconds for a batch: the median, and what one call in twenty exceeds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Comparison:
    """How many times as fast the child is: the median over pairs of calls, and its interval at 95 %."""

    batch: int
    parent: Timing
    child: Timing
    speedup: float
    low: float
    high: float
    pairs: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def compare(parent: LoadedModel, child: LoadedModel, *, batches: Sequence[int] = BATCHES) -> list[Comparison]:
    """Both models from pixels to logits, for each size of a batch."""
    return [_compared(parent, child, batch) for batch in batches]


def fastest(directory: Path, *, threads: int = 0) -> LoadedModel:
    """The model of a directory in the runtime that is its fastest; raises as `inference.measuring.measure` does."""
    return load_model(directory, runtime=measure(directory, threads=threads).runtime, threads=threads)


def _compared(parent: LoadedModel, child: LoadedModel, batch: int) -> Comparison:
    calls = [_call(model, batch) for model in (parent, child)]
    for call in calls * WARM_UPS:
        call()
    end = time.perf_counter() + SECONDS
    pairs: list[tuple[float, float]] = []
    while len(pairs) < LEAST_PAIRS or (len(pairs) < MOST_PAIRS and time.perf_counter() < end):
        pairs.append((calls[0](), calls[1]()))
    ratios = sorted(before / after for before, after in pairs)
    low, high = median_interval(len(ratios))
    return Comparison(
        batch=batch,
        parent=_timing([before for before, _ in pairs]),
        child=_timing([after for _, after in pairs]),
        speedup=round(median(ratios), 3),
        low=round(ratios[low], 3),
        high=round(ratios[high], 3),
        pairs=len(pairs),
    )


def _call(model: LoadedModel, batch: int) -> Callable[[], float]:
    rule = model.manifest.preprocessing
    size = (batch, rule.image_size, rule.image_size, rule.channels)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)

    def call() -> float:
        start = time.perf_counter()
        model.predict(pixels)
        return 1000 * (time.perf_counter() - start)

    return call


def _timing(milliseconds: list[float]) -> Timing:
    return Timing(round(median(milliseconds), 4), round(quantiles(milliseconds, n=20)[-1], 4))


def median_interval(count: int) -> tuple[int, int]:
    """Which of `count` sorted values bound their median at 95 %, whatever their distribution (by the sign test)."""
    reach = 1.96 * math.sqrt(count) / 2
    return max(0, math.floor(count / 2 - reach)), min(count - 1, math.ceil(count / 2 + reach))
