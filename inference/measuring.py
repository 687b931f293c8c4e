"""How fast each runtime serves a model here: the runtime of a model is chosen by this."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.files import DamagedFiles
from inference.models import LoadedModel, load_model
from inference.runtimes import RUNTIMES, CannotRun

BATCHES = (1, 8)
WARM_UPS = 3
REPEATS = 50
SECONDS = 1.2  # of repeats in all; loading the model comes on top


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds; `batch_8_p50` is None where the model is too slow to try."""

    batch_1_p50: float
    batch_8_p50: float | None


@dataclass(frozen=True)
class Measurement:
    """The fastest runtime for one image, what every runtime took, and why others were skipped."""

    runtime: str
    device: str
    batch_1_p50: float
    batch_8_p50: float | None
    runtimes: dict[str, Latency]
    skipped: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def measure(directory: Path, *, threads: int = 0) -> Measurement:
    """Latency from pixels to logits of each runtime, on the CPU.

    A runtime that fails or disagrees with the golden answers is skipped. CannotRun if none is left; DamagedFiles.
    """
    measured: dict[str, Latency] = {}
    skipped: dict[str, str] = {}
    for name in RUNTIMES:
        try:
            model = load_model(directory, runtime=name, threads=threads)
            measured[name] = _latency(model, seconds=SECONDS / len(RUNTIMES))
        except DamagedFiles:
            raise
        except Exception as error:
            skipped[name] = str(error)[:300]
    if not measured:
        raise CannotRun("No runtime can serve this model. " + " ".join(skipped.values()))
    best = min(measured, key=lambda name: measured[name].batch_1_p50)
    return Measurement(
        runtime=best,
        device="cpu",
        batch_1_p50=measured[best].batch_1_p50,
        batch_8_p50=measured[best].batch_8_p50,
        runtimes=measured,
        skipped=skipped,
    )


def _latency(model: LoadedModel, *, seconds: float) -> Latency:
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
