"""What networks of several families can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from specs.options import Fraction, Options

Activation = Literal[
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "rrelu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "softplus",
    "softsign",
    "softshrink",
    "hardshrink",
    "tanhshrink",
    "sigmoid",
    "hardsigmoid",
    "logsigmoid",
    "tanh",
    "hardtanh",
    "linear",
]
Width = Annotated[float, Field(strict=True, ge=0.0625, le=8, allow_inf_nan=False)]

LEAST_IMAGE_SIZE = 8


def _paper(value: Any) -> Any:
    """The name that the paper's stem had before."""
    return "paper" if value == "large" else value


Stem = Annotated[Literal["auto", "paper", "small"], BeforeValidator(_paper)]


@dataclass(frozen=True)
class Shrinking:
    """Weights that are cut while a network trains: what share, after what share of the epochs, in how many rounds."""

    sparsity: float
    dense_share: float
    rounds: int


class NetworkOptions(Options):
    """What every network has."""

    def shrinking(self) -> Shrinking | None:
        """Whether its weights are cut while it trains, and how."""
        return None

    def least_image_size(self) -> int:
        """The least side of an image in pixels that the network can take, with these options."""
        return LEAST_IMAGE_SIZE

    def least_batch(self) -> int:
        """The fewest images that it learns from at a time."""
        return 1


class ConvolutionalOptions(NetworkOptions):
    """What all convolutional networks share."""

    width: Width = Field(default=1.0, description="Factor on the channels of every layer.")
    dropout: Fraction = Field(default=0.0, description="Share of features dropped before the linear head.")
    stem: Stem = Field(
        default="auto",
        description="`paper` is the paper's, for large images; `small` keeps the size of small images; "
        "`auto` takes `small` for images of up to 64 pixels a side.",
    )

    def least_batch(self) -> int:
        """Batch normalisation learns nothing from a single image."""
        return 2
