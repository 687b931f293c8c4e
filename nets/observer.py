"""Who looks after a training, and what it is told of each epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class EpochRow:
    """Figures of one epoch, counted from 1; `lr` is that of its last step, `seconds` include the validation.

    The training loss is what was made small, with smoothed labels, class weights and auxiliary heads, if there are
    any; the validation loss is plain cross-entropy.
    """

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

    def on_work(self) -> None:
        """After each batch of validation images, and of the several that make a step: the training goes on."""

    def on_epoch(self, row: EpochRow) -> None:
        """After each epoch, before its checkpoint: a training taken up again may tell its last epoch once more."""

    def on_notice(self, message: str) -> None:
        """A sentence on something that was decided, or that went another way than hoped."""

    def stop_requested(self) -> bool:
        """Asked after each step, and wherever `on_work` is called."""

    def checkpoint_due(self) -> bool:
        """Asked after each step: whether to write a checkpoint and go on, in the middle of the epoch."""

    def save_checkpoint(self, write: Callable[[Path], None], *, epoch: int, step: int, best: bool) -> None:
        """`write` fills an empty directory. `epoch` counts whole epochs, `step` the steps done of the next."""

    def newest_checkpoint(self) -> Path | None:
        """What to take the training up from, whole and verified."""

    def best_checkpoint(self) -> Path | None:
        """The last one that was saved as the best."""
