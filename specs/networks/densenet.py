"""Densely connected networks."""

from __future__ import annotations

from pydantic import Field

from specs.networks.base import LEAST_IMAGE_SIZE, Activation, ConvolutionalOptions, Width
from specs.options import Entry, Fraction, named

# The paper's stem halves twice, rounding up; three poolings by 2, rounding down, have to find 8 pixels.
LEAST_SIZE_OF_PAPER_STEM = 29


class DenseNetOptions(ConvolutionalOptions):
    """A network whose layers each get the features of all layers before them in their block."""

    width: Width = Field(default=1.0, description="Factor on the growth rate and on the channels of the first layer.")
    activation: Activation = Field(default="relu", description="After each batch normalisation.")
    dropout: Fraction = Field(
        default=0.0,
        description="Share of features dropped after each convolution but the first; "
        "the paper takes 0.2 where images are not augmented.",
    )

    def least_image_size(self) -> int:
        return LEAST_SIZE_OF_PAPER_STEM if self.stem == "paper" else LEAST_IMAGE_SIZE


SOURCE = "Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks, arXiv 1608.06993, table 1"


def _densenet(depth: int) -> Entry:
    name = f"densenet{depth}"
    return Entry(name, f"DenseNet-{depth}", named(DenseNetOptions, name), "nets.models.densenet:densenet", SOURCE)


DENSENETS = [_densenet(depth) for depth in (121, 161, 169, 201)]
