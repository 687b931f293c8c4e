"""Whole channels cut out of a network, so that it does less work: which, and how many for what was asked.

Channels of the whole network compete by their score relative to the mean of their layer, or each layer gives its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name

import torch
from torch import Tensor, nn

from nets.coupling import Coupled, coupled_channels
from nets.criteria import Evidence, Scores
from nets.datasets import Dataset
from nets.errors import TargetNotReached
from nets.figures import multiply_accumulates, parameter_count
from nets.narrowing import Kept, narrowed
from specs.pruning import PRUNING_METHODS, FilterOptions

# No layer gives more than this, or what is left of it cannot carry the others.
MOST = 0.95
HALVINGS = 14


@dataclass(frozen=True)
class Cutter:
    """Cuts one network, more or less of it, always by the same scores."""

    network: nn.Module
    groups: Sequence[Coupled]
    scores: Scores
    options: FilterOptions

    def at(self, share: float) -> nn.Module:
        """The network without this share of its channels (0 to 1), as far as layers can give it."""
        return narrowed(self.network, self.groups, self.keep(share))

    def keep(self, share: float) -> Kept:
        """The channels to keep, by the name of their group."""
        if self.options.scope == "layer":
            return self.in_each(share)
        return self._of_each(self._left_in_all(share))

    def in_each(self, share: float) -> Kept:
        """The same where every group gives that share of its own."""
        return self._of_each([group.size - round(share * group.size) for group in self.groups])

    def _of_each(self, left: list[int]) -> Kept:
        kept = zip(self.groups, left, strict=True)
        return {
            group.name: _kept(group, self.scores[group.name], count, self.options.round_to) for group, count in kept
        }

    def _left_in_all(self, share: float) -> list[int]:
        """Of each group, how many are left when that share of all channels goes, lowest scores first."""
        every = torch.cat([self.scores[group.name] for group in self.groups])
        stays = torch.ones(len(every), dtype=torch.bool)
        stays[every.argsort(stable=True)[: round(share * len(every))]] = False
        return [int(part.sum()) for part in torch.split(stays, [group.size for group in self.groups])]


def cutter(network: nn.Module, data: Dataset, *, method: str, options: FilterOptions, seed: int) -> Cutter:
    """What cuts a network by a method of the catalogue; CannotCut if that cannot be."""
    groups = coupled_channels(network, channels=data.channels, image_size=data.image_size)
    scores: Scores = resolve_name(PRUNING_METHODS[method].target)(groups, Evidence(network, data, seed))
    return Cutter(network, [group for group in groups if group.name in scores], scores, options)


def _kept(group: Coupled, scores: Tensor, count: int, round_to: int) -> Tensor:
    """About `count` of the highest scores, rounded up so that vector units are filled."""
    step = group.groups if group.groups > 1 else round_to
    least = max(step, math.ceil((1 - MOST) * group.size))
    count = min(group.size, math.ceil(max(count, least) / step) * step)
    if group.groups > 1:
        return _kept_in_cells(group, scores, count // group.groups)
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _kept_in_cells(group: Coupled, scores: Tensor, each: int) -> Tensor:
    """As many from every group before a shuffle, so that after it every group gets as many as well.

    A cell is what goes from one group to one group. A narrower shuffle has cells of its own sizes: each is filled from
    the same cell of the wider one, by score. If one of them is too small, a wider shuffle is taken.
    """
    before = _cells(group.groups, group.size // group.groups)
    while True:
        after = _cells(group.groups, each)
        if (after.sum(-1) <= before.sum(-1)).all():
            break
        each += 1
    order = []
    for source in range(group.groups):
        for target in range(group.groups):
            inside = before[source, target].nonzero().flatten() + source * (group.size // group.groups)
            best = scores[inside].argsort(descending=True, stable=True)[: int(after[source, target].sum())]
            order.append(inside[best].sort().values)
    return torch.cat(order)


def _cells(groups: int, each: int) -> Tensor:
    """bool (groups, groups, each): whether the i-th channel of a group before the shuffle goes to a group after it."""
    places = torch.arange(each) * groups + torch.arange(groups)[:, None]
    return places[:, None, :] // each == torch.arange(groups)[None, :, None]


Measure = Callable[[nn.Module], float]


def share_for(cutter: Cutter, measure: Measure, asked: float, *, name: str) -> float:
    """The least share of channels after whose cut `measure`, which falls, is at most `asked`; TargetNotReached."""
    least = measure(cutter.at(1.0))
    if least > asked:
        raise TargetNotReached(name, asked, least)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if measure(cutter.at(middle)) <= asked else (middle, high)
    return high


def measures(cutter: Cutter, data: Dataset) -> dict[str, Measure]:
    """By what may be asked for: what is left of it, as a share of the whole network's."""
    macs = partial(multiply_accumulates, channels=data.channels, image_size=data.image_size)
    counts: dict[str, Measure] = {"parameters": parameter_count, "macs": macs}
    return {name: partial(_left_of, count=count, whole=count(cutter.network)) for name, count in counts.items()}


def _left_of(network: nn.Module, *, count: Measure, whole: float) -> float:
    return count(network) / whole
