"""What each optimizer learns at its defaults: a small convolutional network, batches of 64, lr 0.001, 20 epochs.

    python -m benchmarks.optimizers FOLDER [--optimizers NAME ...] [--epochs N] [--threads N] [--json FILE]

FOLDER has `train/<class>/<image>` and `test/<class>/<image>`, all images of one size. The network is VGG-11 an eighth
as wide, without batch normalisation, which hides much of what an optimizer does wrong. The epoch of the best
validation accuracy counts. An optimizer whose default learning rate is another one runs at that too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.api import machine, tell
from benchmarks.recipes import read, split, train_once
from specs.optimizers import OPTIMIZERS

NETWORK = {"name": "vgg11", "width": 0.125, "dropout": 0.0}
LEARNING_RATE = 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    classes = tuple(sorted(path.name for path in (arguments.folder / "train").iterdir()))
    data = split({part: read(arguments.folder / part, classes) for part in ("train", "test")}, classes, seed=0)
    rows: list[dict[str, Any]] = []
    print(f"{'optimizer':12}{'lr':>8}{'test':>8}{'seconds':>9}")
    for name, rate in tried(arguments.optimizers):
        changes = {"optimizer": {"name": name, "lr": rate}, "epochs": arguments.epochs}
        row = {"optimizer": name, "lr": rate, **train_once(NETWORK, changes, data, seed=0)}
        rows.append(row)
        print(f"{name:12}{rate:8.3f}{row['test']:8.3f}{row['seconds']:9.0f}", flush=True)
    found = {"machine": {**machine(), "threads": arguments.threads}, "figures": rows}
    tell(found, arguments.json)


def tried(names: list[str]) -> list[tuple[str, float]]:
    """Each at the one learning rate, and at its default if that is another."""
    defaults: dict[str, Any] = {name: OPTIMIZERS[name].options() for name in names}
    others = [(name, options.lr) for name, options in defaults.items() if options.lr != LEARNING_RATE]
    return [(name, LEARNING_RATE) for name in names] + others


if __name__ == "__main__":
    main()
