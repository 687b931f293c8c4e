"""Training on one page: epochs of steps, a validation and a checkpoint after each, the best one kept.

Nothing depends on history but what a checkpoint holds: data order, augmentation and dropout are functions of
(seed, epoch, step), the learning rate one of the step and, for a schedule that waits for plateaus, of counters in the
checkpoint. So a training that was stopped anywhere and taken up again ends with the same bits as one that was left
alone, on the same machine and number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from nets import freezing, gradients, losses, normalisation, optimizers
from nets.answers import Answers, Told, answers
from nets.averaging import Average
from nets.batches import Batch, Batches
from nets.checkpoints import (
    Progress,
    Trained,
    is_finite,
    read_checkpoint,
    read_network,
    read_progress,
    write_checkpoint,
)
from nets.compiling import Compiler, Forward, Step, compile_again
from nets.datasets import Dataset
from nets.distillation import Teacher
from nets.errors import BatchTooSmall, CheckpointLost, Interrupted, NonFiniteLoss, NonFiniteWeights
from nets.gradients import Tally
from nets.losses import Loss
from nets.observer import EpochRow, Observer
from nets.pruning import Gradually, Masks, zeros
from nets.schedules import Moment, factor
from nets.seeds import derived_seed
from specs.augmentations import AugmentationOptions
from specs.optimizers import OptimizerOptions
from specs.schedules import ScheduleOptions
from specs.training import LossOptions


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    `patience` is the number of epochs after which to stop if none has brought the validation loss more than
    `min_delta` below its lowest. One step takes `accumulation` batches and scales gradients down to the norm
    `clipping`. With `ema_decay` the average of the weights is validated and kept. `precision` is that of the
    arithmetic. With `frozen` only the heads are trained. With a `compiler` steps may come to be compiled.
    """

    optimizer: OptimizerOptions
    schedule: ScheduleOptions
    augmentation: tuple[AugmentationOptions, ...]
    epochs: int
    batch_size: int
    seed: int
    patience: int | None
    device: torch.device
    min_delta: float = 0.0
    loss: LossOptions = field(default_factory=LossOptions)
    accumulation: int = 1
    clipping: float | None = None
    ema_decay: float | None = None
    precision: torch.dtype = torch.float32
    frozen: bool = False
    compiler: Compiler | None = None


@dataclass(frozen=True)
class TrainingResult:
    """The network has the weights of `best_epoch`, the one of highest validation accuracy, then lowest loss."""

    network: nn.Module
    best_epoch: int
    epochs_run: int
    stopped_early: bool


@dataclass
class _Run:
    trained: Trained
    batches: Batches
    loss: Loss
    data: Dataset
    plan: TrainingPlan
    observer: Observer
    masks: Masks
    forward: Forward
    gradually: Gradually | None = None
    teacher: Teacher | None = None

    @property
    def network(self) -> nn.Module:
        return self.trained.network

    @property
    def shown(self) -> nn.Module:
        """What is validated and kept."""
        return self.trained.average.network if self.trained.average else self.network

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.batches) / self.plan.accumulation)


def train(
    network: nn.Module,
    data: Dataset,
    plan: TrainingPlan,
    observer: Observer,
    *,
    masks: Masks | None = None,
    gradually: Gradually | None = None,
    teacher: Teacher | None = None,
) -> TrainingResult:
    """Trains in place, from the observer's newest checkpoint if it has one; weights in `masks` stay zero.

    With `gradually` more of them are cut before some epochs, and only epochs after the last cut can be the best.
    A `teacher` has a word beside the labels.
    Raises Interrupted, with all steps in a checkpoint, when the observer asks to stop; NonFiniteLoss when training or
    validation diverge, and no checkpoint has weights that are not finite; BatchTooSmall when batch normalisation
    would get single images; WrongClassWeights.
    """
    run = _begin(network, data, plan, observer, masks=masks or Masks({}))
    run.gradually = gradually
    run.teacher = None if teacher is None else teacher.to(plan.device)
    progress = _resume(run)
    with torch.random.fork_rng(devices=[]):
        while _goes_on(run, progress):
            _cut_more(run, progress)
            _train_epoch(run, progress)
            _finish_epoch(run, progress)
    _take_best(run, progress)
    return TrainingResult(network, progress.best_epoch, progress.epoch, progress.epoch < plan.epochs)


def check_batches(network: nn.Module, data: Dataset, plan: TrainingPlan) -> None:
    """BatchTooSmall if batch normalisation would get single images."""
    if not plan.frozen and normalisation.normalises(network) and min(plan.batch_size, len(data.train)) < 2:
        raise BatchTooSmall


def _begin(network: nn.Module, data: Dataset, plan: TrainingPlan, observer: Observer, *, masks: Masks) -> _Run:
    network.to(plan.device).to(memory_format=torch.channels_last)
    if plan.frozen:
        freezing.freeze_backbone(network)
    check_batches(network, data, plan)
    batches = Batches(data, plan.batch_size, plan.augmentation, plan.seed, plan.device)
    normalisation.keep_pace(network, plan.epochs * len(batches))
    loss = losses.build(plan.loss, data.train.labels.to(plan.device), classes=len(data.classes))
    kept = masks.to(plan.device)
    kept.apply(network)
    average = None if plan.ema_decay is None else Average(network, plan.ema_decay)
    trained = Trained(network, optimizers.build(plan.optimizer, network), average)
    return _Run(trained, batches, loss, data, plan, observer, kept, Forward(network, plan.batch_size))


def _resume(run: _Run) -> Progress:
    checkpoint = run.observer.newest_checkpoint()
    progress = Progress()
    if checkpoint is not None:
        progress = read_checkpoint(checkpoint, run.trained)
        run.observer.on_notice(f"Goes on from a checkpoint, after step {progress.step} of epoch {progress.epoch + 1}.")
    if run.gradually is not None:
        run.masks = zeros(run.network)
    if progress.compiled and _goes_on(run, progress):
        freezing.train(run.network, frozen=run.plan.frozen)
        _tell_of(run, progress, compile_again(_trial_step(run, progress)))
    return progress


def _consider_compiling(run: _Run, progress: Progress) -> bool:
    """At one step of the whole training, so that one taken up again is compiled at the same; whether this is it."""
    done = progress.epoch * run.steps_per_epoch + progress.step
    compiler = run.plan.compiler
    if compiler is None or done != compiler.tried_after or not run.batches.some_full:
        return False
    left = run.plan.epochs * run.steps_per_epoch - done
    seconds = left * progress.seconds / progress.step
    _tell_of(run, progress, compiler.consider(_trial_step(run, progress), left=seconds))
    return True


def _tell_of(run: _Run, progress: Progress, message: str | None) -> None:
    progress.compiled = run.forward.compiled
    if message is not None:
        run.observer.on_notice(message)


def _trial_step(run: _Run, progress: Progress) -> Step:
    batch = next(run.batches.of_epoch(progress.epoch))

    def take() -> float:
        return _take(run, [batch], alone=True).loss

    about = f"{tuple(batch.images.shape)} {run.plan.precision} frozen={run.plan.frozen}"
    return Step(run.network, run.forward, take, about)


def _goes_on(run: _Run, progress: Progress) -> bool:
    return progress.epoch < run.plan.epochs and not _waited_enough(run, progress)


def _waited_enough(run: _Run, progress: Progress) -> bool:
    if run.gradually is not None and progress.epoch <= run.gradually.beginnings[-1]:
        return False
    return run.plan.patience is not None and progress.epochs_without_fall >= run.plan.patience


def _cut_more(run: _Run, progress: Progress) -> None:
    """The round that begins with this epoch, if one does: what was cut is known by its zeros ever after."""
    if run.gradually is None or progress.step > 0:
        return
    masks = run.gradually.masks(run.network, progress.epoch)
    if masks is not None:
        run.masks = masks
        gradients.forget(run.network, masks, run.trained.optimizer)
        for network in {run.network, run.shown}:
            masks.apply(network)
        progress.forget_best()


def _train_epoch(run: _Run, progress: Progress) -> None:
    freezing.train(run.network, frozen=run.plan.frozen)
    steps = run.plan.epochs * run.steps_per_epoch
    clock = time.perf_counter()
    batches = run.batches.of_epoch(progress.epoch, skip=progress.step * run.plan.accumulation)
    while progress.step < run.steps_per_epoch:
        _step(run, progress, batches)
        now = time.perf_counter()
        progress.seconds += now - clock
        clock = now
        done = progress.epoch * run.steps_per_epoch + progress.step
        run.observer.on_step(epoch=progress.epoch + 1, epochs=run.plan.epochs, fraction=done / steps)
        if _consider_compiling(run, progress):
            clock = time.perf_counter()  # a trial is no part of an epoch's pace
        if run.observer.stop_requested():
            _save(run, progress, best=False)
            raise Interrupted(progress.epoch + 1, progress.step)
        if run.observer.checkpoint_due():
            _save(run, progress, best=False)
            clock = time.perf_counter()


def _step(run: _Run, progress: Progress, batches: Iterator[Batch]) -> None:
    torch.manual_seed(derived_seed("step", run.plan.seed, progress.epoch, progress.step))
    optimizer, plan = run.trained.optimizer, run.plan
    optimizers.set_factor(optimizer, _factor(run, progress, progress.step))
    optimizer.zero_grad(set_to_none=True)
    count = min(plan.accumulation, len(run.batches) - progress.step * plan.accumulation)
    taken = islice(batches, count)
    seen = _take(run, taken, alone=True) if count == 1 else _take_together(run, progress, taken)
    if not math.isfinite(seen.loss):
        raise NonFiniteLoss(progress.epoch + 1, progress.step + 1)
    gradients.cut(run.network, run.masks)
    gradients.clip(run.network, plan.clipping)
    optimizer.step()
    run.masks.apply(run.network)
    progress.count_step(seen)
    if run.trained.average is not None:
        done = progress.epoch * run.steps_per_epoch + progress.step
        run.trained.average.update(run.network, steps=done)


def _take_together(run: _Run, progress: Progress, batches: Iterable[Batch]) -> Tally:
    """Several batches as one; if the training is to stop meanwhile, the step before is the last one."""
    undo = gradients.undoing(run.network)
    try:
        return _take(run, batches, alone=False, told=lambda: _work_on(run, progress))
    except Interrupted:
        undo()
        if progress.step > 0:  # else the checkpoint at the end of the last epoch has it all, and may be the best
            _save(run, progress, best=False)
        raise


def _work_on(run: _Run, progress: Progress) -> None:
    """Says that it does; raises Interrupted if the training is to stop."""
    run.observer.on_work()
    if run.observer.stop_requested():
        raise Interrupted(progress.epoch + 1, progress.step)


def _take(run: _Run, batches: Iterable[Batch], *, alone: bool, told: Told = lambda: None) -> Tally:
    return gradients.take(
        run.network,
        batches,
        run.loss,
        alone=alone,
        dtype=run.plan.precision,
        forward=run.forward,
        teacher=run.teacher,
        told=told,
    )


def _factor(run: _Run, progress: Progress, step: int) -> float:
    """The schedule's factor for a step of the epoch under way."""
    each = run.steps_per_epoch
    moment = Moment(progress.epoch * each + step, run.plan.epochs * each, each, progress.plateau.factor)
    return factor(run.plan.schedule, moment)


def _finish_epoch(run: _Run, progress: Progress) -> None:
    started = time.perf_counter()
    validation = _validate(run, progress)
    if not math.isfinite(validation.loss):
        raise NonFiniteLoss(progress.epoch + 1, None)
    row = EpochRow(
        epoch=progress.epoch + 1,
        train_loss=progress.loss_sum / progress.images,
        train_accuracy=progress.correct / progress.images,
        validation_loss=validation.loss,
        validation_accuracy=validation.accuracy,
        lr=run.plan.optimizer.lr * _factor(run, progress, progress.step - 1),
        images_per_second=progress.images / progress.seconds,
        seconds=progress.seconds + time.perf_counter() - started,
    )
    run.observer.on_epoch(row)
    progress.plateau.see(run.plan.schedule, validation.loss)
    min_delta = run.plan.min_delta
    best = progress.finish_epoch(loss=validation.loss, accuracy=validation.accuracy, min_delta=min_delta)
    _save(run, progress, best=best)


def _validate(run: _Run, progress: Progress) -> Answers:
    try:
        return answers(run.shown, run.data.validation, run.data, told=lambda: _work_on(run, progress))
    except Interrupted:  # it is done again, after no step
        _save(run, progress, best=False)
        raise


def _save(run: _Run, progress: Progress, *, best: bool) -> None:
    if not is_finite(run.network):
        # A loss tells of the weights before its step, and a validation nothing of auxiliary heads.
        at = (progress.epoch + 1, progress.step) if progress.step else (progress.epoch, run.steps_per_epoch)
        raise NonFiniteWeights(*at)

    def write(directory: Path) -> None:
        write_checkpoint(directory, run.trained, progress)

    run.observer.save_checkpoint(write, epoch=progress.epoch, step=progress.step, best=best)


def _take_best(run: _Run, progress: Progress) -> None:
    if progress.best_epoch != progress.epoch:
        checkpoint = run.observer.best_checkpoint()
        if checkpoint is None or read_progress(checkpoint).epoch != progress.best_epoch:
            raise CheckpointLost(progress.best_epoch)
        read_network(checkpoint, run.network)
    elif run.shown is not run.network:
        run.network.load_state_dict(run.shown.state_dict())
    run.network.eval()
