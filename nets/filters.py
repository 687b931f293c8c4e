"""Whole channels cut out of a network, so that it does less work: which, and how many for what was asked.

Channels of the whole network compete by their score relative to the mean of their layer, or each layer gives its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name

import torch
from torch import Tensor, nn

from nets.answers import Told
from nets.coupling import Coupled, coupled_channels
from nets.criteria import Evidence, Scores
from nets.datasets import Dataset
from nets.errors import TargetNotReached, UnknownLayer
from nets.figures import multiply_accumulates, parameter_count
from nets.narrowing import Kept, narrowed
from specs.pruning import PRUNING_METHODS, FilterOptions
from specs.registry import nearest

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
        own = self.options.layers or {}
        named = [group for group in self.groups if group.name in own]
        others = [group for group in self.groups if group.name not in own]
        left = dict.fromkeys((group.name for group in others), share) | own
        if self.options.scope == "layer" or not others:
            return self._in_each(self.groups, left)
        return {**self._competing(others, share), **self._in_each(named, left)}

    def in_each(self, share: float) -> Kept:
        """The same where every group gives that share of its own."""
        return self._in_each(self.groups, {group.name: share for group in self.groups})

    def gone(self, kept: Kept) -> float:
        """The share of all channels that are not among those."""
        every = sum(group.size for group in self.groups)
        return 1 - sum(map(len, kept.values())) / every if every else 0.0

    def _in_each(self, groups: Sequence[Coupled], shares: Mapping[str, float]) -> Kept:
        return {group.name: self._kept(group, group.size - round(shares[group.name] * group.size)) for group in groups}

    def _competing(self, groups: Sequence[Coupled], share: float) -> Kept:
        """When that share of the channels of all these groups goes, lowest scores first."""
        every = torch.cat([self.scores[group.name] for group in groups])
        stays = torch.ones(len(every), dtype=torch.bool)
        stays[every.argsort(stable=True)[: round(share * len(every))]] = False
        parts = torch.split(stays, [group.size for group in groups])
        return {group.name: self._kept(group, int(part.sum())) for group, part in zip(groups, parts, strict=True)}

    def _kept(self, group: Coupled, count: int) -> Tensor:
        return _kept(group, self.scores[group.name], count, self.options.round_to)


def cutter(
    network: nn.Module, data: Dataset, *, method: str, options: FilterOptions, seed: int, told: Told | None = None
) -> Cutter:
    """What cuts a network by a method of the catalogue; CannotCut if that cannot be, UnknownLayer for a name of none.

    `told` is called as images are looked at, by methods that do.
    """
    groups = coupled_channels(network, channels=data.channels, image_size=data.image_size)
    scores: Scores = resolve_name(PRUNING_METHODS[method].target)(groups, Evidence(network, data, seed, told))
    for name in options.layers or {}:
        if name not in scores:
            raise UnknownLayer(name, nearest(name, scores))
    return Cutter(network, [group for group in groups if group.name in scores], scores, options)


def _kept(group: Coupled, scores: Tensor, count: int, round_to: int) -> Tensor:
    """About `count` of the highest scores, rounded up so that vector units are filled."""
    step = math.lcm(group.groups, round_to)
    least = max(step, math.ceil((1 - MOST) * group.size))
    count = min(group.size, math.ceil(max(count, least) / step) * step)
    if group.groups > 1:
        return _kept_in_cells(group, scores, count // group.groups, step // group.groups)
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _kept_in_cells(group: Coupled, scores: Tensor, each: int, step: int) -> Tensor:
    """As many from every group before a shuffle, so that after it every group gets as many as well.

    A cell is what goes from one group to one group. A narrower shuffle has cells of its own sizes: each is filled from
    the same cell of the wider one, by score. If one of them is too small, a shuffle wider by `step` is taken.
    """
    whole = group.size // group.groups
    before = _cells(group.groups, whole)
    while True:
        after = _cells(group.groups, each)
        if (after.sum(-1) <= before.sum(-1)).all():
            break
        each = min(whole, each + step)
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
