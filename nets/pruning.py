"""Which weights to cut, and keeping them cut.

Only the weights of convolutions and linear layers are candidates; biases and batch normalisation stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name

import torch
from torch import Tensor, nn

from specs.options import Strict
from specs.pruning import PRUNING_METHODS, MagnitudeOptions


@dataclass(frozen=True)
class Masks:
    """By parameter name, a bool tensor of its shape: True where the weight is cut."""

    cut: Mapping[str, Tensor]

    @torch.no_grad()
    def apply(self, network: nn.Module) -> None:
        """Sets the cut weights to +0.0; multiplying by 0 would leave -0.0, which is not a zero word in storage."""
        parameters = dict(network.named_parameters())
        for name, cut in self.cut.items():
            parameters[name].masked_fill_(cut, 0.0)

    def to(self, device: torch.device) -> Masks:
        return Masks({name: cut.to(device) for name, cut in self.cut.items()})


@dataclass(frozen=True)
class Sparsity:
    """Share of zeros among the weights that can be cut, and among all parameters."""

    prunable: float
    total: float


def select(network: nn.Module, *, method: str, options: Strict) -> Masks:
    """What a method of the catalogue would cut; `options` may be the whole prune spec, which holds them.

    Weights that are zero already are cut in any case: what was pruned before does not grow back.
    """
    masks: Masks = resolve_name(PRUNING_METHODS[method].target)(network, options)
    weights = prunable_weights(network)
    return Masks({name: cut | (weights[name] == 0) for name, cut in masks.cut.items()})


def prunable_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers by parameter name."""
    return {
        f"{name}.weight" if name else "weight": module.weight.detach()
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def magnitude(network: nn.Module, options: MagnitudeOptions) -> Masks:
    """Cuts the asked share of the weights, smallest absolute values first (Han et al., arXiv 1506.02626, section 3).

    Across layers a weight is measured against those of its own layer that are no smaller: by its square over the sum
    of theirs (LAMP: Lee et al., arXiv 2010.07611, equation 5). Bare absolute values would take nearly all from a
    layer that merely began, or is scaled, at smaller ones. Within a layer the order is the same.

    Weights that are zero already count as part of the share. Of equal values the earlier goes first.
    Every layer keeps its largest weight, or nothing would pass through it.
    """
    weights = prunable_weights(network)
    groups = [weights] if options.scope == "global" else [{name: weight} for name, weight in weights.items()]
    cut: dict[str, Tensor] = {}
    for group in groups:
        cut |= _lowest(group, options.sparsity)
    return Masks(cut)


def _lowest(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    scores = torch.cat([_scores(weight) for weight in weights.values()])
    count = min(int(len(scores) * sparsity + 0.5), len(scores) - len(weights))
    cut = torch.zeros_like(scores, dtype=torch.bool)
    cut[torch.sort(scores, stable=True).indices[:count]] = True
    pieces = torch.split(cut, [weight.numel() for weight in weights.values()])
    return {name: piece.reshape(weight.shape) for (name, weight), piece in zip(weights.items(), pieces, strict=True)}


def _scores(weight: Tensor) -> Tensor:
    """The share of each squared weight in the sum of those from it upwards, in float64; the largest is infinite."""
    squares = weight.double().square().flatten()
    ordered, order = torch.sort(squares, stable=True)
    sums = ordered.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    # Where all are zero, so are the sums.
    scores[order] = ordered / sums.clamp(min=torch.finfo(sums.dtype).tiny)
    scores[squares.argmax()] = torch.inf
    return scores


def sparsity(network: nn.Module) -> Sparsity:
    """Shares of exact zeros."""
    return Sparsity(
        _zero_share(list(prunable_weights(network).values())), _zero_share([p.detach() for p in network.parameters()])
    )


def _zero_share(tensors: list[Tensor]) -> float:
    total = sum(tensor.numel() for tensor in tensors)
    return 1 - sum(int(torch.count_nonzero(tensor)) for tensor in tensors) / total if total else 0.0
