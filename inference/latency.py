"""How long a loaded model takes, from pixels to logits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from inference.models import LoadedModel

BATCHES = (1, 8)
WARM_UPS = 3
REPEATS = 50


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds; `batch_8_p50` is None where the model is too slow to try."""

    batch_1_p50: float
    batch_8_p50: float | None


Key = TypeVar("Key")


def costs_of(measured: Mapping[Key, Latency]) -> dict[Key, float]:
    """Milliseconds by which ways to serve a model are compared: the geometric mean over the sizes of a batch.

    Of one image, where eight were too slow to try in one of the ways.
    """
    eights = [latency.batch_8_p50 for latency in measured.values()]
    if None in eights:
        return {key: latency.batch_1_p50 for key, latency in measured.items()}
    return {key: sqrt(latency.batch_1_p50 * (latency.batch_8_p50 or 0)) for key, latency in measured.items()}


def latency_of(model: LoadedModel, *, seconds: float) -> Latency:
    """The latency of one image and of eight, measured for about so many seconds in all."""
    rule = model.manifest.preprocessing
    size = (max(BATCHES), rule.image_size, rule.image_size, rule.channels)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    one = _p50(model.predict, pixels[:1], seconds=seconds / 2)
    too_slow = 2 * len(pixels) * one / 1000 > seconds / 2
    return Latency(one, None if too_slow else _p50(model.predict, pixels, seconds=seconds / 2))


def _p50(predict: Callable[[NDArray[np.uint8]], Any], pixels: NDArray[np.uint8], *, seconds: float) -> float:
    """Median milliseconds of up to `REPEATS` calls after a few to warm up, within `seconds` if two calls fit in."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < WARM_UPS + REPEATS and (len(times) < 2 or time.perf_counter() < end):
        start = time.perf_counter()
        predict(pixels)
        times.append(time.perf_counter() - start)
    return round(1000 * median(times[min(WARM_UPS, len(times) - 1) :]), 4)
