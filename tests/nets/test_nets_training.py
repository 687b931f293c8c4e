from __future__ import annotations

import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nets.checkpoints import Progress, read_network
from nets.datasets import Dataset
from nets.errors import BatchTooSmall, CheckpointLost, Interrupted, NonFiniteLoss, is_out_of_memory
from nets.evaluation import evaluate
from nets.pruning import select
from nets.training import EpochRow, TrainingPlan, TrainingResult, train
from specs.augmentations import AUGMENTATIONS
from specs.optimizers import OPTIMIZERS
from specs.pruning import PRUNING_METHODS
from specs.schedules import SCHEDULES
from tests.nets.conftest import FolderObserver, plan, small_network

OPTIMIZER_OPTIONS: dict[str, dict[str, Any]] = {
    "rmsprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "momentum": {"lr": 0.05, "nesterov": True, "weight_decay": 0.01},
}


def bits(network: nn.Module) -> dict[str, bytes]:
    return {name: value.contiguous().numpy().tobytes() for name, value in network.state_dict().items()}


def figures_of(rows: list[EpochRow]) -> list[dict[str, float]]:
    clocks = {"seconds", "images_per_second"}
    return [{name: value for name, value in asdict(row).items() if name not in clocks} for row in rows]


def unsteady(**changes: Any) -> TrainingPlan:
    """A learning rate far too high: the last epoch is not the best."""
    optimizer, schedule = OPTIMIZERS["sgd"].options(lr=20.0), SCHEDULES["constant"].options()
    return plan(**{"optimizer": optimizer, "schedule": schedule, "epochs": 6, **changes})


def train_to_the_end(
    network_name: str, data: Dataset, training: TrainingPlan, observer: FolderObserver, *, stops: random.Random
) -> TrainingResult:
    """Starts over with a fresh network after each interruption, as a new process would."""
    while True:
        observer.steps, observer.stop_after = 0, stops.randint(1, 4)
        torch.manual_seed(stops.randint(0, 1000))
        try:
            return train(small_network(network_name, dropout=0.3), data, training, observer)
        except Interrupted:
            continue


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("network_name", "optimizer", "augmentation"),
    [
        *(("mlp", name, ("shift",)) for name in OPTIMIZERS),
        *(("mlp", "adam", (name,)) for name in AUGMENTATIONS),
        ("resnet18", "adam", ("crop-flip", "randaugment", "erase", "mixup")),
    ],
)
def test_a_training_stopped_anywhere_ends_with_the_same_bits(
    few: Dataset, tmp_path: Path, network_name: str, optimizer: str, augmentation: tuple[str, ...]
) -> None:
    options = OPTIMIZERS[optimizer].options(**OPTIMIZER_OPTIONS.get(optimizer, {}))
    chosen = tuple(AUGMENTATIONS[name].options() for name in augmentation)
    training = plan(optimizer=options, augmentation=chosen, epochs=3)
    left_alone, disturbed = FolderObserver(tmp_path / "a"), FolderObserver(tmp_path / "b")
    for observer in (left_alone, disturbed):
        observer.folder.mkdir()
    wanted = train(small_network(network_name, dropout=0.3), few, training, left_alone)
    result = train_to_the_end(network_name, few, training, disturbed, stops=random.Random(7))
    assert any(step for _, step, _ in disturbed.saved)
    assert bits(result.network) == bits(wanted.network)
    assert figures_of(disturbed.rows) == figures_of(left_alone.rows)
    assert (result.best_epoch, result.epochs_run) == (wanted.best_epoch, wanted.epochs_run)


def test_the_interruption_says_where_it_is_and_leaves_a_checkpoint(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path, stop_after=6)
    with pytest.raises(Interrupted) as raised:
        train(small_network("mlp"), few, plan(), observer)
    assert (raised.value.epoch, raised.value.step) == (2, 2)
    assert observer.saved[-1] == (1, 2, False)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_every_schedule_and_augmentation_trains(few: Dataset, tmp_path: Path, schedule: str, augmentation: str) -> None:
    observer = FolderObserver(tmp_path)
    training = plan(schedule=SCHEDULES[schedule].options(), augmentation=(AUGMENTATIONS[augmentation].options(),))
    result = train(small_network("mlp"), few, training, observer)
    assert [row.epoch for row in observer.rows] == [1, 2, 3]
    assert all(math.isfinite(value) for row in observer.rows for value in asdict(row).values())
    assert observer.rows[-1].train_loss < observer.rows[0].train_loss
    assert observer.fractions == [number / 12 for number in range(1, 13)]
    assert result.epochs_run == 3
    assert not result.stopped_early


def test_the_network_has_the_weights_of_the_best_epoch(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    result = train(small_network("mlp", activation="tanh"), few, unsteady(), observer)
    best = max(observer.rows, key=lambda row: (row.validation_accuracy, -row.validation_loss))
    assert result.best_epoch == best.epoch < result.epochs_run
    assert evaluate(result.network, few.validation, few).loss == best.validation_loss
    assert observer.best is not None
    kept = small_network("mlp", activation="tanh")
    read_network(observer.best, kept)
    assert bits(kept) == bits(result.network)


def test_the_same_accuracy_at_a_lower_loss_is_better() -> None:
    progress = Progress()
    figures = [(0.9, 0.5), (0.8, 0.5), (0.7, 0.5), (0.1, 0.4)]
    assert [progress.finish_epoch(loss=loss, accuracy=accuracy) for loss, accuracy in figures] == [
        True,
        True,
        True,
        False,
    ]
    assert progress.best_epoch == 3


def test_early_stopping_waits_for_a_lower_loss(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    training = unsteady(epochs=40, patience=2)
    result = train(small_network("mlp", activation="tanh"), few, training, observer)
    losses = [row.validation_loss for row in observer.rows]
    assert result.stopped_early
    assert result.epochs_run == len(losses) < 40
    assert min(losses[-2:]) >= min(losses[:-2])


def test_a_finished_training_is_not_trained_again(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    first = train(small_network("mlp"), few, plan(), observer)
    steps = observer.steps
    again = train(small_network("mlp"), few, plan(), observer)
    assert observer.steps == steps
    assert bits(again.network) == bits(first.network)


def test_a_lost_best_checkpoint_is_an_error(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    train(small_network("mlp", activation="tanh"), few, unsteady(), observer)
    observer.best = None
    with pytest.raises(CheckpointLost):
        train(small_network("mlp", activation="tanh"), few, unsteady(), observer)


def test_a_loss_that_is_not_finite_ends_the_training(few: Dataset, tmp_path: Path) -> None:
    training = plan(optimizer=OPTIMIZERS["sgd"].options(lr=1e6), schedule=SCHEDULES["constant"].options(), epochs=20)
    with pytest.raises(NonFiniteLoss, match="learning rate"):
        train(small_network("mlp"), few, training, FolderObserver(tmp_path))


def test_a_single_image_left_over_joins_the_batch_before(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    train(small_network("resnet18"), few, plan(batch_size=7, epochs=1), observer)
    assert observer.steps == 7  # 50 images: seven batches of 7, the last of them of 8


def test_batches_of_one_image_are_refused_where_batches_are_normalised(few: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BatchTooSmall):
        train(small_network("resnet18"), few, plan(batch_size=1), FolderObserver(tmp_path))


@pytest.mark.parametrize("method", PRUNING_METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_cut_weights_stay_positive_zeros(few: Dataset, tmp_path: Path, method: str, optimizer: str) -> None:
    network = small_network("mlp")
    masks = select(network, method=method, options=PRUNING_METHODS[method].options(sparsity=0.8))
    options = OPTIMIZERS[optimizer].options(weight_decay=0.01)
    train(network, few, plan(optimizer=options, epochs=1), FolderObserver(tmp_path), masks=masks)
    parameters = dict(network.named_parameters())
    for name, cut in masks.cut.items():
        words = parameters[name].detach()[cut].view(torch.int32)
        assert not words.any()
        assert parameters[name].detach()[~cut].all()


@pytest.mark.parametrize("name", ["resnet18"])
def test_evaluation_changes_nothing(few: Dataset, name: str) -> None:
    network = small_network(name).train()
    before = bits(network)
    evaluation = evaluate(network, few.test, few, batch_size=7)
    assert network.training
    assert bits(network) == before
    assert sum(map(sum, evaluation.confusion)) == len(few.test)
    whole = evaluate(network, few.test, few, batch_size=30)
    assert whole.loss == pytest.approx(evaluation.loss, rel=1e-5)


def test_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
