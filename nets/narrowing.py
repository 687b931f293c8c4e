"""A network with fewer channels, and the shapes of one that was cut given to a fresh one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nets.coupling import HOLDERS, Coupled, Slices
from nets.layers import is_depthwise

Kept = Mapping[str, Tensor]  # by the name of coupled channels, int64: those to keep, in the order they are to have


def narrowed(network: nn.Module, groups: Sequence[Coupled], kept: Kept) -> nn.Module:
    """A copy that has of each group only the channels that are kept; the network stays as it is."""
    filters: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    for group in groups:
        straight, shuffled = kept[group.name], _shuffled(kept[group.name], group)
        for slices in group.made:
            order = straight if slices.layer in group.straight else shuffled
            filters[slices.layer] = _left(filters.get(slices.layer), slices, order, group)
        for slices in group.read:
            inputs[slices.layer] = _left(inputs.get(slices.layer), slices, shuffled, group)
    lean = copy.deepcopy(network)
    for name in filters.keys() | inputs.keys():
        _cut(lean.get_submodule(name), filters.get(name), inputs.get(name))
    return lean


def _shuffled(order: Tensor, group: Coupled) -> Tensor:
    """Places after the shuffle of the channels in this order, in the order that a shuffle of them gives."""
    return group.after_shuffle(order.reshape(group.groups, -1).T.flatten())


def _left(before: Tensor | None, slices: Slices, order: Tensor, group: Coupled) -> Tensor:
    """A mask over the places of a layer that several groups may meet in; an order of them where groups are shuffled."""
    if group.groups > 1:
        return order
    size = int(slices.places.max()) + 1
    mask = torch.ones(size, dtype=torch.bool) if before is None else before
    if len(mask) < size:
        mask = torch.cat([mask, torch.ones(size - len(mask), dtype=torch.bool)])
    mask[slices.places] = torch.isin(slices.channels, order)
    return mask


def _indices(left: Tensor | None, size: int) -> Tensor:
    """Places to keep of `size`; those that no group has are kept."""
    if left is None:
        return torch.arange(size)
    if left.dtype != torch.bool:
        return left
    return torch.cat([left.nonzero().flatten(), torch.arange(len(left), size)])


def _cut(module: nn.Module, filters: Tensor | None, inputs: Tensor | None) -> None:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    rows = _indices(filters, len(weight))
    state = {
        name: value[rows] for name, value in module.state_dict().items() if value.ndim and len(value) == len(weight)
    }
    if inputs is not None:
        state["weight"] = _columns(module, state["weight"], inputs)
    _resize(module, state["weight"].shape)
    module.load_state_dict(state, strict=False)  # the count of batches that a normalisation saw stays


def _columns(module: nn.Module, weight: Tensor, inputs: Tensor) -> Tensor:
    """The inputs to keep; of a grouped convolution each group has its own, as many as the others."""
    parts = module.groups if isinstance(module, nn.Conv2d) else 1
    if parts == 1:
        return weight[:, _indices(inputs, weight.shape[1])]
    each = weight.shape[1]
    columns = _indices(inputs, each * parts).reshape(parts, -1)
    blocks = weight.reshape(parts, -1, *weight.shape[1:])
    return torch.cat(
        [block[:, own - number * each] for number, (block, own) in enumerate(zip(blocks, columns, strict=True))]
    )


def fit_shapes(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Gives the layers and normalisations of a network these shapes, by names of its state dict; whether any changed.

    The values of what changes are lost. They only ever get narrower; what does not is left for others to find.
    """
    changed = False
    for name, module in network.named_modules():
        wanted = tuple(shapes.get(f"{name}.weight" if name else "weight", ()))
        if isinstance(module, HOLDERS) and _is_narrower(wanted, module.weight):
            _resize(module, wanted)
            changed = True
    return changed


def _is_narrower(wanted: tuple[int, ...], weight: Tensor | None) -> bool:
    if weight is None or len(wanted) != weight.ndim or wanted == tuple(weight.shape):
        return False
    return all(0 < new <= old for new, old in zip(wanted, weight.shape, strict=True))


def _resize(module: nn.Module, shape: Sequence[int]) -> None:
    outputs = shape[0]
    if isinstance(module, nn.Conv2d):
        module.groups = outputs if is_depthwise(module) else module.groups
        module.out_channels, module.in_channels = outputs, shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = outputs, shape[1]
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = outputs
    for name, parameter in module.named_parameters(recurse=False):
        fresh = parameter.detach().new_zeros(shape if name == "weight" else (outputs,))
        setattr(module, name, nn.Parameter(fresh, parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.ndim:
            setattr(module, name, buffer.new_zeros(outputs))
