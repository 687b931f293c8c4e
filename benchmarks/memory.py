"""What memory a training takes at its peak, and how that grows with the batch and with the side of the images.

    python -m benchmarks.memory [--networks NAME ...] [--json FILE]

Each training runs in a process of its own, three batches by Adam and a validation, checkpoints included. What the
process holds before it, PyTorch for the most part, is told apart; the images themselves are uint8 and not counted.
Takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.api import MEBIBYTE, machine, tell
from benchmarks.processes import alone
from benchmarks.recipes import train_once
from benchmarks.training import NETWORKS
from nets.datasets import Dataset, assemble, moments_of
from nets.pixels import Pixels
from specs.splits import Splits
from workers.child import KEEP_MEMORY

CLASSES = 10
# Batch and side: each of them doubled from where the others begin.
SHAPES = ((32, 32), (64, 32), (128, 32), (32, 64), (32, 128))
KIBIBYTE = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    heads = "".join(f"{f'{batch} x {side}²':>12}" for batch, side in SHAPES)
    print(f"MiB, batch x pixels\n{'network':14}{'before':>9}{heads}{'MiB an image':>14}")
    rows = {}
    for name in arguments.networks:
        rows[name] = [of_a_job(name, batch, side) for batch, side in SHAPES]
        print(line(name, rows[name]), flush=True)
    tell({"machine": machine(), "shapes": SHAPES, "figures": rows}, arguments.json)


def line(name: str, row: list[dict[str, float]]) -> str:
    peaks = [entry["peak"] for entry in row]
    each = (peaks[2] - peaks[0]) / (SHAPES[2][0] - SHAPES[0][0])
    return f"{name:14}{row[0]['before']:9.0f}" + "".join(f"{peak:12.0f}" for peak in peaks) + f"{each:14.2f}"


def of_a_job(name: str, batch: int, side: int) -> dict[str, float]:
    """`peak_of` in a new process, as a job has its memory: a peak never falls again."""
    with alone(KEEP_MEMORY) as pool:
        return pool.submit(peak_of, name, batch, side).result()


def peak_of(name: str, batch: int, side: int) -> dict[str, float]:
    """MiB that this process holds before a training, and how many more it takes at its peak."""
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    changes: dict[str, Any] = {"epochs": 1, "batch_size": batch}
    data = noise(batch, side)
    before = psutil.Process().memory_info().rss / MEBIBYTE
    train_once({"name": name, **NETWORKS[name]}, changes, data, seed=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE / MEBIBYTE
    return {"before": before, "peak": peak - before}


def noise(batch: int, side: int) -> Dataset:
    """Three batches to train with, and one each to validate and to test."""
    pixels = np.random.default_rng(0).integers(0, 256, (5 * batch, side, side, 3), dtype=np.uint8)
    numbers = [*range(len(pixels))]
    return assemble(
        Pixels(pixels),
        moments_of(pixels),
        labels=np.arange(len(pixels), dtype=np.int64) % CLASSES,
        splits=Splits(numbers[: 3 * batch], numbers[3 * batch : 4 * batch], numbers[4 * batch :]),
        classes=tuple(map(str, range(CLASSES))),
        fingerprint="noise",
    )


if __name__ == "__main__":
    main()
