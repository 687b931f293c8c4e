"""The optimizers that can be asked for, each with its own hyperparameters.

Defaults are PyTorch's, but for `lr`, which is 0.001 for the adaptive ones and 0.01 for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from specs.options import Entry, Fraction, NonNegative, Options, Positive, choice, named
from specs.registry import Registry

Epsilon = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]


class OptimizerOptions(Options):
    """What every optimizer has."""

    lr: Positive = Field(default=0.001, description="Learning rate.")
    weight_decay: NonNegative = Field(default=0.0, description="Factor of the L2 penalty.")


class AdamOptions(OptimizerOptions):
    """Adaptive moments."""

    beta1: Fraction = Field(default=0.9, description="Decay of the mean of the gradients.")
    beta2: Fraction = Field(default=0.999, description="Decay of the mean of their squares.")
    eps: Epsilon = Field(default=1e-8, description="Added to the denominator.")


class AdagradOptions(OptimizerOptions):
    """Rates divided by the sum of squared gradients so far."""

    lr: Positive = Field(default=0.01, description="Learning rate.")
    lr_decay: NonNegative = Field(default=0.0, description="Decay of the learning rate with each step.")
    initial_accumulator_value: NonNegative = Field(default=0.0, description="Where the sum of squares begins.")
    eps: Epsilon = Field(default=1e-10, description="Added to the denominator.")


class RmspropOptions(OptimizerOptions):
    """Rates divided by a running mean of squared gradients."""

    alpha: Fraction = Field(default=0.99, description="Decay of the mean of squared gradients.")
    momentum: Fraction = Field(default=0.0, description="Share of the last step that is kept.")
    centered: bool = Field(strict=True, default=False, description="Divide by an estimate of the variance instead.")
    eps: Epsilon = Field(default=1e-8, description="Added to the denominator.")


class SgdOptions(OptimizerOptions):
    """Plain stochastic gradient descent."""

    lr: Positive = Field(default=0.01, description="Learning rate.")


class MomentumOptions(OptimizerOptions):
    """Stochastic gradient descent with momentum."""

    lr: Positive = Field(default=0.01, description="Learning rate.")
    momentum: Fraction = Field(default=0.9, gt=0, description="Share of the last step that is kept.")
    nesterov: bool = Field(strict=True, default=False, description="Look ahead along the momentum.")


def _entries() -> list[Entry]:
    return [
        Entry(
            "adam",
            "Adam",
            named(AdamOptions, "adam"),
            "nets.optimizers:adam",
            "Kingma, Ba: Adam: A Method for Stochastic Optimization, arXiv 1412.6980, algorithm 1",
        ),
        Entry(
            "adagrad",
            "Adagrad",
            named(AdagradOptions, "adagrad"),
            "nets.optimizers:adagrad",
            "Duchi, Hazan, Singer: Adaptive Subgradient Methods, JMLR 12, 2011",
        ),
        Entry(
            "rmsprop",
            "RMSprop",
            named(RmspropOptions, "rmsprop"),
            "nets.optimizers:rmsprop",
            "Tieleman, Hinton: Neural Networks for Machine Learning, lecture 6e, 2012",
        ),
        Entry(
            "sgd",
            "SGD",
            named(SgdOptions, "sgd"),
            "nets.optimizers:sgd",
            "Robbins, Monro: A Stochastic Approximation Method, 1951",
        ),
        Entry(
            "momentum",
            "SGD with momentum",
            named(MomentumOptions, "momentum"),
            "nets.optimizers:momentum",
            "Sutskever et al.: On the importance of initialization and momentum in deep learning, ICML 2013",
        ),
    ]


OPTIMIZERS: Registry[Entry] = Registry("optimizer", _entries())

if TYPE_CHECKING:
    Optimizer = OptimizerOptions
else:
    Optimizer = choice(OPTIMIZERS)
