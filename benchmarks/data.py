"""What data costs: taking, augmenting and normalising a batch, as a share of the training step that follows it.

    python -m benchmarks.data [--rounds N] [--json FILE]

64 images of 32 x 32 x 3 out of a mapped file, MobileNetV2 with Adam, one thread for each physical core. Each batch is
timed right before its own step, and augmentations take turns, so that a slow moment of the machine meets all. Takes
about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from benchmarks.api import machine, spread, tell
from nets import architectures, optimizers
from nets.batches import Batch, Batches
from nets.datasets import Dataset, assemble, moments_of
from nets.pixels import Pixels
from specs.architectures import ARCHITECTURES
from specs.augmentations import AUGMENTATIONS
from specs.optimizers import OPTIMIZERS
from specs.splits import Splits

SHAPE = (20_000, 32, 32, 3)
CLASSES = 10
BATCH_SIZE = 64
ROUNDS = 30
WARMUP = 3
DEAREST = ("crop-flip", "randaugment", "erase", "cutmix")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="batches of each augmentation")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(noise(Path(folder) / "pixels.u8"), rounds=arguments.rounds)
    figures = {"machine": {**machine(), "threads": torch.get_num_threads()}, "figures": rows}
    for name, row in rows.items():
        print(f"{name:40}", "  ".join(f"{key} {value:7.2f}" for key, value in row.items()))
    tell(figures, arguments.json)


def noise(path: Path) -> Dataset:
    """Images of noise in a mapped file, all of them for training."""
    images = noise_images(SHAPE[0])
    path.write_bytes(images.tobytes())
    return training_only(images, Pixels(np.memmap(path, dtype=np.uint8, mode="r", shape=SHAPE)))


def noise_dataset(count: int) -> Dataset:
    """The same in memory, so many of them."""
    images = noise_images(count)
    return training_only(images, Pixels(images))


def noise_images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE[1:]), dtype=np.uint8)


def training_only(images: NDArray[np.uint8], pixels: Pixels) -> Dataset:
    labels = np.arange(len(images), dtype=np.int64) % CLASSES
    return assemble(
        pixels,
        moments_of(images),
        labels=labels,
        splits=Splits(list(range(len(images))), [], []),
        classes=tuple(map(str, range(CLASSES))),
        fingerprint="",
    )


def measure(data: Dataset, *, rounds: int) -> dict[str, dict[str, float]]:
    step = training_step()
    sources = {", ".join(names): endless(data, names) for names in (*((name,) for name in AUGMENTATIONS), DEAREST)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
    for number in range(WARMUP + rounds):
        for name, batches in sources.items():
            data_seconds, batch = timed(lambda batches=batches: next(batches))
            step_seconds, _ = timed(lambda batch=batch: step(batch))
            if number >= WARMUP:
                times[name].append((data_seconds, step_seconds))
    return {name: row(pairs) for name, pairs in times.items()}


def endless(data: Dataset, names: tuple[str, ...]) -> Iterator[Batch]:
    chosen = tuple(AUGMENTATIONS[name].options() for name in names)
    batches = Batches(data, BATCH_SIZE, chosen, 0, torch.device("cpu"))
    for epoch in count():
        yield from batches.of_epoch(epoch)


def training_step() -> Callable[[Batch], None]:
    """One step of MobileNetV2 as a training makes it."""
    options = ARCHITECTURES["mobilenet_v2"].options()
    network = architectures.build(options, classes=CLASSES, channels=SHAPE[3], image_size=SHAPE[1], seed=0)
    network.to(memory_format=torch.channels_last).train()
    optimizer = optimizers.build(OPTIMIZERS["adam"].options(), network)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = network(batch.images)
        loss = batch.loss(logits).mean
        loss.item()
        loss.backward()
        optimizer.step()
        batch.correct(logits)

    return step


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def row(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Medians in milliseconds; the share in percent, with its spread."""
    shares = spread([100 * data / step for data, step in pairs])
    data, step = (1000 * median(column) for column in zip(*pairs, strict=True))
    return {"data ms": data, "step ms": step, **{f"share % {key}": value for key, value in shares.items()}}


if __name__ == "__main__":
    main()
