"""Which weights to cut, and keeping them cut.

Only the weights of convolutions and linear layers are candidates; biases and batch normalisation stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name

import torch
from torch import Tensor, nn

from nets.errors import UnknownLayer
from specs.options import Strict
from specs.pruning import PRUNING_METHODS, MagnitudeOptions
from specs.registry import nearest


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
    Every layer keeps its largest weight, or nothing would pass through it. Raises UnknownLayer.
    """
    weights = prunable_weights(network)
    shares = _shares_of_layers(weights, options)
    cut = {name: smallest(weights[name], share) for name, share in shares.items()}
    others = {name: weight for name, weight in weights.items() if name not in shares}
    return Masks({**cut, **_cut_of(others, options)})


def _shares_of_layers(weights: Mapping[str, Tensor], options: MagnitudeOptions) -> dict[str, float]:
    """Those asked for by the names of layers, by the names of their weights."""
    known = {name.removesuffix(".weight"): name for name in weights}
    for name in options.layers or {}:
        if name not in known:
            raise UnknownLayer(name, nearest(name, known))
    return {known[name]: share for name, share in (options.layers or {}).items()}


def _cut_of(weights: Mapping[str, Tensor], options: MagnitudeOptions) -> dict[str, Tensor]:
    if options.threshold is not None:
        return {name: _at_most(weight, options.threshold) for name, weight in weights.items()}
    if options.pattern is not None:
        kept, size = (int(number) for number in options.pattern.split(":"))
        return {name: _patterned(weight, size - kept, size) for name, weight in weights.items()}
    assert options.sparsity is not None
    groups = [dict(weights)] if options.scope == "global" else [{name: weight} for name, weight in weights.items()]
    cut: dict[str, Tensor] = {}
    for group in groups:
        cut |= _lowest(group, options.sparsity)
    return cut


def _at_most(weight: Tensor, threshold: float) -> Tensor:
    cut = weight.abs() <= threshold
    cut.view(-1)[weight.abs().argmax()] = False  # something has to pass
    return cut


def _patterned(weight: Tensor, count: int, size: int) -> Tensor:
    """Of each `size` weights in a row of a filter the `count` smallest; what is left at its end stays."""
    rows = weight.flatten(1).abs()
    whole = rows.shape[1] // size * size
    blocks = rows[:, :whole].reshape(len(rows), -1, size)
    cut = torch.zeros_like(rows, dtype=torch.bool)
    smallest = blocks.argsort(dim=2, stable=True)[..., :count]
    cut[:, :whole] = torch.zeros_like(blocks, dtype=torch.bool).scatter_(2, smallest, True).flatten(1)
    return cut.reshape(weight.shape)


def smallest(weight: Tensor, share: float) -> Tensor:
    """A mask of that share of a layer's weights, those of the smallest absolute value."""
    return _lowest({"": weight}, share)[""]


def _lowest(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    if not weights:
        return {}
    scores = torch.cat([_scores(weight) for weight in weights.values()])
    count = min(int(len(scores) * sparsity + 0.5), len(scores) - len(weights))
    cut = torch.zeros_like(scores, dtype=torch.bool)
    cut[torch.sort(scores, stable=True).indices[:count]] = True
    pieces = torch.split(cut, [weight.numel() for weight in weights.values()])
    return {name: piece.reshape(weight.shape) for (name, weight), piece in zip(weights.items(), pieces, strict=True)}


@dataclass(frozen=True)
class Gradually:
    """Cuts in rounds over `epochs` of a training, from `start` on: round k of n leaves (1 - k/n)³ of the cut."""

    method: str
    options: MagnitudeOptions
    epochs: int
    start: int = 0

    @property
    def beginnings(self) -> list[int]:
        """Of each round, the epoch (from 0) before which it cuts."""
        rounds = self.options.rounds
        return [self.start + number * (self.epochs - self.start) // rounds for number in range(rounds)]

    def masks(self, network: nn.Module, epoch: int) -> Masks | None:
        """What is cut before this epoch, of the weights as they are then; None if nothing is."""
        if epoch not in self.beginnings:
            return None
        done = sum(beginning <= epoch for beginning in self.beginnings) / self.options.rounds
        share = 1 - (1 - done) ** 3
        assert self.options.sparsity is not None
        layers = {name: share * asked for name, asked in (self.options.layers or {}).items()} or None
        options = self.options.model_copy(update={"sparsity": share * self.options.sparsity, "layers": layers})
        return select(network, method=self.method, options=options)


def zeros(network: nn.Module) -> Masks:
    """What was cut of a network, as its weights tell."""
    return Masks({name: weight == 0 for name, weight in prunable_weights(network).items()})


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
