"""FPNet: a light network whose small weights are cut while it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

from pydantic import Field

from specs.networks.base import NetworkOptions, Shrinking
from specs.networks.densenet import DENSENETS
from specs.networks.inception import INCEPTIONS
from specs.networks.mlp import MLPS
from specs.networks.mobilenet import MOBILENETS
from specs.networks.resnet import RESNETS
from specs.networks.shufflenet import SHUFFLENETS
from specs.networks.vgg import VGGS
from specs.options import Entry, Fraction, choice, named
from specs.registry import Registry

BASES: Registry[Entry] = Registry(
    "base network", [*MLPS, *VGGS, *RESNETS, *INCEPTIONS, *DENSENETS, *MOBILENETS, *SHUFFLENETS]
)

if TYPE_CHECKING:
    Base = NetworkOptions
else:
    Base = choice(BASES)


class FpnetOptions(NetworkOptions):
    """A base that trains, loses its small weights in rounds, and trains on: one job, one small model."""

    base: Base = Field(
        default=cast(NetworkOptions, BASES["mobilenet_v2"].options(name="mobilenet_v2")),
        description="The network: a name, or a name with options.",
    )
    sparsity: Annotated[float, Field(strict=True, gt=0, le=0.999, allow_inf_nan=False)] = Field(
        default=0.9, description="Share of the weights of linear layers and convolutions that are cut in the end."
    )
    dense_share: Fraction = Field(default=0.4, description="Share of the epochs before the first cut.")
    rounds: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(
        default=4, description="In how many cuts, spread evenly over the other epochs; the first ones cut most."
    )

    def least_image_size(self) -> int:
        """That of the base."""
        return self.base.least_image_size()

    def least_batch(self) -> int:
        """That of the base."""
        return self.base.least_batch()

    def shrinking(self) -> Shrinking:
        """How weights are cut."""
        return Shrinking(self.sparsity, self.dense_share, self.rounds)


FPNETS = [
    Entry(
        "fpnet",
        "FPNet",
        named(FpnetOptions, "fpnet"),
        "nets.models.fpnet:fpnet",
        "A lightweight network by weight pruning, after MobileNet v1, ShuffleNet, MobileNet v2, as we read the name; "
        "Han et al., arXiv 1506.02626, for the pruning, Zhu and Gupta, arXiv 1710.01878, for its rounds",
    )
]
