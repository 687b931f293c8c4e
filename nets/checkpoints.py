"""A training written down so that it can be taken up exactly where it was, in a few files, none of them pickle.

`network.safetensors` holds parameters and buffers, `average.safetensors` their averages where there are any,
`optimizer.safetensors` the optimizer's tensors as `<parameter number>.<name>`, `state.json` the counters and what a
schedule made of the validation losses. Data order, dropout and all other schedules need no record: they are functions
of the seed, the epoch and the step.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, optim

from nets.averaging import Average
from nets.gradients import Tally
from nets.schedules import Plateau

NETWORK_NAME = "network.safetensors"
AVERAGE_NAME = "average.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"


@dataclass
class Progress:
    """How far a training is: `epoch` whole epochs and `step` steps of the next, whose running sums stand here."""

    epoch: int = 0
    step: int = 0
    images: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float | None = None
    lowest_loss: float | None = None
    epochs_without_fall: int = 0
    compiled: bool = False
    plateau: Plateau = field(default_factory=Plateau)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Progress:
        """What `asdict` wrote, by this version or one that knew less."""
        return cls(**{**values, "plateau": Plateau(**values.get("plateau", {}))})

    def count_step(self, seen: Tally) -> None:
        self.step += 1
        self.images += seen.images
        self.correct += seen.correct
        self.loss_sum += seen.loss * seen.images

    def forget_best(self) -> None:
        """What comes next is another network: only its own epochs count."""
        self.best_epoch, self.best_accuracy, self.best_loss = 0, -1.0, None
        self.lowest_loss, self.epochs_without_fall = None, 0
        self.plateau.lowest, self.plateau.waited = None, 0

    def finish_epoch(self, *, loss: float, accuracy: float, min_delta: float = 0.0) -> bool:
        """Counts a whole epoch by its validation figures; whether it is the best so far.

        The loss has fallen if it is more than `min_delta` below the lowest of before.
        """
        self.epoch += 1
        self.step = self.images = self.correct = 0
        self.loss_sum = self.seconds = 0.0
        fell = self.lowest_loss is None or loss < self.lowest_loss - min_delta
        self.lowest_loss = loss if fell else self.lowest_loss
        self.epochs_without_fall = 0 if fell else self.epochs_without_fall + 1
        best = self.best_loss is None or (accuracy, -loss) > (self.best_accuracy, -self.best_loss)
        if best:
            self.best_epoch, self.best_accuracy, self.best_loss = self.epoch, accuracy, loss
        return best


@dataclass(frozen=True)
class Trained:
    """All that a training changes but its counters."""

    network: nn.Module
    optimizer: optim.Optimizer
    average: Average | None = None


def is_finite(network: nn.Module) -> bool:
    """Whether a network has neither NaN anywhere nor infinite parameters; a buffer may be infinite, as a mask is."""
    parameters = all(bool(value.isfinite().all()) for value in network.parameters())
    return parameters and not any(bool(value.isnan().any()) for value in network.buffers())


def write_checkpoint(directory: Path, trained: Trained, progress: Progress) -> None:
    """Fills an empty directory; to make it durable and visible at once is the caller's business."""
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = defaultdict(dict)
    for number, state in trained.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = _plain(value)
            else:
                others[str(number)][name] = value
    _write_network(directory / NETWORK_NAME, trained.network)
    if trained.average is not None:
        _write_network(directory / AVERAGE_NAME, trained.average.network)
    save_file(tensors, directory / OPTIMIZER_NAME)
    state_text = json.dumps({"progress": asdict(progress), "optimizer": others}, allow_nan=False)
    (directory / STATE_NAME).write_text(state_text, encoding="utf-8")


def read_checkpoint(directory: Path, trained: Trained) -> Progress:
    """Puts a checkpoint's values into what was made as it was then; returns how far it was."""
    _read_network(directory / NETWORK_NAME, trained.network)
    if trained.average is not None:
        _read_network(directory / AVERAGE_NAME, trained.average.network)
    saved = json.loads((directory / STATE_NAME).read_text(encoding="utf-8"))
    state: dict[int, dict[str, Any]] = defaultdict(dict)
    for number, values in saved["optimizer"].items():
        state[int(number)].update(values)
    for key, value in load_file(directory / OPTIMIZER_NAME).items():
        number, _, name = key.partition(".")
        state[int(number)][name] = value
    optimizer = trained.optimizer
    optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(state)})
    _align(optimizer)
    return Progress.of(saved["progress"])


def read_network(directory: Path, network: nn.Module, *, averaged: bool = True) -> None:
    """Puts what a checkpoint would have been published as into a network: averages if it has them, else weights.

    Not `averaged` it is what was trained.
    """
    average = directory / AVERAGE_NAME
    _read_network(average if averaged and average.exists() else directory / NETWORK_NAME, network)


def read_progress(directory: Path) -> Progress:
    """How far the training was when the checkpoint was written."""
    return Progress.of(json.loads((directory / STATE_NAME).read_text(encoding="utf-8"))["progress"])


def _write_network(path: Path, network: nn.Module) -> None:
    save_file({name: _plain(value) for name, value in network.state_dict().items()}, path)


def _read_network(path: Path, network: nn.Module) -> None:
    network.load_state_dict(load_file(path))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _align(optimizer: optim.Optimizer) -> None:
    """Lays the optimizer's tensors out in memory as the parameters are: fused kernels go by memory order."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()
