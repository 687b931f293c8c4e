"""The optimizers that can be asked for, each with the hyperparameters that PyTorch's has, under PyTorch's names.

Defaults are PyTorch's, but for learning rates: 0.001 for the adaptive ones, 0.01 for the others, and Muon's as its
author uses them. Left out is what changes no result here (`foreach`, `fused`, `capturable`, `differentiable`: the
fastest is taken), and `maximize`, since a loss is to be made small. Decay decoupled from Adam is `adamw`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from specs.options import Entry, Fraction, NonNegative, Options, Positive, choice, named
from specs.registry import Registry

# float32 holds what is added to: less than this would be nothing there, and nothing over nothing is no number.
Epsilon = Annotated[float, Field(strict=True, ge=1e-30, le=1, allow_inf_nan=False)]
Coefficient = Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]


class OptimizerOptions(Options):
    """What every optimizer has."""

    lr: Positive = Field(default=0.001, description="Learning rate.")
    weight_decay: NonNegative = Field(default=0.0, description="Factor of the L2 penalty.")
    decay_norms: bool = Field(
        strict=True,
        default=True,
        description="Whether the decay takes biases and the parameters of normalisation too, as PyTorch's does. "
        "Common practice is to leave them out: false.",
    )


class AdamOptions(OptimizerOptions):
    """Adaptive moments."""

    beta1: Fraction = Field(default=0.9, description="Decay of the mean of the gradients.")
    beta2: Fraction = Field(default=0.999, description="Decay of the mean of their squares.")
    eps: Epsilon = Field(default=1e-8, description="Added to the denominator.")
    amsgrad: bool = Field(
        strict=True, default=False, description="Divide by the largest mean of squares so far, not by the last one."
    )


class AdamwOptions(AdamOptions):
    """Adaptive moments, with a weight decay of its own beside the gradient."""

    weight_decay: NonNegative = Field(
        default=0.01, description="Times the learning rate, the share of each weight that a step takes away."
    )


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


class MomentumOptions(SgdOptions):
    """Stochastic gradient descent with momentum."""

    momentum: Fraction = Field(default=0.9, gt=0, description="Share of the last step that is kept.")
    dampening: Fraction = Field(default=0.0, description="Share of each gradient that is kept out of the momentum.")
    nesterov: bool = Field(
        strict=True, default=False, description="Look ahead along the momentum: the same as the optimizer `nesterov`."
    )

    @model_validator(mode="after")
    def _nothing_dampened_ahead(self) -> Self:
        if self.nesterov and self.dampening:
            hint = "Leave out dampening, or nesterov."
            context = {"field": "dampening", "hint": hint}
            raise PydanticCustomError("dampened", "Nesterov's momentum has no dampening.", context)
        return self


class NesterovOptions(SgdOptions):
    """Stochastic gradient descent with momentum that looks ahead."""

    momentum: Fraction = Field(default=0.9, gt=0, description="Share of the last step that is kept.")


class MuonOptions(OptimizerOptions):
    """Momentum made orthogonal, for the weights of hidden layers; AdamW for first layer, head, biases and norms."""

    lr: Positive = Field(default=0.02, description="Learning rate of the hidden layers' weights.")
    weight_decay: NonNegative = Field(
        default=0.1, description="Times the learning rate, the share of each of these weights that a step takes away."
    )
    momentum: Fraction = Field(default=0.95, description="Decay of the mean of the gradients.")
    nesterov: bool = Field(strict=True, default=True, description="Look ahead along the momentum.")
    ns_coefficients: tuple[Coefficient, Coefficient, Coefficient] = Field(
        default=(3.4445, -4.775, 2.0315), description="Of the Newton-Schulz polynomial a x + b x^3 + c x^5."
    )
    ns_steps: Annotated[int, Field(strict=True, ge=1, le=20)] = Field(
        default=5, description="Newton-Schulz iterations of each step."
    )
    eps: Epsilon = Field(default=1e-7, description="The least norm that a gradient is divided by.")
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] = Field(
        default="original",
        description="How the learning rate follows the shape of a weight, rows being outputs: `original` takes it "
        "times sqrt(max(1, rows / columns)), `match_rms_adamw` times 0.2 sqrt(max(rows, columns)), so that AdamW's "
        "learning rate fits, `spectral_unclamped` times sqrt(rows / columns).",
    )
    adamw_lr: Positive = Field(default=0.001, description="Learning rate of all other parameters.")
    adamw_weight_decay: NonNegative = Field(default=0.01, description="Weight decay of all other parameters.")
    adamw_beta1: Fraction = Field(default=0.9, description="Decay of the mean of their gradients.")
    adamw_beta2: Fraction = Field(default=0.999, description="Decay of the mean of their squared gradients.")
    adamw_eps: Epsilon = Field(default=1e-8, description="Added to their denominator.")


def _entry(name: str, title: str, options: type[OptimizerOptions], source: str) -> Entry:
    return Entry(name, title, named(options, name), f"nets.optimizers:{name}", source)


OPTIMIZERS: Registry[Entry] = Registry(
    "optimizer",
    [
        _entry(
            "adam",
            "Adam",
            AdamOptions,
            "Kingma, Ba: Adam: A Method for Stochastic Optimization, arXiv 1412.6980, algorithm 1; "
            "amsgrad: Reddi, Kale, Kumar: On the Convergence of Adam and Beyond, arXiv 1904.09237, algorithm 2",
        ),
        _entry(
            "adamw",
            "AdamW",
            AdamwOptions,
            "Loshchilov, Hutter: Decoupled Weight Decay Regularization, arXiv 1711.05101, algorithm 2",
        ),
        _entry(
            "adagrad",
            "Adagrad",
            AdagradOptions,
            "Duchi, Hazan, Singer: Adaptive Subgradient Methods, JMLR 12, 2011",
        ),
        _entry(
            "rmsprop",
            "RMSprop",
            RmspropOptions,
            "Tieleman, Hinton: Neural Networks for Machine Learning, lecture 6e, 2012; "
            "centered: Graves: Generating Sequences With Recurrent Neural Networks, arXiv 1308.0850",
        ),
        _entry("sgd", "SGD", SgdOptions, "Robbins, Monro: A Stochastic Approximation Method, 1951"),
        _entry(
            "momentum",
            "SGD with momentum",
            MomentumOptions,
            "Sutskever et al.: On the importance of initialization and momentum in deep learning, ICML 2013",
        ),
        _entry(
            "nesterov",
            "SGD with Nesterov's momentum",
            NesterovOptions,
            "Sutskever et al.: On the importance of initialization and momentum in deep learning, ICML 2013, section 2",
        ),
        _entry(
            "muon",
            "Muon",
            MuonOptions,
            "Jordan et al.: Muon: An optimizer for hidden layers in neural networks, 2024, "
            "https://kellerjordan.github.io/posts/muon/; match_rms_adamw: Liu et al.: Muon is Scalable for LLM "
            "Training, arXiv 2502.16982, section 2.2",
        ),
    ],
)

if TYPE_CHECKING:
    Optimizer = OptimizerOptions
else:
    Optimizer = choice(OPTIMIZERS)
