"""Ways of making a trained network smaller."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from specs.options import Positive, Strict
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
    options: type[OneTarget]
    target: str
    cuts: Literal["weights", "channels"]
    source: str = ""


PATTERN = re.compile(r"([1-9][0-9]?):([1-9][0-9]?)")
LARGEST_PATTERN = 64
LayerName = Annotated[str, Field(min_length=1, max_length=200)]
LayerShare = Annotated[float, Field(strict=True, ge=0, le=0.999, allow_inf_nan=False)]


class OneTarget(Strict):
    """Options of which one of `targets` says how much to cut; without any, `sparsity` is `otherwise`."""

    targets: ClassVar[tuple[str, ...]] = ("sparsity",)
    otherwise: ClassVar[float] = 0.5

    @model_validator(mode="before")
    @classmethod
    def _one_target(cls, value: Any) -> Any:
        named = [name for name in cls.targets if isinstance(value, dict) and value.get(name) is not None]
        if len(named) > 1:
            context = {"field": named[1], "hint": f"Leave out {' or '.join(named)}."}
            raise PydanticCustomError("two_targets", "How much to cut can be said in one way only.", context)
        return {**value, "sparsity": cls.otherwise} if isinstance(value, dict) and not named else value


class MagnitudeOptions(OneTarget):
    """Weights of the smallest absolute value become zero; biases and normalisation stay.

    One of `sparsity`, `threshold` and `pattern` says how many; without any, nine of ten.
    """

    targets: ClassVar[tuple[str, ...]] = ("sparsity", "threshold", "pattern")
    otherwise: ClassVar[float] = 0.9

    sparsity: Sparsity | None = Field(
        default=None,
        description="Share of the weights of linear layers and convolutions cut; 0.9 where nothing is said.",
    )
    threshold: Positive | None = Field(default=None, description="Weights of at most this absolute value are cut.")
    pattern: str | None = Field(
        default=None,
        max_length=5,
        description="As in `2:4`: of each four weights that follow each other in a filter the two smallest are cut. "
        "What is left over at the end of a filter stays.",
    )
    layers: dict[LayerName, LayerShare] | None = Field(
        default=None,
        max_length=10_000,
        description="Shares of single layers, by the names that the report of a pruned model has; 0 spares a layer. "
        "The others are cut as the other fields say.",
    )
    scope: Literal["global", "layer"] = Field(
        default="global",
        description="Whether weights compete in the whole network, each measured against its layer, or in each layer.",
    )
    rounds: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(
        default=1,
        description="In how many cuts, spread evenly over the epochs of retraining: the first ones cut most (Zhu and "
        "Gupta, arXiv 1710.01878, equation 1). Only epochs after the last one can become the model.",
    )

    @field_validator("pattern")
    @classmethod
    def _pattern_of_fewer(cls, value: str | None) -> str | None:
        if value is None:
            return None
        found = PATTERN.fullmatch(value)
        if found is None or not int(found[1]) < int(found[2]) <= LARGEST_PATTERN:
            hint = f"Give two numbers like 2:4, the first smaller than the second, and that at most {LARGEST_PATTERN}."
            raise PydanticCustomError("pattern", "This is no pattern.", {"hint": hint})
        return value

    @model_validator(mode="after")
    def _rounds_of_a_share(self) -> Self:
        if self.rounds > 1 and self.sparsity is None:
            context = {"field": "rounds", "hint": "Leave out rounds, or say how much by sparsity."}
            raise PydanticCustomError("rounds", "Only a sparsity is approached in rounds.", context)
        return self


class FilterOptions(OneTarget):
    """Whole channels go, with the filters that make them and the inputs that read them: the network does less work.

    One of `sparsity`, `speedup`, `macs` and `parameters` says how much; without any, half of the channels go.
    """

    targets: ClassVar[tuple[str, ...]] = ("sparsity", "speedup", "macs", "parameters")

    sparsity: Share | None = Field(default=None, description="Share of the channels to cut.")
    speedup: Annotated[float, Field(strict=True, gt=1, le=100, allow_inf_nan=False)] | None = Field(
        default=None,
        description="How many times as fast as its parent it is to be for one image: found by timing it here.",
    )
    macs: Share | None = Field(default=None, description="Share of the multiply-accumulates that may be left.")
    parameters: Share | None = Field(default=None, description="Share of the parameters that may be left.")
    layers: dict[LayerName, LayerShare] | None = Field(
        default=None,
        max_length=10_000,
        description="Shares of the channels of single layers, by the names that a dry run tells; 0 spares a layer. "
        "The others are cut as the other fields say.",
    )
    scope: Literal["global", "layer"] = Field(
        default="global",
        description="Whether channels compete in the whole network, each measured against its layer, or in each layer.",
    )
    round_to: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        default=8,
        description="What is left of a layer is a multiple of this, so that vector units are filled; layers that are "
        "no wider stay as they are.",
    )


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
