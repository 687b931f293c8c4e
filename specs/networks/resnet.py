"""Residual networks."""

from __future__ import annotations

from pydantic import Field

from specs.networks.base import Activation, ConvolutionalOptions
from specs.options import Entry, named


class ResNetOptions(ConvolutionalOptions):
    """A residual network."""

    activation: Activation = Field(default="relu", description="After each batch normalisation and addition.")


RESNETS = [
    Entry(
        "resnet18",
        "ResNet-18",
        named(ResNetOptions, "resnet18"),
        "nets.models.resnet:resnet18",
        "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1",
    )
]
