"""Networks of parallel branches (GoogLeNet, Inception v3)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from specs.networks.base import LEAST_IMAGE_SIZE, Activation, ConvolutionalOptions, Stem
from specs.options import Entry, Fraction, named


class BranchedOptions(ConvolutionalOptions):
    """What the networks of parallel branches share."""

    activation: Activation = Field(default="relu", description="After each batch normalisation.")
    auxiliary: bool = Field(
        default=False,
        strict=True,
        description="Whether features half-way are classified too in training, and that loss added as the paper does. "
        "These heads are for the training alone: the model that comes of it is without them.",
    )


class GoogLeNetOptions(BranchedOptions):
    """Inception v1 with batch normalisation."""

    dropout: Fraction = Field(default=0.4, description="Share of features dropped before the linear head.")
    branch3_kernel: Literal[3, 5] = Field(
        default=3,
        description="Side of the third branch's kernels: 5 is the paper's; 3 is what published weights have.",
    )


# Seven of its layers, all that halve among them, have no padding; of 75 pixels they leave one.
LEAST_SIZE_OF_INCEPTION_V3 = 75


class InceptionV3Options(BranchedOptions):
    """Inception v3: factorised convolutions in the branches."""

    stem: Stem = Field(
        default="auto",
        description="`paper` is the paper's, for images of 75 pixels a side or more; `small` keeps the size of small "
        "images; `auto` takes `small` where `paper` cannot be.",
    )
    dropout: Fraction = Field(default=0.2, description="Share of features dropped before the linear head.")

    def least_image_size(self) -> int:
        return LEAST_SIZE_OF_INCEPTION_V3 if self.stem == "paper" else LEAST_IMAGE_SIZE


INCEPTIONS = [
    Entry(
        "googlenet",
        "GoogLeNet (Inception v1)",
        named(GoogLeNetOptions, "googlenet"),
        "nets.models.googlenet:googlenet",
        "Szegedy et al.: Going Deeper with Convolutions, arXiv 1409.4842, table 1",
    ),
    Entry(
        "inception_v3",
        "Inception v3",
        named(InceptionV3Options, "inception_v3"),
        "nets.models.inception_v3:inception_v3",
        "Szegedy et al.: Rethinking the Inception Architecture for Computer Vision, arXiv 1512.00567, table 1",
    ),
]
