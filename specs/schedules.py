"""Learning-rate schedules: a factor on the optimizer's learning rate.

All but `plateau` are pure functions of the step. Epochs count from the start of the training, warm-up included.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from specs.options import Entry, Fraction, Options, choice, named
from specs.registry import Registry

Epoch = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Cut = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]


class ScheduleOptions(Options):
    """What every schedule has."""


class WarmupOptions(ScheduleOptions):
    """A schedule before which the learning rate may rise."""

    warmup: Fraction = Field(
        default=0.0, description="Share of the steps that rise linearly first, to where the schedule then is."
    )


class ConstantOptions(WarmupOptions):
    """The optimizer's learning rate throughout."""


class StepOptions(WarmupOptions):
    """The learning rate times `gamma` after every `every` epochs."""

    every: Epoch = Field(default=10, description="Epochs between two cuts.")
    gamma: Cut = Field(default=0.1, description="Factor of each cut.")


def _rising(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise PydanticCustomError("not_rising", "Milestones must rise.", {"hint": "Name each epoch once, in order."})
    return epochs


class MultistepOptions(WarmupOptions):
    """The learning rate times `gamma` after each of some epochs."""

    milestones: Annotated[tuple[Epoch, ...], AfterValidator(_rising)] = Field(
        default=(10, 15), max_length=100, description="After how many epochs each cut is."
    )
    gamma: Cut = Field(default=0.1, description="Factor of each cut.")


class ExponentialOptions(WarmupOptions):
    """The learning rate times `gamma` after every epoch."""

    gamma: Cut = Field(default=0.9, description="Factor of each epoch.")


class CosineOptions(WarmupOptions):
    """Half a cosine from the learning rate down to `final` times it, over the steps after the warm-up."""

    final: Fraction = Field(default=0.0, description="The last learning rate, as a share of the first.")


class OneCycleOptions(ScheduleOptions):
    """A linear rise to the optimizer's learning rate, then a linear fall."""

    warmup: Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.25, description="Share of the steps that rise."
    )
    start: Fraction = Field(default=0.1, description="The first learning rate, as a share of the peak.")
    final: Fraction = Field(default=0.01, description="The last learning rate, as a share of the peak.")


class PlateauOptions(WarmupOptions):
    """The learning rate times `factor` whenever the validation loss has not fallen for some epochs."""

    factor: Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.1, description="Factor of each cut."
    )
    patience: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        default=3, description="Epochs without a fall that are borne; the cut comes after one more."
    )
    threshold: Fraction = Field(default=1e-4, description="Share of the lowest loss that counts as a fall.")
    cooldown: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        default=0, description="Epochs after a cut that are not counted."
    )
    least: Fraction = Field(default=0.0, description="The lowest learning rate, as a share of the first.")


def _entry(name: str, title: str, options: type[ScheduleOptions], source: str = "") -> Entry:
    return Entry(name, title, named(options, name), f"nets.schedules:{name.replace('-', '_')}", source)


SCHEDULES: Registry[Entry] = Registry(
    "schedule",
    [
        _entry("constant", "Constant", ConstantOptions),
        _entry("step", "Step", StepOptions),
        _entry("multistep", "Steps at given epochs", MultistepOptions),
        _entry("exponential", "Exponential", ExponentialOptions),
        _entry(
            "cosine",
            "Cosine",
            CosineOptions,
            "Loshchilov, Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts, arXiv 1608.03983, eq. 5",
        ),
        _entry(
            "one-cycle", "One cycle", OneCycleOptions, "Smith, Topin: Super-Convergence, arXiv 1708.07120, section 3"
        ),
        _entry("plateau", "On a plateau", PlateauOptions, "PyTorch's ReduceLROnPlateau, its mode `min`, relative"),
    ],
)

SPELLINGS = {"onecycle": "one-cycle", "one_cycle": "one-cycle"}


def _spelling(value: Any) -> Any:
    """Other spellings of a name that are taken for it."""
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return {**value, "name": SPELLINGS.get(value["name"], value["name"])}
    return SPELLINGS.get(value, value) if isinstance(value, str) else value


if TYPE_CHECKING:
    Schedule = ScheduleOptions
else:
    Schedule = Annotated[choice(SCHEDULES), BeforeValidator(_spelling)]
