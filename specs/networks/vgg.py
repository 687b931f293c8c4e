"""Stacks of 3 x 3 convolutions (VGG)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from specs.networks.base import LEAST_IMAGE_SIZE, Activation, ConvolutionalOptions, Stem
from specs.options import Entry, Fraction, named

# Five poolings halve the image five times.
LEAST_SIZE_OF_FIVE_POOLINGS = 32


class VggOptions(ConvolutionalOptions):
    """Stacks of 3 x 3 convolutions with poolings between them."""

    activation: Activation = Field(default="relu", description="After each layer but the last.")
    dropout: Fraction = Field(default=0.5, description="Share of features dropped before the last linear layers.")
    stem: Stem = Field(
        default="auto",
        description="`paper` has a pooling after each of the five stages; `small` leaves out the last and those that "
        "would leave fewer than 2 x 2 features; `auto` takes `small` for images of up to 64 pixels a side.",
    )
    head: Literal["auto", "paper", "small"] = Field(
        default="auto",
        description="`paper` is three linear layers over 7 x 7 features (124 million parameters for 1000 classes); "
        "`small` is one over their means; `auto` goes with the stem.",
    )

    def least_image_size(self) -> int:
        return LEAST_SIZE_OF_FIVE_POOLINGS if self.stem == "paper" else LEAST_IMAGE_SIZE

    def least_batch(self) -> int:
        """Without normalisation it learns from each image by itself."""
        return 1


class NormalisedVggOptions(VggOptions):
    """The same with batch normalisation after each convolution."""

    def least_batch(self) -> int:
        return ConvolutionalOptions.least_batch(self)


SOURCE = "Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv 1409.1556"


def _vgg(depth: int, column: str, *, normalised: bool) -> Entry:
    name = f"vgg{depth}_bn" if normalised else f"vgg{depth}"
    title = f"VGG-{depth} with batch normalisation" if normalised else f"VGG-{depth}"
    options = NormalisedVggOptions if normalised else VggOptions
    return Entry(name, title, named(options, name), "nets.models.vgg:vgg", f"{SOURCE}, table 1, column {column}")


VGGS = [
    _vgg(depth, column, normalised=normalised)
    for depth, column in ((11, "A"), (13, "B"), (16, "D"), (19, "E"))
    for normalised in (False, True)
]
