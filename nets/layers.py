"""Which layers of a network are its first, its hidden ones and its heads.

Layers are convolutions and linear ones, in the order in which the network defines them. The last one is the head.
A network with auxiliary heads (it has an `auxiliary_weight`) has more: each ends a part of the network as the head
ends the whole, with as many outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Layers:
    """Layers by the names of their modules, none of them twice; `first` is None if there are heads only."""

    first: str | None
    hidden: tuple[str, ...]
    heads: tuple[str, ...]


def layers_of(network: nn.Module) -> Layers:
    """The layers of a network."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, Layer)}
    heads = _heads(network, layers)
    others = [name for name in layers if name not in heads]
    return Layers(others[0] if others else None, tuple(others[1:]), heads)


def _heads(network: nn.Module, layers: dict[str, Layer]) -> tuple[str, ...]:
    last = list(layers)[-1]
    if not hasattr(network, "auxiliary_weight"):
        return (last,)
    ends = {name.rpartition(".")[0]: name for name in layers}.values()  # the last of each part
    return tuple(name for name in layers if name in ends and _is_like(layers[name], layers[last]))


def _is_like(layer: Layer, head: Layer) -> bool:
    """Whether a layer is of the kind of the head, with as many outputs: a convolution may have as many by chance."""
    if isinstance(layer, nn.Linear) and isinstance(head, nn.Linear):
        return layer.out_features == head.out_features
    both = isinstance(layer, nn.Conv2d) and isinstance(head, nn.Conv2d)
    return both and layer.out_channels == head.out_channels


def is_depthwise(module: nn.Module) -> bool:
    """Whether it is a convolution that has a filter for each channel."""
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.out_channels
