"""What the recipe `fast` is worth: its accuracy in a quarter of the plain recipe's time, and in the same time.

    python -m benchmarks.recipes FOLDER [--networks NAME ...] [--seeds N ...] [--threads N] [--json FILE]

FOLDER has `train/<class>/<image>` and `test/<class>/<image>`, all images of one size. The plain recipe trains for 20
epochs, and what has to be reached is its best accuracy on the test images after any of them, which flatters it. The
fast one is told nothing of the test images: of its epochs that of the best validation accuracy is taken. Seconds are
those of training and validation.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.api import machine, tell
from nets import architectures, training
from nets.answers import answers
from nets.datasets import Dataset, assemble, moments_of
from nets.observer import EpochRow
from nets.pixels import Pixels
from specs.jobs import TrainSpec
from specs.splits import Splits, split_pool
from workers.plans import plan_training

NETWORKS: dict[str, dict[str, Any]] = {
    "vgg11_bn": {"width": 0.25},
    "resnet18": {"width": 0.125},
    # With the stem for small images twenty epochs of this one take half an hour.
    "mobilenet_v2": {"width": 0.25},
    "densenet121": {"width": 0.25, "stem": "paper"},
}
VALIDATION_FRACTION = 0.1
Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classes = tuple(sorted(path.name for path in (arguments.folder / "train").iterdir()))
    parts = {part: read(arguments.folder / part, classes) for part in ("train", "test")}
    rows = []
    print(HEADER)
    for name in arguments.networks:
        for seed in arguments.seeds:
            rows.append(compare(name, split(parts, classes, seed=seed), seed=seed))
            print(line(rows[-1]), flush=True)
        print(summary(name, rows), flush=True)
    found = {"machine": {**machine(), "threads": arguments.threads}, "figures": rows}
    tell(found, arguments.json)


HEADER = (
    f"{'network':14}{'seed':>5}{'plain best':>12}{'seconds':>9}"
    f"{'quarter':>10}{'epochs':>8}{'of time':>9}{'same time':>11}{'epochs':>8}{'of time':>9}"
)


def line(row: dict[str, Any]) -> str:
    plain, quarter, same = row["plain"], row["quarter"], row["same"]
    return (
        f"{row['network']:14}{row['seed']:5}{plain['best_test']:12.3f}{plain['seconds']:9.0f}"
        f"{quarter['test']:10.3f}{quarter['epochs']:8}{quarter['seconds'] / plain['seconds']:9.2f}"
        f"{same['test']:11.3f}{same['epochs']:8}{same['seconds'] / plain['seconds']:9.2f}"
    )


def summary(name: str, rows: list[dict[str, Any]]) -> str:
    own = [row for row in rows if row["network"] == name]
    gains = {part: [row[part]["test"] - row["plain"]["best_test"] for row in own] for part in ("quarter", "same")}
    words = (
        f"{part} {median(values):+.3f} ({min(values):+.3f} to {max(values):+.3f})" for part, values in gains.items()
    )
    return f"{name:14} against the plain best: {', '.join(words)}"


def read(folder: Path, classes: tuple[str, ...]) -> Images:
    """All images (N, H, W, 3) and their labels (N,)."""
    paths = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in paths])
    return pixels, np.array([label for _, label in paths], dtype=np.int64)


def split(parts: dict[str, Images], classes: tuple[str, ...], *, seed: int) -> Dataset:
    """A tenth of each class's training images validates, by the project's rule."""
    pixels, labels = (np.concatenate(pair) for pair in zip(parts["train"], parts["test"], strict=True))
    pool = range(len(parts["train"][1]))
    contents = [image.tobytes() for image in pixels]
    train, validation = split_pool(contents, labels.tolist(), pool, seed=seed, validation_fraction=VALIDATION_FRACTION)
    return assemble(
        Pixels(pixels),
        moments_of(pixels),
        labels=labels,
        splits=Splits(train=train, validation=validation, test=[*range(len(pool), len(labels))]),
        classes=classes,
        fingerprint="benchmark",
    )


def compare(name: str, data: Dataset, *, seed: int) -> dict[str, Any]:
    """The plain recipe, then the fast one with as many epochs as a quarter of its time allows, and all of it."""
    chosen = {"name": name, **NETWORKS[name]}
    plain = train_once(chosen, {}, data, seed=seed, look=True)
    # The first epoch is slow, and whatever else the machine does only ever makes one slower.
    epoch = train_once(chosen, {"recipe": "fast", "epochs": 2}, data, seed=seed)["epoch_seconds"]

    def within(seconds: float) -> dict[str, Any]:
        return train_once(chosen, {"recipe": "fast", "epochs": max(1, int(seconds / epoch))}, data, seed=seed)

    quarter, same = within(plain["seconds"] / 4), within(plain["seconds"])
    return {"network": name, "seed": seed, "plain": plain, "quarter": quarter, "same": same}


def train_once(
    chosen: dict[str, Any], changes: dict[str, Any], data: Dataset, *, seed: int, look: bool = False
) -> dict[str, Any]:
    """One training; with `look` the test images are seen after each epoch, outside the clock."""
    body = {"dataset": "benchmark", "architecture": chosen, "seed": seed, "device": "cpu", "compile": "off", **changes}
    spec = TrainSpec.model_validate(body)
    network = architectures.build(spec.architecture, **data.look, seed=seed)
    seen: list[float] = []

    def see() -> None:
        if look:
            seen.append(answers(network, data.test, data).accuracy)

    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder), see)
        training.train(network, data, plan_training(spec), watch)
    test = answers(network, data.test, data).accuracy
    seconds = sum(row.seconds for row in watch.rows)
    return {
        "epochs": spec.epochs,
        "seconds": seconds,
        "epoch_seconds": min(row.seconds for row in watch.rows),
        "test": test,
        "best_test": max([test, *seen]),
    }


@dataclass
class Watch:
    """Keeps the best epoch's checkpoint only."""

    folder: Path
    see: Callable[[], None]
    rows: list[EpochRow] = field(default_factory=list)
    best: Path | None = None

    def on_step(self, *, epoch: int, epochs: int, fraction: float) -> None:
        """Nothing to tell."""

    def on_work(self) -> None:
        """Nothing to tell."""

    def on_epoch(self, row: EpochRow) -> None:
        self.rows.append(row)
        self.see()

    def on_notice(self, message: str) -> None:
        """Nothing to tell."""

    def stop_requested(self) -> bool:
        return False

    def checkpoint_due(self) -> bool:
        return False

    def save_checkpoint(self, write: Callable[[Path], None], *, epoch: int, step: int, best: bool) -> None:
        if best:
            last, self.best = self.best, self.folder / f"{epoch}-{step}"
            self.best.mkdir()
            write(self.best)
            if last is not None:
                rmtree(last)

    def newest_checkpoint(self) -> Path | None:
        return None

    def best_checkpoint(self) -> Path | None:
        return self.best


if __name__ == "__main__":
    main()
