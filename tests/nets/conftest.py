from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nets import architectures, datasets, precision
from nets.datasets import Dataset, Split
from nets.observer import EpochRow
from nets.training import TrainingPlan
from specs.architectures import ARCHITECTURES
from specs.augmentations import AUGMENTATIONS
from specs.datasets import BUILTIN_DATASETS
from specs.optimizers import OPTIMIZERS
from specs.options import Options
from specs.schedules import SCHEDULES
from specs.training import LossOptions

# Small enough to train and export in seconds; an architecture that is not here is taken as it is.
NARROW: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (24, 16)},
    "resnet18": {"width": 0.125},
    "resnet34": {"width": 0.0625},
    "resnet50": {"width": 0.0625},
    "resnet101": {"width": 0.0625},
    "resnet152": {"width": 0.0625},
    "wide_resnet50_2": {"width": 0.0625},
    "wide_resnet101_2": {"width": 0.0625},
    "wide_resnet": {"depth": 10, "widening": 1},
    "mobilenet_v1": {"width": 0.25},
    "mobilenet_v2": {"width": 0.25},
    "shufflenet_v1": {"width": 0.25},
    "shufflenet_v2": {"width": 0.25},
    "vgg11": {"width": 0.0625, "dropout": 0.0},
    "vgg11_bn": {"width": 0.125, "dropout": 0.0},
    "vgg13": {"width": 0.0625, "dropout": 0.0},
    "vgg13_bn": {"width": 0.125, "dropout": 0.0},
    # Without normalisation these want smaller steps than the tests take, unless the activation is smooth.
    "vgg16": {"width": 0.0625, "dropout": 0.0, "activation": "gelu"},
    "vgg16_bn": {"width": 0.125, "dropout": 0.0},
    "vgg19": {"width": 0.0625, "dropout": 0.0, "activation": "gelu"},
    "vgg19_bn": {"width": 0.125, "dropout": 0.0},
    "googlenet": {"width": 0.25, "dropout": 0.0},
    "inception_v3": {"width": 0.0625, "dropout": 0.0},
    "densenet121": {"width": 0.0625},
    "densenet161": {"width": 0.0625},
    "densenet169": {"width": 0.0625},
    "densenet201": {"width": 0.0625},
    "fpnet": {"base": {"name": "mlp", "hidden": (24, 16)}},
}
IMAGE_SIZE = 8

OPTIMIZER_OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {"lr": 0.01, "amsgrad": True},
    "rmsprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "momentum": {"lr": 0.05, "nesterov": True, "weight_decay": 0.01},
    "muon": {"decay_norms": False},
}
SCHEDULE_OPTIONS: dict[str, dict[str, Any]] = {
    "plateau": {"patience": 0, "threshold": 0.9, "factor": 0.5, "warmup": 0.2},
    "multistep": {"milestones": (1, 2), "warmup": 0.1},
}
BEST_PRECISION = precision.resolve("auto", torch.device("cpu"))
# Whatever else can be asked of a plan, and all of it at once.
VARIANTS: list[dict[str, Any]] = [
    {"accumulation": 3},
    {"clipping": 0.5},
    {"ema_decay": 0.9},
    {"precision": BEST_PRECISION},
    {"frozen": True},
    {"loss": LossOptions(label_smoothing=0.1, class_weights="balanced")},
    {"patience": 1, "min_delta": 0.2},
]
ALL_AT_ONCE: dict[str, Any] = {
    **{name: value for variant in VARIANTS for name, value in variant.items() if name != "frozen"},
    "schedule": SCHEDULES["plateau"].options(**SCHEDULE_OPTIONS["plateau"]),
    "optimizer": OPTIMIZERS["muon"].options(),
}


def narrow(name: str, **options: Any) -> Options:
    return ARCHITECTURES[name].options(**{**NARROW.get(name, {}), **options})


def small_network(name: str, **options: Any) -> nn.Module:
    return architectures.build(narrow(name, **options), classes=10, channels=1, image_size=IMAGE_SIZE, seed=1)


def one_of_each_file() -> list[str]:
    """The first network of each file of `nets`: those of one file are made of the same blocks."""
    first: dict[str, str] = {}
    for entry in ARCHITECTURES.values():
        first.setdefault(entry.target.partition(":")[0], entry.name)
    return list(first.values())


def plan(**changes: Any) -> TrainingPlan:
    values: dict[str, Any] = {
        "optimizer": OPTIMIZERS["adam"].options(lr=0.01),
        "schedule": SCHEDULES["cosine"].options(),
        "augmentation": (AUGMENTATIONS["shift"].options(pixels=1),),
        "epochs": 3,
        "batch_size": 16,
        "seed": 5,
        "patience": None,
        "device": torch.device("cpu"),
    }
    return TrainingPlan(**{**values, **changes})


def optimizer_of(name: str) -> dict[str, Any]:
    return {"optimizer": OPTIMIZERS[name].options(**OPTIMIZER_OPTIONS.get(name, {}))}


def schedule_of(name: str) -> dict[str, Any]:
    return {"schedule": SCHEDULES[name].options(**SCHEDULE_OPTIONS.get(name, {}))}


def augmentation_of(*names: str) -> dict[str, Any]:
    return {"augmentation": tuple(AUGMENTATIONS[name].options() for name in names)}


def bits(network: nn.Module) -> dict[str, bytes]:
    return {name: value.contiguous().numpy().tobytes() for name, value in network.state_dict().items()}


@dataclass
class FolderObserver:
    """Keeps checkpoints in a folder; asks to stop after a number of steps, counted anew for each attempt.

    With `every` it wants a checkpoint after each so many steps too.
    """

    folder: Path
    stop_after: int | None = None
    every: int | None = None
    steps: int = 0
    rows: list[EpochRow] = field(default_factory=list)
    saved: list[tuple[int, int, bool]] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    signs: int = 0
    best: Path | None = None
    newest: Path | None = None

    def on_step(self, *, epoch: int, epochs: int, fraction: float) -> None:
        assert 1 <= epoch <= epochs
        self.steps += 1
        self.fractions.append(fraction)

    def on_work(self) -> None:
        self.signs += 1

    def on_epoch(self, row: EpochRow) -> None:
        self.rows.append(row)

    def on_notice(self, message: str) -> None:
        self.notices.append(message)

    def stop_requested(self) -> bool:
        return self.stop_after is not None and self.steps >= self.stop_after

    def checkpoint_due(self) -> bool:
        return self.every is not None and self.steps % self.every == 0

    def save_checkpoint(self, write: Callable[[Path], None], *, epoch: int, step: int, best: bool) -> None:
        directory = self.folder / f"{len(self.saved)}-{epoch}-{step}"
        directory.mkdir()
        write(directory)
        self.saved.append((epoch, step, best))
        self.newest = directory
        self.best = directory if best else self.best

    def newest_checkpoint(self) -> Path | None:
        return self.newest

    def best_checkpoint(self) -> Path | None:
        return self.best


@dataclass
class GraphMemory:
    """A graph cache in memory."""

    kept: dict[str, bytes] = field(default_factory=dict)
    puts: int = 0

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def put(self, key: str, data: bytes) -> None:
        self.puts += 1
        self.kept[key] = data


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on tiny tensors are slow, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(_one_thread: None) -> None:
    """For what may differ between one thread and several."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return datasets.load(BUILTIN_DATASETS["digits"], image_size=IMAGE_SIZE, seed=0, validation_fraction=0.2)


@pytest.fixture(scope="session")
def few(digits: Dataset) -> Dataset:
    """Fifty training images and thirty for validation, of all classes: an epoch of 16 ends with a batch of two."""

    def spread(split: Split, count: int) -> Split:
        numbers = torch.linspace(0, len(split) - 1, count).long()
        return Split(split.pixels, split.numbers[numbers], split.labels[numbers])

    return Dataset(
        train=spread(digits.train, 50),
        validation=spread(digits.validation, 30),
        test=spread(digits.test, 30),
        classes=digits.classes,
        channels=1,
        mean=digits.mean,
        std=digits.std,
        fingerprint="sha256:few",
    )
