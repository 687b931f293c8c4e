"""Networks of depthwise convolutions."""

from __future__ import annotations

from pydantic import Field

from specs.networks.base import Activation, ConvolutionalOptions
from specs.options import Entry, Fraction, named


class MobileNetV1Options(ConvolutionalOptions):
    """Depthwise separable convolutions, one after the other."""

    activation: Activation = Field(default="relu", description="After each batch normalisation.")


class MobileNetV2Options(ConvolutionalOptions):
    """Inverted residuals with linear bottlenecks."""

    activation: Activation = Field(default="relu6", description="After the expansion and the depthwise convolution.")
    dropout: Fraction = Field(default=0.2, description="Share of features dropped before the linear head.")


MOBILENETS = [
    Entry(
        "mobilenet_v1",
        "MobileNetV1",
        named(MobileNetV1Options, "mobilenet_v1"),
        "nets.models.mobilenet_v1:mobilenet_v1",
        "Howard et al.: MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, "
        "arXiv 1704.04861, table 1",
    ),
    Entry(
        "mobilenet_v2",
        "MobileNetV2",
        named(MobileNetV2Options, "mobilenet_v2"),
        "nets.models.mobilenet_v2:mobilenet_v2",
        "Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv 1801.04381, table 2",
    ),
]
