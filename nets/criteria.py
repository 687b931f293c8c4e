"""How much a channel matters: one number for each, by the filters that make it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nets.answers import Told, batch_for
from nets.batches import normalised
from nets.coupling import LAYERS, Coupled
from nets.datasets import Dataset
from nets.errors import CannotCut
from nets.seeds import derived_seed

# Enough for gradients to rank channels: Molchanov et al. take a few hundred images.
TAYLOR_IMAGES = 512
TAYLOR_BATCH = 64


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at; `seed` is for those that draw lots, `told` is called as images are looked at."""

    network: nn.Module
    data: Dataset
    seed: int
    told: Told | None = None


Scores = dict[str, Tensor]  # by the name of coupled channels, one float each


def l1(groups: Iterable[Coupled], evidence: Evidence) -> Scores:
    """The sum of absolute weights of a filter (Li et al.: Pruning Filters for Efficient ConvNets, 1608.08710)."""
    return _by_filter(groups, evidence, lambda weight: weight.abs())


def l2(groups: Iterable[Coupled], evidence: Evidence) -> Scores:
    """The Euclidean norm of a filter, squared."""
    return _by_filter(groups, evidence, lambda weight: weight.square())


def taylor(groups: Iterable[Coupled], evidence: Evidence) -> Scores:
    """What the loss would change by without a filter, to first order, squared (Molchanov et al., 1906.10771, eq. 8)."""
    groups = list(groups)
    gradients = _gradients(evidence)
    layers = {slices.layer for group in groups for slices in group.made}
    changes = {
        name: (gradients[name] * _weight(evidence.network, name)).flatten(1).sum(1).square()
        for name in layers
        if name in gradients
    }
    return {group.name: _mean_over(group, changes) for group in groups}


def bn_scale(groups: Iterable[Coupled], evidence: Evidence) -> Scores:
    """The scale of a channel's batch normalisation (Liu et al.: Network Slimming, 1708.06519).

    Channels that are not normalised are left out, and so not cut; CannotCut if that is all.
    """
    found: Scores = {}
    for group in groups:
        scales = {
            slices.layer: _weight(evidence.network, slices.layer).abs()
            for slices in group.made
            if isinstance(evidence.network.get_submodule(slices.layer), nn.BatchNorm2d)
        }
        if scales:
            found[group.name] = _mean_over(group, scales)
    if not found:
        raise CannotCut(
            "it has no batch normalisation, by whose scales to rank; take another method, such as l1-filter"
        )
    return found


def lots(groups: Iterable[Coupled], evidence: Evidence) -> Scores:
    """Chance, to hold the others against."""
    found = {}
    for number, group in enumerate(groups):
        generator = torch.Generator().manual_seed(derived_seed("lots", evidence.seed, number))
        found[group.name] = torch.rand(group.size, generator=generator, dtype=torch.float64)
    return found


def _by_filter(groups: Iterable[Coupled], evidence: Evidence, change: Callable[[Tensor], Tensor]) -> Scores:
    network = evidence.network
    sums = {
        name: change(module.weight.detach().double()).flatten(1).sum(1)
        for name, module in network.named_modules()
        if isinstance(module, LAYERS)
    }
    return {group.name: _mean_over(group, sums) for group in groups}


def _mean_over(group: Coupled, values: dict[str, Tensor]) -> Tensor:
    """The mean over the layers that make the channels, each relative to the mean of its own."""
    found = []
    for slices in group.made:
        if slices.layer in values:
            shuffled = group.groups > 1 and slices.layer not in group.straight
            channels = group.before_shuffle(slices.channels) if shuffled else slices.channels
            score = torch.zeros(group.size, dtype=torch.float64)
            score.index_add_(0, channels, values[slices.layer][slices.places].double())
            found.append(score / score.mean().clamp(min=torch.finfo(score.dtype).tiny))
    return torch.stack(found).mean(0)


def _weight(network: nn.Module, name: str) -> Tensor:
    weight = network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _gradients(evidence: Evidence) -> dict[str, Tensor]:
    """Of the loss over some training images, by layer; the network is left as it was."""
    network, split = evidence.network, evidence.data.train
    count = min(TAYLOR_IMAGES, len(split))
    numbers = torch.linspace(0, len(split) - 1, count).long()
    device = next(network.parameters()).device
    network.eval().zero_grad(set_to_none=True)
    # A backward pass keeps what a forward pass alone gives back: of large images few go at a time.
    for chosen in torch.split(numbers, max(1, min(TAYLOR_BATCH, batch_for(evidence.data) // 4))):
        images = normalised(split.images(chosen), evidence.data, device)
        cross_entropy(network(images), split.labels[chosen].to(device), reduction="sum").backward()  # type: ignore[no-untyped-call]
        if evidence.told is not None:
            evidence.told()
    found = {
        name: module.weight.grad.detach().clone()
        for name, module in network.named_modules()
        if isinstance(module, LAYERS) and module.weight.grad is not None
    }
    network.zero_grad(set_to_none=True)
    return found
