"""The first steps of a training, for what they take: time, memory, room for a checkpoint.

They are steps of the training itself, by its own code, on its own data; nothing of them is kept.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from torch import nn

from nets.answers import Told, answers
from nets.datasets import Dataset
from nets.distillation import Teacher
from nets.errors import Interrupted
from nets.observer import EpochRow
from nets.sensitivity import some
from nets.training import TrainingPlan, train

if sys.platform != "win32":
    import resource

# The first steps pay for what is made once: buffers, threads, kernels.
WARM = 2
LEAST = 3
SECONDS = 4.0
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Rehearsal:
    """What was found; `epochs` are seconds of whole epochs with their validation, as metrics tell them.

    `memory` is the peak of the process in bytes; `checkpoint` has the bytes of one and `saving` the seconds that took.
    """

    epochs: tuple[float, ...]
    memory: int
    checkpoint: int
    saving: float


def rehearse(
    network: nn.Module,
    data: Dataset,
    plan: TrainingPlan,
    folder: Path,
    *,
    teacher: Teacher | None = None,
    told: Told = lambda: None,
) -> Rehearsal:
    """Trains for some steps, and some epochs where they are short; the network is changed. `folder` is empty.

    `told` is called as it goes on.
    """
    watcher = _Watcher(folder, told)
    with suppress(Interrupted):
        # To compile takes longer than all else here, and pays in long trainings only.
        train(network, data, replace(plan, compiler=None, patience=None), watcher, teacher=teacher)
    epochs = watcher.epochs[1:] or watcher.epochs
    if not epochs:
        validated = some(data)
        began = time.perf_counter()
        answers(network, validated, data, told=told)
        validation = (time.perf_counter() - began) * len(data.validation) / max(1, len(validated))
        steps = -(-len(data.train) // (plan.batch_size * plan.accumulation))
        epochs = [step * steps + validation for step in watcher.steps]
    return Rehearsal(tuple(epochs), _peak(), watcher.checkpoint, watcher.saving)


@dataclass
class _Watcher:
    """The observer of a training that is to be broken off."""

    folder: Path
    on_work: Told
    marks: list[float] = field(default_factory=lambda: [time.perf_counter()])
    steps: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    checkpoint: int = 0
    saving: float = 0.0

    def on_step(self, **_where: Any) -> None:
        self.on_work()
        self.marks.append(time.perf_counter())
        if len(self.marks) > WARM + 1:
            self.steps.append(self.marks[-1] - self.marks[-2])

    def on_epoch(self, row: EpochRow) -> None:
        self.epochs.append(row.seconds)

    def on_notice(self, message: str) -> None:
        """Nothing is decided here that a training would not decide anew."""

    def stop_requested(self) -> bool:
        return len(self.steps) >= LEAST and self.marks[-1] - self.marks[0] > SECONDS

    def checkpoint_due(self) -> bool:
        return False

    def save_checkpoint(self, write: Callable[[Path], None], *, best: bool, **_where: Any) -> None:
        target = self.folder / ("best" if best else "newest")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        began = time.perf_counter()
        write(target)
        self.saving = time.perf_counter() - began
        self.checkpoint = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())

    def newest_checkpoint(self) -> Path | None:
        return None

    def best_checkpoint(self) -> Path | None:
        target = self.folder / "best"
        return target if target.exists() else None


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
