"""Residual networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from specs.networks.base import Activation, ConvolutionalOptions, Stem, Width
from specs.options import Entry, Fraction, named

SHALLOWEST = 10
DEEPEST = 100


def _buildable(depth: int) -> int:
    beyond = (depth - SHALLOWEST) % 6
    if beyond:
        near = sorted((depth - beyond, depth - beyond + 6), key=lambda other: abs(other - depth))
        raise PydanticCustomError(
            "depth",
            "The depth is 6n + 4 layers, with n blocks in each of three stages.",
            {"hint": f"The nearest are {near[0]} and {near[1]}."},
        )
    return depth


Depth = Annotated[int, Field(strict=True, ge=SHALLOWEST, le=DEEPEST), AfterValidator(_buildable)]
Widening = Annotated[int, Field(strict=True, ge=1, le=16)]


class ResNetOptions(ConvolutionalOptions):
    """A residual network."""

    activation: Activation = Field(default="relu", description="After each batch normalisation and addition.")


class WideResNetOptions(ConvolutionalOptions):
    """A wide residual network: few layers of many channels, made for images of 32 pixels."""

    depth: Depth = Field(default=28, description="Layers: 6n + 4 for n blocks in each of three stages.")
    widening: Widening = Field(default=10, description="The paper's k: channels of the stages are 16k, 32k and 64k.")
    block: Literal["pre_activation", "post_activation"] = Field(
        default="pre_activation",
        description="`pre_activation` is the paper's; `post_activation` is the block of ResNet-18.",
    )
    activation: Activation = Field(default="relu", description="After each batch normalisation.")
    dropout: Fraction = Field(
        default=0.0,
        description="Share of activations dropped within the blocks: between the two convolutions, and with "
        "`post_activation` after the addition too.",
    )
    width: Width = Field(
        default=1.0, description="Factor on the channels of every layer; `widening` leaves the stem's 16 as they are."
    )
    stem: Stem = Field(
        default="auto",
        description="`paper` and `small` are the same here: a 3 x 3 convolution that keeps the size. "
        "`auto` takes it for images of up to 64 pixels a side; larger ones are reduced to a quarter, as in ResNet.",
    )


_HE = "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1"
_ZAGORUYKO = "Zagoruyko, Komodakis: Wide Residual Networks, arXiv 1605.07146"


def _entry(name: str, title: str, source: str) -> Entry:
    return Entry(name, title, named(ResNetOptions, name), "nets.models.resnet:resnet", source)


RESNETS = [
    *(_entry(f"resnet{depth}", f"ResNet-{depth}", _HE) for depth in (18, 34, 50, 101, 152)),
    _entry("wide_resnet50_2", "Wide ResNet-50-2", f"{_ZAGORUYKO}: WRN-50-2-bottleneck"),
    _entry("wide_resnet101_2", "Wide ResNet-101-2", f"{_ZAGORUYKO}: the same block in the depths of ResNet-101"),
    Entry(
        "wide_resnet",
        "Wide ResNet",
        named(WideResNetOptions, "wide_resnet"),
        "nets.models.wide_resnet:wide_resnet",
        f"{_ZAGORUYKO}, table 1",
    ),
]
