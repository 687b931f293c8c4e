"""What a network's runtime can do by itself, without a server around it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.processes import alone
from inference.models import load_model
from inference.runtimes import RUNTIMES

BATCH = 32
SECONDS = 2.0


def images_per_second(directory: Path) -> dict[str, float | str]:
    """Of the better runtime, 32 images at a time, with a thread for each core, from pixels to logits."""
    rates = {}
    for runtime in RUNTIMES:
        with alone({}) as pool:
            rates[runtime] = pool.submit(_rate, directory, runtime).result()
    best = max(rates, key=lambda name: rates[name])
    return {"runtime": best, "images_per_second": rates[best]}


def _rate(directory: Path, runtime: str) -> float:
    model = load_model(directory, runtime=runtime)
    look = model.manifest.preprocessing
    size = (BATCH, look.image_size, look.image_size, look.channels)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    for _ in range(3):
        model.predict(pixels)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        model.predict(pixels)
        count += BATCH
    return count / (time.perf_counter() - began)
