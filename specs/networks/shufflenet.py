"""Networks of grouped convolutions with channel shuffle."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from specs.networks.base import Activation, ConvolutionalOptions, Width
from specs.options import Entry, named

PUBLISHED_GROUPS = (1, 2, 3, 4, 8)


def _published(groups: int) -> int:
    if groups not in PUBLISHED_GROUPS:
        known = ", ".join(map(str, PUBLISHED_GROUPS))
        hint = {"hint": f"Give one of: {known}."}
        raise PydanticCustomError("groups", "The paper has no network of so many groups.", hint)
    return groups


Groups = Annotated[int, Field(strict=True, ge=1, le=8), AfterValidator(_published)]


class ShuffleNetV1Options(ConvolutionalOptions):
    """Grouped pointwise convolutions with a channel shuffle in between."""

    groups: Groups = Field(
        default=3,
        description="Groups of the pointwise convolutions: 1, 2, 3, 4 or 8. With more groups there are more channels.",
    )
    activation: Activation = Field(default="relu", description="After batch normalisations and additions.")


class ShuffleNetV2Options(ConvolutionalOptions):
    """A split of the channels, convolutions on one half, and a shuffle of both."""

    width: Width = Field(
        default=1.0,
        description="Factor on the channels of the stages: 0.5, 1, 1.5 and 2 are the paper's networks, others lie "
        "between them.",
    )
    activation: Activation = Field(default="relu", description="After pointwise convolutions.")


SHUFFLENETS = [
    Entry(
        "shufflenet_v1",
        "ShuffleNetV1",
        named(ShuffleNetV1Options, "shufflenet_v1"),
        "nets.models.shufflenet_v1:shufflenet_v1",
        "Zhang, Zhou, Lin, Sun: ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices, "
        "arXiv 1707.01083, table 1",
    ),
    Entry(
        "shufflenet_v2",
        "ShuffleNetV2",
        named(ShuffleNetV2Options, "shufflenet_v2"),
        "nets.models.shufflenet_v2:shufflenet_v2",
        "Ma, Zhang, Zheng, Sun: ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, "
        "arXiv 1807.11164, table 5",
    ),
]
