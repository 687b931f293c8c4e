"""Ways of making a trained network smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from specs.options import Strict
from specs.registry import Registry

Sparsity = Annotated[float, Field(strict=True, gt=0, le=0.999, allow_inf_nan=False)]


@dataclass(frozen=True)
class PruningMethod:
    """One name for `method` in a prune job; its options stand beside the job's own fields."""

    name: str
    title: str
    options: type[Strict]
    target: str
    source: str = ""


class MagnitudeOptions(Strict):
    """Weights of the smallest absolute value become zero; biases and normalisation stay."""

    sparsity: Sparsity = Field(default=0.9, description="Share of the weights of linear layers and convolutions cut.")
    scope: Literal["global", "layer"] = Field(
        default="global",
        description="Whether weights compete in the whole network, each measured against its layer, or in each layer.",
    )


PRUNING_METHODS: Registry[PruningMethod] = Registry(
    "pruning method",
    [
        PruningMethod(
            "magnitude",
            "Weight magnitude",
            MagnitudeOptions,
            "nets.pruning:magnitude",
            "Han et al.: Learning both Weights and Connections for Efficient Neural Networks, arXiv 1506.02626",
        )
    ],
)
