"""Trainings that are stopped or killed anywhere: they end with the bits of one that was left alone.

The suite takes every name of the registries once; `make chaos` takes many more combinations (CHAOS_RESUMES).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from nets.datasets import Dataset
from nets.distillation import Teacher
from nets.errors import Interrupted
from nets.observer import EpochRow
from nets.pruning import Gradually, select
from nets.training import TrainingPlan, TrainingResult, train
from specs.augmentations import AUGMENTATIONS
from specs.optimizers import OPTIMIZERS
from specs.pruning import PRUNING_METHODS
from specs.schedules import SCHEDULES
from tests.nets.conftest import (
    ALL_AT_ONCE,
    VARIANTS,
    FolderObserver,
    augmentation_of,
    bits,
    optimizer_of,
    plan,
    schedule_of,
    small_network,
)

Arguments = dict[str, Any]
MAGNITUDE = PRUNING_METHODS["magnitude"].options


def masked(network: nn.Module) -> Arguments:
    """Retraining after a cut."""
    masks = select(network, method="magnitude", options=MAGNITUDE(sparsity=0.7))
    masks.apply(network)
    return {"masks": masks}


def in_rounds(_network: nn.Module) -> Arguments:
    return {"gradually": Gradually("magnitude", MAGNITUDE(sparsity=0.8, rounds=3), epochs=6)}


def taught(_network: nn.Module) -> Arguments:
    return {"teacher": Teacher(small_network("vgg11_bn"), temperature=2.0, alpha=0.5)}


def alone(_network: nn.Module) -> Arguments:
    return {}


# What a training may have beside its plan, with what the plan needs for it.
COMPANY: list[tuple[Callable[[nn.Module], Arguments], dict[str, Any]]] = [
    (masked, {}),
    (in_rounds, {"epochs": 6}),
    (in_rounds, {"epochs": 6, "ema_decay": 0.5}),
    (taught, {"ema_decay": 0.9}),
]
EXTRAS = [*COMPANY, *((alone, changes) for changes in [*VARIANTS, ALL_AT_ONCE, {}])]
# Two thirds are the network of the fewest layers; the others normalise over batches.
NETWORKS = ("mlp", "mlp", "resnet18")
# How a training is struck, and where; some are struck twice.
STRIKES = [
    [("stop", "any step")],
    [("kill", "any step")],
    [("stop", "end of an epoch")],
    [("kill", "end of an epoch")],
    [("kill as it is saved", "end of an epoch")],
    [("stop", "last step")],
    [("kill", "last step")],
    [("kill", "any step"), ("stop", "any step")],
    [("stop", "any step"), ("kill as it is saved", "last step")],
]
SHORT = max(map(len, (OPTIMIZERS, SCHEDULES, AUGMENTATIONS, EXTRAS, STRIKES)))
RUNS = int(os.environ.get("CHAOS_RESUMES", str(SHORT)))


@dataclass
class StoppedAtWork(FolderObserver):
    """Is stopped as it gives its so many-th sign of life: between the batches of a step, or in a validation."""

    stop_at: int | None = None

    def stop_requested(self) -> bool:
        return self.signs == self.stop_at


@pytest.mark.parametrize("stop_at", range(1, 9))
def test_a_training_is_stopped_within_long_steps_and_validations_too(
    few: Dataset, tmp_path: Path, stop_at: int
) -> None:
    """Of two epochs of two steps, of which the first takes three batches and the second one, and a validation."""
    asked = plan(epochs=2, batch_size=16, accumulation=3, ema_decay=0.5, augmentation=())
    left_alone = FolderObserver(tmp_path / "left alone")
    stopped = StoppedAtWork(tmp_path / "stopped", stop_at=stop_at)
    networks = []
    for observer in (left_alone, stopped):
        observer.folder.mkdir()
        network = small_network("resnet18")
        try:
            train(network, few, asked, observer)
        except Interrupted:
            assert observer is stopped
            network = small_network("resnet18")
            train(network, few, asked, observer)
        networks.append(network)
    assert left_alone.signs == 6, "two in each epoch's first step, and one in its validation"
    states = [(epoch, step) for epoch, step, _ in stopped.saved]
    assert len(set(states)) == len(states), "a checkpoint would take the place of the one at the end of an epoch"
    assert bool(stopped.notices) == (2 < stop_at <= left_alone.signs), "after the first step it goes on, not anew"
    assert bits(networks[0]) == bits(networks[1])
    assert [replace(row, seconds=0, images_per_second=0) for row in stopped.rows] == [
        replace(row, seconds=0, images_per_second=0) for row in left_alone.rows
    ]


class Killed(BaseException):
    """What nothing catches, as nothing catches SIGKILL."""


@dataclass
class Struck(FolderObserver):
    """Is stopped, or killed, once it has come to a step, counted over all epochs."""

    strikes: list[tuple[str, int]] = field(default_factory=list)
    at: int = 0
    struck: list[str] = field(default_factory=list)
    steps_in_all: int = 1

    def on_step(self, *, epoch: int, epochs: int, fraction: float) -> None:
        super().on_step(epoch=epoch, epochs=epochs, fraction=fraction)
        self.at = round(fraction * self.steps_in_all)
        self._strike("kill")

    def stop_requested(self) -> bool:
        return self._strikes("stop")

    def save_checkpoint(self, write: Callable[[Path], None], *, epoch: int, step: int, best: bool) -> None:
        if step == 0:
            self._strike("kill as it is saved")
        super().save_checkpoint(write, epoch=epoch, step=step, best=best)

    def _strike(self, kind: str) -> None:
        if self._strikes(kind):
            raise Killed

    def _strikes(self, kind: str) -> bool:
        if not self.strikes or self.strikes[0][0] != kind or self.at < self.strikes[0][1]:
            return False
        self.struck.append(self.strikes.pop(0)[0])
        return True


@dataclass(frozen=True)
class Training:
    """One way to train, as a fresh process would begin it."""

    network_name: str
    plan: TrainingPlan
    company: Callable[[nn.Module], Arguments]

    def begin(self, few: Dataset, observer: FolderObserver) -> TrainingResult:
        network = small_network(self.network_name, **({"dropout": 0.3} if self.network_name == "mlp" else {}))
        return train(network, few, self.plan, observer, **self.company(network))


def training_of(number: int) -> Training:
    """All names of a registry come up in turn, and after that by chance, or each would meet the same few of another."""
    chance = Random(number)

    def one(names: list[Any]) -> Any:
        return names[number] if number < len(names) else chance.choice(names)

    company, changes = one(EXTRAS)
    regime = optimizer_of(one(list(OPTIMIZERS))) | schedule_of(one(list(SCHEDULES)))
    augmentation = augmentation_of(one(list(AUGMENTATIONS)))
    return Training(NETWORKS[number % len(NETWORKS)], plan(**(regime | augmentation | changes)), company)


def contents(checkpoint: Path | None) -> dict[str, Any]:
    """All files of a checkpoint: weights, averages, the optimizer's tensors, counters."""
    assert checkpoint is not None
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()}


def figures_of(rows: list[EpochRow]) -> dict[int, dict[str, float]]:
    """By epoch, as one that is told again replaces what was told before."""
    clocks = {"seconds", "images_per_second"}
    return {row.epoch: {name: value for name, value in asdict(row).items() if name not in clocks} for row in rows}


@pytest.mark.parametrize("number", range(RUNS))
def test_a_training_struck_anywhere_ends_with_the_same_bits(few: Dataset, tmp_path: Path, number: int) -> None:
    training, chance = training_of(number), Random(number)
    left_alone = FolderObserver(tmp_path / "alone")
    left_alone.folder.mkdir()
    wanted = training.begin(few, left_alone)
    steps, each = left_alone.steps, left_alone.steps // wanted.epochs_run

    places = {"last step": steps}
    strikes = []
    for kind, place in STRIKES[number % len(STRIKES)]:
        places |= {"any step": chance.randint(1, steps), "end of an epoch": each * chance.randint(1, steps // each)}
        strikes.append((kind, places[place]))
    strikes.sort(key=lambda strike: strike[1])
    struck = Struck(tmp_path / "struck", every=chance.randint(1, each), strikes=list(strikes))
    struck.folder.mkdir()
    struck.steps_in_all = round(1 / left_alone.fractions[0])
    result = None
    while result is None:
        torch.manual_seed(chance.randint(0, 1000))
        struck.steps = struck.at = 0
        try:
            result = training.begin(few, struck)
        except (Interrupted, Killed):
            continue
    assert struck.struck == [kind for kind, _ in strikes]
    assert any(step for _, step, _ in struck.saved)
    assert contents(struck.newest) == contents(left_alone.newest)
    assert json.loads(contents(struck.newest)["state.json"])["progress"]["epoch"] == wanted.epochs_run
    assert bits(result.network) == bits(wanted.network)
    assert figures_of(struck.rows) == figures_of(left_alone.rows)
    assert (result.best_epoch, result.epochs_run) == (wanted.best_epoch, wanted.epochs_run)
