"""The gradients of one step: of one batch, or of several that count as one large batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from nets.answers import Told
from nets.batches import Batch
from nets.distillation import Teacher
from nets.losses import Loss, Weighed
from nets.precision import autocast
from nets.pruning import Masks


@dataclass(frozen=True)
class Tally:
    """What a step saw: how many images, how many of them right, and their loss, auxiliary heads included."""

    images: int
    correct: int
    loss: float


def take(
    network: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    alone: bool,
    dtype: torch.dtype,
    forward: Callable[[Tensor], Any] | None = None,
    teacher: Teacher | None = None,
    told: Told = lambda: None,
) -> Tally:
    """Leaves the gradients of the loss over all images in the parameters; `alone` if there is but one batch.

    Only batch normalisation sees the batches one by one. `dtype` is that of the arithmetic; `forward` the network's
    forward pass, where it is not the network itself; `teacher` whoever has a word beside the labels. `told` is called
    between batches.
    """
    call = network if forward is None else forward
    images, correct, total, weight = 0, 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        if images:
            told()
        with autocast(batch.images.device, dtype):
            outputs = call(batch.images)
        logits, weighed = _loss(network, outputs, batch, loss)
        weighed = weighed if teacher is None else _taught(weighed, logits, batch, teacher)
        (weighed.mean if alone else weighed.total).backward()  # type: ignore[no-untyped-call]
        images, correct = images + len(batch), correct + batch.correct(logits)
        total, weight = total + weighed.total.detach().cpu(), weight + weighed.weight.cpu()
    if not alone:
        for gradient in _gradients(network):
            gradient.div_(weight.to(gradient.device))
    return Tally(images, correct, (total / weight).item())


def _loss(network: nn.Module, outputs: Tensor | tuple[Tensor, ...], batch: Batch, loss: Loss) -> tuple[Tensor, Weighed]:
    """The head's logits, and the loss; auxiliary heads, if there are any, count the network's `auxiliary_weight`."""
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    weighed = batch.loss(logits.float(), loss)
    share = getattr(network, "auxiliary_weight", 0.0)
    total = sum((share * batch.loss(other.float(), loss).total for other in auxiliary), weighed.total)
    return logits, Weighed(total, weighed.weight)


def _taught(weighed: Weighed, logits: Tensor, batch: Batch, teacher: Teacher) -> Weighed:
    """The loss with the teacher's word in it, each image counting as much as images of the batch do on average."""
    told = teacher.disagreement(logits, batch.images) * weighed.weight / len(batch)
    return Weighed((1 - teacher.alpha) * weighed.total + teacher.alpha * told, weighed.weight)


@torch.no_grad()
def cut(network: nn.Module, masks: Masks) -> None:
    """Forgets the gradients of weights that are cut, so that they count in no norm and turn no matrix."""
    parameters = dict(network.named_parameters())
    for name, mask in masks.cut.items():
        gradient = parameters[name].grad
        if gradient is not None:
            gradient.masked_fill_(mask, 0.0)


@torch.no_grad()
def forget(network: nn.Module, masks: Masks, optimizer: optim.Optimizer) -> None:
    """Has the optimizer forget what it knows of weights that are cut: its momentum would turn Muon's matrices on."""
    parameters = dict(network.named_parameters())
    for name, mask in masks.cut.items():
        for value in optimizer.state.get(parameters[name], {}).values():
            if isinstance(value, Tensor) and value.shape == mask.shape:
                value.masked_fill_(mask, 0.0)


def undoing(network: nn.Module) -> Callable[[], None]:
    """Has a network as it is now: the call gives its buffers their values of now, and takes all gradients away."""
    before = [buffer.clone() for buffer in network.buffers()]

    @torch.no_grad()
    def undo() -> None:
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
        network.zero_grad(set_to_none=True)

    return undo


def clip(network: nn.Module, norm: float | None) -> None:
    """Scales all gradients down to this norm, if theirs is larger (Pascanu et al., arXiv 1211.5063, algorithm 1)."""
    if norm is not None:
        torch.nn.utils.clip_grad_norm_(network.parameters(), norm)


def _gradients(network: nn.Module) -> Iterable[Tensor]:
    return (parameter.grad for parameter in network.parameters() if parameter.grad is not None)
