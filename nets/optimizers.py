"""From the options of an optimizer to the optimizer of a network.

The fused kernels do a whole step in one pass over memory; PyTorch has them on the CPU for all but RMSprop.
"""

from __future__ import annotations

from pkgutil import resolve_name

from torch import nn, optim

from specs.optimizers import (
    OPTIMIZERS,
    AdagradOptions,
    AdamOptions,
    MomentumOptions,
    OptimizerOptions,
    RmspropOptions,
    SgdOptions,
)

Parameters = list[nn.Parameter]


def build(options: OptimizerOptions, network: nn.Module) -> optim.Optimizer:
    """The optimizer of all parameters of the network, on the device they are on."""
    builder = resolve_name(OPTIMIZERS[options.name].target)
    optimizer: optim.Optimizer = builder(options, list(network.parameters()))
    return optimizer


def set_learning_rate(optimizer: optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step, for all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _can_fuse(parameters: Parameters) -> bool:
    return all(parameter.device.type == "cpu" for parameter in parameters)


def adam(options: AdamOptions, parameters: Parameters) -> optim.Optimizer:
    return optim.Adam(
        parameters,
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
        fused=_can_fuse(parameters),
    )


def adagrad(options: AdagradOptions, parameters: Parameters) -> optim.Optimizer:
    return optim.Adagrad(
        parameters,
        lr=options.lr,
        lr_decay=options.lr_decay,
        weight_decay=options.weight_decay,
        initial_accumulator_value=options.initial_accumulator_value,
        eps=options.eps,
        fused=_can_fuse(parameters),
    )


def rmsprop(options: RmspropOptions, parameters: Parameters) -> optim.Optimizer:
    return optim.RMSprop(
        parameters,
        lr=options.lr,
        alpha=options.alpha,
        eps=options.eps,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        centered=options.centered,
    )


def sgd(options: SgdOptions, parameters: Parameters) -> optim.Optimizer:
    return optim.SGD(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=_can_fuse(parameters))


def momentum(options: MomentumOptions, parameters: Parameters) -> optim.Optimizer:
    return optim.SGD(
        parameters,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
        fused=_can_fuse(parameters),
    )
