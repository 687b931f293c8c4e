"""Training on one page: epochs of steps, a validation after each, a checkpoint after each, the best one kept.

Nothing depends on history but what a checkpoint holds: data order, augmentation and dropout are functions of
(seed, epoch, step) and the learning rate one of the step. So a training that was stopped anywhere and taken up
again ends with the same bits as one that was left alone, on the same machine and number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

from nets.batches import Batch, Batches
from nets.checkpoints import Progress, read_checkpoint, read_network, read_progress, write_checkpoint
from nets.datasets import Dataset
from nets.errors import BatchTooSmall, CheckpointLost, Interrupted, NonFiniteLoss
from nets.evaluation import evaluate
from nets.optimizers import build, set_learning_rate
from nets.pruning import Masks
from nets.schedules import factor
from nets.seeds import derived_seed
from specs.augmentations import AugmentationOptions
from specs.optimizers import OptimizerOptions
from specs.options import Options


@dataclass(frozen=True)
class TrainingPlan:
    """How to train; `patience` is the number of epochs without a lower validation loss after which to stop."""

    optimizer: OptimizerOptions
    schedule: Options
    augmentation: tuple[AugmentationOptions, ...]
    epochs: int
    batch_size: int
    seed: int
    patience: int | None
    device: torch.device


@dataclass(frozen=True)
class EpochRow:
    """Figures of one epoch, counted from 1; `lr` is that of its last step, `seconds` include the validation."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    lr: float
    images_per_second: float
    seconds: float


class Observer(Protocol):
    """Whoever looks after a training: is told how it goes, keeps its checkpoints, may ask it to stop."""

    def on_step(self, *, epoch: int, epochs: int, fraction: float) -> None:
        """After each step of `epoch` (from 1); `fraction` is the share of all steps that are done."""

    def on_epoch(self, row: EpochRow) -> None:
        """After each epoch, before its checkpoint: a training taken up again may tell its last epoch once more."""

    def stop_requested(self) -> bool:
        """Asked after each step."""

    def save_checkpoint(self, write: Callable[[Path], None], *, epoch: int, step: int, best: bool) -> None:
        """`write` fills an empty directory. `epoch` counts whole epochs, `step` the steps done of the next."""

    def newest_checkpoint(self) -> Path | None:
        """What to take the training up from, whole and verified."""

    def best_checkpoint(self) -> Path | None:
        """The last one that was saved as the best."""


@dataclass(frozen=True)
class TrainingResult:
    """The network has the weights of `best_epoch`, the one of highest validation accuracy, then lowest loss."""

    network: nn.Module
    best_epoch: int
    epochs_run: int
    stopped_early: bool


@dataclass(frozen=True)
class _Run:
    network: nn.Module
    optimizer: optim.Optimizer
    batches: Batches
    data: Dataset
    plan: TrainingPlan
    observer: Observer
    masks: Masks


def train(
    network: nn.Module, data: Dataset, plan: TrainingPlan, observer: Observer, *, masks: Masks | None = None
) -> TrainingResult:
    """Trains in place, from the observer's newest checkpoint if it has one; weights in `masks` stay zero.

    Raises Interrupted, with a checkpoint written, when the observer asks to stop; NonFiniteLoss when training or
    validation diverge; BatchTooSmall when batch normalisation would get single images.
    """
    run = _begin(network, data, plan, observer, masks=masks)
    progress = _resume(run)
    with torch.random.fork_rng(devices=[]):
        while progress.epoch < plan.epochs and not _waited_enough(plan, progress):
            _train_epoch(run, progress)
            _finish_epoch(run, progress)
    _take_best(run, progress)
    return TrainingResult(network, progress.best_epoch, progress.epoch, progress.epoch < plan.epochs)


def _begin(network: nn.Module, data: Dataset, plan: TrainingPlan, observer: Observer, *, masks: Masks | None) -> _Run:
    network.to(plan.device).to(memory_format=torch.channels_last)
    batches = Batches(data, plan.batch_size, plan.augmentation, plan.seed, plan.device)
    normalises = any(isinstance(module, _BatchNorm) for module in network.modules())
    if normalises and min(plan.batch_size, len(data.train)) < 2:
        raise BatchTooSmall
    kept = (masks or Masks({})).to(plan.device)
    kept.apply(network)
    return _Run(network, build(plan.optimizer, network), batches, data, plan, observer, kept)


def _resume(run: _Run) -> Progress:
    checkpoint = run.observer.newest_checkpoint()
    return read_checkpoint(checkpoint, run.network, run.optimizer) if checkpoint else Progress()


def _waited_enough(plan: TrainingPlan, progress: Progress) -> bool:
    return plan.patience is not None and progress.epochs_without_fall >= plan.patience


def _train_epoch(run: _Run, progress: Progress) -> None:
    run.network.train()
    steps = run.plan.epochs * len(run.batches)
    clock = time.perf_counter()
    for batch in run.batches.of_epoch(progress.epoch, skip=progress.step):
        _step(run, progress, batch)
        now = time.perf_counter()
        progress.seconds += now - clock
        clock = now
        done = progress.epoch * len(run.batches) + progress.step
        run.observer.on_step(epoch=progress.epoch + 1, epochs=run.plan.epochs, fraction=done / steps)
        if run.observer.stop_requested():
            _save(run, progress, best=False)
            raise Interrupted(progress.epoch + 1, progress.step)


def _step(run: _Run, progress: Progress, batch: Batch) -> None:
    torch.manual_seed(derived_seed("step", run.plan.seed, progress.epoch, progress.step))
    set_learning_rate(run.optimizer, _learning_rate(run, progress.epoch, progress.step))
    run.optimizer.zero_grad(set_to_none=True)
    logits = run.network(batch.images)
    loss = batch.loss(logits)
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteLoss(progress.epoch + 1, progress.step + 1)
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    run.masks.apply(run.network)
    progress.count_step(images=len(batch), correct=batch.correct(logits), loss=value)


def _learning_rate(run: _Run, epoch: int, step: int) -> float:
    per_epoch = len(run.batches)
    done, steps = epoch * per_epoch + step, run.plan.epochs * per_epoch
    return run.plan.optimizer.lr * factor(run.plan.schedule, step=done, steps=steps, steps_per_epoch=per_epoch)


def _finish_epoch(run: _Run, progress: Progress) -> None:
    started = time.perf_counter()
    validation = evaluate(run.network, run.data.validation, run.data)
    if not math.isfinite(validation.loss):
        raise NonFiniteLoss(progress.epoch + 1, None)
    row = EpochRow(
        epoch=progress.epoch + 1,
        train_loss=progress.loss_sum / progress.images,
        train_accuracy=progress.correct / progress.images,
        validation_loss=validation.loss,
        validation_accuracy=validation.accuracy,
        lr=_learning_rate(run, progress.epoch, progress.step - 1),
        images_per_second=progress.images / progress.seconds,
        seconds=progress.seconds + time.perf_counter() - started,
    )
    run.observer.on_epoch(row)
    best = progress.finish_epoch(loss=validation.loss, accuracy=validation.accuracy)
    _save(run, progress, best=best)


def _save(run: _Run, progress: Progress, *, best: bool) -> None:
    def write(directory: Path) -> None:
        write_checkpoint(directory, run.network, run.optimizer, progress)

    run.observer.save_checkpoint(write, epoch=progress.epoch, step=progress.step, best=best)


def _take_best(run: _Run, progress: Progress) -> None:
    if progress.best_epoch != progress.epoch:
        checkpoint = run.observer.best_checkpoint()
        if checkpoint is None or read_progress(checkpoint).epoch != progress.best_epoch:
            raise CheckpointLost(progress.best_epoch)
        read_network(checkpoint, run.network)
    run.network.eval()
