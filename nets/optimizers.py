"""From the options of an optimizer to the optimizer of a network.

The fused kernels do a whole step in one pass over memory; PyTorch has them on the CPU for all but RMSprop and Muon.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn, optim

from nets.layers import is_depthwise, layers_of
from nets.muon import Muon
from nets.precision import has_bfloat16
from specs.optimizers import (
    OPTIMIZERS,
    AdagradOptions,
    AdamOptions,
    AdamwOptions,
    MomentumOptions,
    MuonOptions,
    NesterovOptions,
    OptimizerOptions,
    RmspropOptions,
    SgdOptions,
)

Parameters = list[nn.Parameter]
Groups = list[dict[str, Any]]


def build(options: OptimizerOptions, network: nn.Module) -> optim.Optimizer:
    """The optimizer of all parameters of the network that are to be trained, on the device they are on."""
    builder = resolve_name(OPTIMIZERS[options.name].target)
    optimizer: optim.Optimizer = builder(options, network)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def set_factor(optimizer: optim.Optimizer, factor: float) -> None:
    """The next step's learning rates: this factor times those that the optimizer was built with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def trained(network: nn.Module) -> Parameters:
    """The parameters that are to be trained."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _groups(parameters: Parameters, *, decay_norms: bool) -> Groups:
    """One group, or with `decay_norms` off a second one for biases and norms, which are not decayed."""
    if decay_norms:
        return [{"params": parameters}]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups: Groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _groups_of(options: OptimizerOptions, network: nn.Module) -> Groups:
    return _groups(trained(network), decay_norms=options.decay_norms)


def _can_fuse(network: nn.Module) -> bool:
    return all(parameter.device.type == "cpu" for parameter in network.parameters())


def adam(options: AdamOptions, network: nn.Module) -> optim.Optimizer:
    return optim.Adam(
        _groups_of(options, network),
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
        amsgrad=options.amsgrad,
        fused=_can_fuse(network),
    )


def adamw(options: AdamwOptions, network: nn.Module) -> optim.Optimizer:
    return optim.AdamW(
        _groups_of(options, network),
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
        amsgrad=options.amsgrad,
        fused=_can_fuse(network),
    )


def adagrad(options: AdagradOptions, network: nn.Module) -> optim.Optimizer:
    return optim.Adagrad(
        _groups_of(options, network),
        lr=options.lr,
        lr_decay=options.lr_decay,
        weight_decay=options.weight_decay,
        initial_accumulator_value=options.initial_accumulator_value,
        eps=options.eps,
        fused=_can_fuse(network),
    )


def rmsprop(options: RmspropOptions, network: nn.Module) -> optim.Optimizer:
    return optim.RMSprop(
        _groups_of(options, network),
        lr=options.lr,
        alpha=options.alpha,
        eps=options.eps,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        centered=options.centered,
    )


def sgd(options: SgdOptions, network: nn.Module) -> optim.Optimizer:
    return _sgd(options, network)


def momentum(options: MomentumOptions, network: nn.Module) -> optim.Optimizer:
    ahead = options.nesterov
    return _sgd(options, network, momentum=options.momentum, dampening=options.dampening, nesterov=ahead)


def nesterov(options: NesterovOptions, network: nn.Module) -> optim.Optimizer:
    return _sgd(options, network, momentum=options.momentum, nesterov=True)


def _sgd(options: SgdOptions, network: nn.Module, **more: Any) -> optim.Optimizer:
    groups, fused = _groups_of(options, network), _can_fuse(network)
    return optim.SGD(groups, lr=options.lr, weight_decay=options.weight_decay, fused=fused, **more)


def muon(options: MuonOptions, network: nn.Module) -> optim.Optimizer:
    hidden_layers = [network.get_submodule(name) for name in layers_of(network).hidden]
    # The filters of a depthwise convolution share no inputs, so that nothing is won by making them orthogonal.
    inner = {id(layer.weight) for layer in hidden_layers if not is_depthwise(layer)}
    parameters = trained(network)
    hidden = [parameter for parameter in parameters if id(parameter) in inner]
    others = [parameter for parameter in parameters if id(parameter) not in inner]
    groups = [_muon_group(options, hidden)] if hidden else []
    if others:
        rest = _adamw_group(options)
        groups += [{**rest, **group} for group in _groups(others, decay_norms=options.decay_norms)]
    dtype = torch.bfloat16 if has_bfloat16(parameters[0].device) else torch.float32
    return Muon(groups, dtype=dtype, fused=_can_fuse(network))


def _muon_group(options: MuonOptions, hidden: Parameters) -> dict[str, Any]:
    return {
        "params": hidden,
        "lr": options.lr,
        "weight_decay": options.weight_decay,
        "momentum": options.momentum,
        "nesterov": options.nesterov,
        "coefficients": options.ns_coefficients,
        "steps": options.ns_steps,
        "eps": options.eps,
        "scaling": options.adjust_lr_fn,
    }


def _adamw_group(options: MuonOptions) -> dict[str, Any]:
    return {
        "lr": options.adamw_lr,
        "weight_decay": options.adamw_weight_decay,
        "beta1": options.adamw_beta1,
        "beta2": options.adamw_beta2,
        "eps": options.adamw_eps,
    }
