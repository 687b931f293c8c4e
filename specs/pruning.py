"""Ways of making a trained network smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from specs.options import Strict
from specs.registry import Registry

Sparsity = Annotated[float, Field(strict=True, gt=0, le=0.999, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class PruningMethod:
    """One name for `method` in a prune job; its options stand beside the job's own fields.

    `cuts` says what goes: single weights, which become zeros, or channels, of which a network then has fewer.
    """

    name: str
    title: str
    options: type[Strict]
    target: str
    cuts: Literal["weights", "channels"]
    source: str = ""


class MagnitudeOptions(Strict):
    """Weights of the smallest absolute value become zero; biases and normalisation stay."""

    sparsity: Sparsity = Field(default=0.9, description="Share of the weights of linear layers and convolutions cut.")
    scope: Literal["global", "layer"] = Field(
        default="global",
        description="Whether weights compete in the whole network, each measured against its layer, or in each layer.",
    )


TARGETS = ("sparsity", "speedup", "macs", "parameters")
SPARSITY_OF_CHANNELS = 0.5


class FilterOptions(Strict):
    """Whole channels go, with the filters that make them and the inputs that read them: the network does less work.

    One of `sparsity`, `speedup`, `macs` and `parameters` says how much; without any, half of the channels go.
    """

    sparsity: Share | None = Field(default=None, description="Share of the channels to cut.")
    speedup: Annotated[float, Field(strict=True, gt=1, le=100, allow_inf_nan=False)] | None = Field(
        default=None,
        description="How many times as fast as its parent it is to be for one image: found by timing it here.",
    )
    macs: Share | None = Field(default=None, description="Share of the multiply-accumulates that may be left.")
    parameters: Share | None = Field(default=None, description="Share of the parameters that may be left.")
    scope: Literal["global", "layer"] = Field(
        default="global",
        description="Whether channels compete in the whole network, each measured against its layer, or in each layer.",
    )
    round_to: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        default=8,
        description="What is left of a layer is a multiple of this, so that vector units are filled; layers that are "
        "no wider stay as they are.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_target(cls, value: Any) -> Any:
        named = [name for name in TARGETS if isinstance(value, dict) and value.get(name) is not None]
        if len(named) > 1:
            context = {"field": named[1], "hint": f"Leave out {' or '.join(named)}."}
            raise PydanticCustomError("two_targets", "How much to cut can be said in one way only.", context)
        if isinstance(value, dict) and not named:
            return {**value, "sparsity": SPARSITY_OF_CHANNELS}
        return value


LI = "Li et al.: Pruning Filters for Efficient ConvNets, arXiv 1608.08710"
LIU = "Liu et al.: Learning Efficient Convolutional Networks through Network Slimming, arXiv 1708.06519"
MOLCHANOV = "Molchanov et al.: Importance Estimation for Neural Network Pruning, arXiv 1906.10771"


PRUNING_METHODS: Registry[PruningMethod] = Registry(
    "pruning method",
    [
        PruningMethod(
            "magnitude",
            "Weight magnitude",
            MagnitudeOptions,
            "nets.pruning:magnitude",
            "weights",
            "Han et al.: Learning both Weights and Connections for Efficient Neural Networks, arXiv 1506.02626",
        ),
        PruningMethod(
            "l1-filter", "Filters of the smallest weights", FilterOptions, "nets.criteria:l1", "channels", LI
        ),
        PruningMethod("l2-filter", "Filters of the smallest norm", FilterOptions, "nets.criteria:l2", "channels", LI),
        PruningMethod(
            "bn-scale", "Channels of the smallest scale", FilterOptions, "nets.criteria:bn_scale", "channels", LIU
        ),
        PruningMethod(
            "taylor", "Channels that the loss feels least", FilterOptions, "nets.criteria:taylor", "channels", MOLCHANOV
        ),
        PruningMethod("random-filter", "Channels by lot", FilterOptions, "nets.criteria:lots", "channels"),
    ],
)
