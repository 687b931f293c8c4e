"""Activation functions by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from specs.registry import Registry


@dataclass(frozen=True)
class Activation:
    """A name and what makes a fresh module of it."""

    name: str
    make: Callable[[], nn.Module]


# In place only where the derivative needs the output alone; batch normalisation in front keeps its own input.
ACTIVATIONS: Registry[Activation] = Registry(
    "activation",
    [
        Activation("relu", partial(nn.ReLU, inplace=True)),
        Activation("relu6", partial(nn.ReLU6, inplace=True)),
        Activation("leaky_relu", nn.LeakyReLU),
        Activation("elu", nn.ELU),
        Activation("selu", nn.SELU),
        Activation("celu", nn.CELU),
        Activation("gelu", nn.GELU),
        Activation("silu", nn.SiLU),
        Activation("mish", nn.Mish),
        Activation("hardswish", nn.Hardswish),
        Activation("softplus", nn.Softplus),
        Activation("sigmoid", nn.Sigmoid),
        Activation("tanh", nn.Tanh),
        Activation("linear", nn.Identity),
    ],
)


def activation(name: str) -> nn.Module:
    """A fresh module of the activation of this name; UnknownName if there is none."""
    return ACTIVATIONS[name].make()
