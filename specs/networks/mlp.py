"""Multilayer perceptrons."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from specs.networks.base import Activation, NetworkOptions
from specs.options import Entry, Fraction, named

HiddenSize = Annotated[int, Field(strict=True, ge=1, le=16384)]


class MlpOptions(NetworkOptions):
    """A multilayer perceptron over the flattened image."""

    hidden: tuple[HiddenSize, ...] = Field(
        default=(512, 256), min_length=1, max_length=16, description="Neurons of each hidden layer."
    )
    activation: Activation = Field(default="relu", description="After each hidden layer.")
    dropout: Fraction = Field(default=0.0, description="Share of activations dropped after each hidden layer.")


MLPS = [
    Entry(
        "mlp",
        "Multilayer perceptron",
        named(MlpOptions, "mlp"),
        "nets.models.mlp:mlp",
        "Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, Nature 323, 1986",
    )
]
