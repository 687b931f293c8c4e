"""Which channels can only be cut together.

A channel is made by a filter and read by the layers after it; where features are added, every network that makes one
of the summands has to give up the same one. Torch-Pruning finds that out by a trace of the network (Fang et al.:
DepGraph: Towards Any Structural Pruning, arXiv 2301.12900). It does not know channels that are shuffled: of shuffling
units only those inside are cut, by rules of this file.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

from nets.errors import CannotCut
from nets.layers import is_depthwise, layers_of
from nets.models.shufflenet_v1 import ShuffleNetV1
from nets.models.shufflenet_v1 import ShuffleUnit as ShuffleUnitV1
from nets.models.shufflenet_v2 import ShuffleNetV2
from nets.models.shufflenet_v2 import ShuffleUnit as ShuffleUnitV2

LAYERS = (nn.Conv2d, nn.Linear)
HOLDERS = (*LAYERS, nn.BatchNorm2d)


@dataclass(frozen=True)
class Slices:
    """Of one layer, what belongs to which channel: `places[i]`, a filter or an input, to channel `channels[i]`.

    Both int64 of one length; a channel may have many places, such as all pixels of a flattened image.
    """

    layer: str
    channels: Tensor
    places: Tensor


@dataclass(frozen=True)
class Coupled:
    """Channels 0 to `size` - 1: layers and normalisations whose filters make them, and layers whose inputs read them.

    With `groups` above 1 the channels are shuffled on their way, from (groups, size / groups) to its transpose:
    `channels` of layers in `made` count as before that in `straight`, and as after it elsewhere.
    """

    name: str
    size: int
    made: tuple[Slices, ...]
    read: tuple[Slices, ...]
    groups: int = 1
    straight: frozenset[str] = frozenset()

    def after_shuffle(self, channels: Tensor) -> Tensor:
        """Where channels are after it."""
        each = self.size // self.groups
        return channels % each * self.groups + channels // each

    def before_shuffle(self, places: Tensor) -> Tensor:
        """Which channels are at these places after it."""
        return places % self.groups * (self.size // self.groups) + places // self.groups


def coupled_channels(network: nn.Module, *, channels: int, image_size: int) -> list[Coupled]:
    """All that may be cut of a network, in the order of its layers: neither its images nor its classes.

    Raises CannotCut for a network whose channels cannot be followed.
    """
    for kind, rule in RULES.items():
        if isinstance(network, kind):
            return list(rule(network))
    if any(isinstance(module, nn.ChannelShuffle) for module in network.modules()):
        raise CannotCut("its channels are shuffled in a way that is not known")
    return _traced(network, channels=channels, image_size=image_size)


def _traced(network: nn.Module, *, channels: int, image_size: int) -> list[Coupled]:
    # Channels are followed along gradients, which a network that has taught, or was frozen, has none of.
    network = _without_slopes(copy.deepcopy(network).eval().requires_grad_(True))
    names = {module: name for name, module in network.named_modules()}
    heads = [network.get_submodule(name) for name in layers_of(network).heads]
    image = next(network.parameters()).detach().new_zeros(1, channels, image_size, image_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(network, image)
            found = [*graph.get_all_groups(ignored_layers=heads, root_module_types=list(LAYERS))]
    except Exception as error:  # it is asked of any network, and fails in many ways
        raise CannotCut(f"its channels cannot be followed ({type(error).__name__})") from error
    order = {name: number for number, name in enumerate(names.values())}
    return sorted((_coupled(graph, group, names) for group in found), key=lambda group: order[group.name])


def _without_slopes(network: nn.Module) -> nn.Module:
    """The same with slopes that are not learnt, which bind no channels.

    Torch-Pruning takes PReLU for a layer of as many channels as it sees; ours has one slope for all of them, and a
    block that calls it several times would have all that it sees bound together.
    """
    for name, module in [*network.named_modules()]:
        if isinstance(module, nn.PReLU):
            network.set_submodule(name, nn.LeakyReLU())
    return network


def _coupled(graph: torch_pruning.DependencyGraph, group: torch_pruning.Group, names: dict[nn.Module, str]) -> Coupled:
    made: dict[str, Slices] = {}
    read: dict[str, Slices] = {}
    for item in group:
        module = item.dep.target.module
        if isinstance(module, HOLDERS):
            # A normalisation and a depthwise convolution make the channels that they read.
            makes = graph.is_out_channel_pruning_fn(item.dep.handler) or is_depthwise(module)
            name = names[module]
            side = made if makes or isinstance(module, nn.BatchNorm2d) else read
            side[name] = Slices(name, torch.tensor(item.root_idxs), torch.tensor(item.idxs))
    name = names[group[0].dep.target.module]
    return Coupled(name, len(group[0].idxs), tuple(made.values()), tuple(read.values()))


def _one_to_one(prefix: str, names: tuple[str, ...], size: int) -> tuple[Slices, ...]:
    every = torch.arange(size)
    return tuple(Slices(f"{prefix}.{name}" if prefix else name, every, every) for name in names)


def _shufflenet_v1(network: ShuffleNetV1) -> Iterator[Coupled]:
    """Inside each unit, where nearly all of its work is: between the two pointwise convolutions."""
    for name, unit in network.named_modules():
        if isinstance(unit, ShuffleUnitV1):
            size = unit.compress.out_channels
            made = _one_to_one(name, ("compress", "bn1", "depthwise", "bn2"), size)
            straight = frozenset({f"{name}.compress", f"{name}.bn1"})
            yield Coupled(
                f"{name}.compress", size, made, _one_to_one(name, ("expand",), size), unit.expand.groups, straight
            )


def _shufflenet_v2(network: ShuffleNetV2) -> Iterator[Coupled]:
    """Inside each unit between its pointwise convolutions, and before the head."""
    for name, unit in network.named_modules():
        if isinstance(unit, ShuffleUnitV2):
            size = _outputs(unit.branch2[0])
            branch = f"{name}.branch2"
            made = _one_to_one(branch, ("0", "1", "3", "4"), size)
            yield Coupled(f"{branch}.0", size, made, _one_to_one(branch, ("5",), size))
    size = _outputs(network.conv5[0])
    yield Coupled("conv5.0", size, _one_to_one("conv5", ("0", "1"), size), _one_to_one("", ("fc",), size))


def _outputs(module: nn.Module) -> int:
    assert isinstance(module, nn.Conv2d)
    return module.out_channels


RULES: dict[type[nn.Module], Callable[..., Iterator[Coupled]]] = {
    ShuffleNetV1: _shufflenet_v1,
    ShuffleNetV2: _shufflenet_v2,
}
