"""The networks that can be asked for: names, options, papers, and where they are built.

Figures (parameters, multiply-accumulates) depend on options, classes and image size; they are
counted on the built network and stored with each model.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from specs.options import Entry, Fraction, Options, choice, named
from specs.registry import Registry

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]
Width = Annotated[float, Field(strict=True, ge=0.0625, le=8, allow_inf_nan=False)]
HiddenSize = Annotated[int, Field(strict=True, ge=1, le=16384)]


class MlpOptions(Options):
    """A multilayer perceptron over the flattened image."""

    hidden: tuple[HiddenSize, ...] = Field(
        default=(512, 256), min_length=1, max_length=16, description="Neurons of each hidden layer."
    )
    activation: Activation = Field(default="relu", description="After each hidden layer.")
    dropout: Fraction = Field(default=0.0, description="Share of activations dropped after each hidden layer.")


class ConvolutionalOptions(Options):
    """What all convolutional networks share."""

    # Batch normalisation learns nothing from a single image.
    smallest_batch: ClassVar[int] = 2

    width: Width = Field(default=1.0, description="Factor on the channels of every layer.")
    dropout: Fraction = Field(default=0.0, description="Share of features dropped before the linear head.")
    stem: Literal["auto", "large", "small"] = Field(
        default="auto",
        description="`large` is the paper's, for 224 x 224; `small` keeps the size of small images; "
        "`auto` takes `small` for images of up to 64 pixels a side.",
    )


class ResNetOptions(ConvolutionalOptions):
    """A residual network."""

    activation: Activation = Field(default="relu", description="After each batch normalisation and addition.")


class MobileNetV2Options(ConvolutionalOptions):
    """Inverted residuals with linear bottlenecks."""

    activation: Literal["relu6", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh"] = Field(
        default="relu6", description="After the expansion and the depthwise convolution."
    )
    dropout: Fraction = Field(default=0.2, description="Share of features dropped before the linear head.")


def _own() -> list[Entry]:
    return [
        Entry(
            "mlp",
            "Multilayer perceptron",
            named(MlpOptions, "mlp"),
            "nets.models.mlp:mlp",
            "Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, Nature 323, 1986",
        ),
        Entry(
            "resnet18",
            "ResNet-18",
            named(ResNetOptions, "resnet18"),
            "nets.models.resnet:resnet18",
            "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385, table 1",
        ),
        Entry(
            "mobilenet_v2",
            "MobileNetV2",
            named(MobileNetV2Options, "mobilenet_v2"),
            "nets.models.mobilenet_v2:mobilenet_v2",
            "Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, arXiv 1801.04381, table 2",
        ),
    ]


def _of_other_packages() -> list[Entry]:
    """Entries that installed packages add through the entry-point group `pruneyard.architectures`."""
    return [point.load() for point in entry_points(group="pruneyard.architectures")]


ARCHITECTURES: Registry[Entry] = Registry("architecture", _own() + _of_other_packages())

if TYPE_CHECKING:
    Architecture = Options
else:
    Architecture = choice(ARCHITECTURES)
