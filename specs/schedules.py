"""Learning-rate schedules: a factor on the optimizer's learning rate, a pure function of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from specs.options import Entry, Fraction, Options, choice, named
from specs.registry import Registry


class ConstantOptions(Options):
    """The optimizer's learning rate throughout."""


class StepOptions(Options):
    """The learning rate times `gamma` after every `every` epochs."""

    every: Annotated[int, Field(strict=True, ge=1, le=10_000)] = Field(
        default=10, description="Epochs between two cuts."
    )
    gamma: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] = Field(
        default=0.1, description="Factor of each cut."
    )


class CosineOptions(Options):
    """Half a cosine from the learning rate down to `final` times it."""

    warmup: Fraction = Field(default=0.0, description="Share of the steps that rise linearly first.")
    final: Fraction = Field(default=0.0, description="The last learning rate, as a share of the first.")


class OneCycleOptions(Options):
    """A linear rise to the optimizer's learning rate, then a linear fall."""

    warmup: Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.25, description="Share of the steps that rise."
    )
    start: Fraction = Field(default=0.1, description="The first learning rate, as a share of the peak.")
    final: Fraction = Field(default=0.01, description="The last learning rate, as a share of the peak.")


def _entries() -> list[Entry]:
    return [
        Entry("constant", "Constant", named(ConstantOptions, "constant"), "nets.schedules:constant"),
        Entry("step", "Step", named(StepOptions, "step"), "nets.schedules:step"),
        Entry(
            "cosine",
            "Cosine",
            named(CosineOptions, "cosine"),
            "nets.schedules:cosine",
            "Loshchilov, Hutter: SGDR: Stochastic Gradient Descent with Warm Restarts, arXiv 1608.03983, eq. 5",
        ),
        Entry(
            "one-cycle",
            "One cycle",
            named(OneCycleOptions, "one-cycle"),
            "nets.schedules:one_cycle",
            "Smith, Topin: Super-Convergence, arXiv 1708.07120, section 3",
        ),
    ]


SCHEDULES: Registry[Entry] = Registry("schedule", _entries())

if TYPE_CHECKING:
    Schedule = Options
else:
    Schedule = choice(SCHEDULES)
