"""Factors on the learning rate, each a pure function of how far the training is.

Step 0 is the first; where a curve has a last value, it is reached as the last step ends. What `plateau` has come to is
a part of how far the training is: `Plateau` holds it, and checkpoints hold that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pkgutil import resolve_name

from specs.schedules import (
    SCHEDULES,
    ConstantOptions,
    CosineOptions,
    ExponentialOptions,
    MultistepOptions,
    OneCycleOptions,
    PlateauOptions,
    ScheduleOptions,
    StepOptions,
    WarmupOptions,
)


@dataclass(frozen=True)
class Moment:
    """Step `step` of `steps`; `cut` is the factor that a plateau has led to by then."""

    step: int
    steps: int
    steps_per_epoch: int
    cut: float = 1.0

    @property
    def epochs(self) -> int:
        """Whole epochs before this step."""
        return self.step // self.steps_per_epoch


def factor(options: ScheduleOptions, moment: Moment) -> float:
    """The factor for the step of this moment, 0 to 1."""
    rising = round(options.warmup * moment.steps) if isinstance(options, WarmupOptions) else 0
    if moment.step < rising:
        arrival = Moment(rising, moment.steps, moment.steps_per_epoch, moment.cut)
        return _curve(options, arrival) * (moment.step + 1) / (rising + 1)
    return _curve(options, moment)


def _curve(options: ScheduleOptions, moment: Moment) -> float:
    value: float = resolve_name(SCHEDULES[options.name].target)(options, moment)
    return value


def constant(_options: ConstantOptions, _moment: Moment) -> float:
    return 1.0


def step(options: StepOptions, moment: Moment) -> float:
    return options.gamma ** (moment.epochs // options.every)


def multistep(options: MultistepOptions, moment: Moment) -> float:
    return options.gamma ** sum(moment.epochs >= milestone for milestone in options.milestones)


def exponential(options: ExponentialOptions, moment: Moment) -> float:
    return options.gamma**moment.epochs


def cosine(options: CosineOptions, moment: Moment) -> float:
    rising = round(options.warmup * moment.steps)
    progress = (moment.step - rising) / (moment.steps - rising) if moment.step > rising else 0.0
    return options.final + (1 - options.final) * (1 + math.cos(math.pi * progress)) / 2


def one_cycle(options: OneCycleOptions, moment: Moment) -> float:
    peak = options.warmup * moment.steps
    if moment.step < peak:
        return options.start + (1 - options.start) * moment.step / peak
    return options.final + (1 - options.final) * (moment.steps - moment.step) / (moment.steps - peak)


def plateau(_options: PlateauOptions, moment: Moment) -> float:
    return moment.cut


@dataclass
class Plateau:
    """What the epochs so far have led to: the factor, the lowest loss, and how long there was none lower."""

    factor: float = 1.0
    lowest: float | None = None
    waited: int = 0
    cooling: int = 0

    def see(self, options: ScheduleOptions, loss: float) -> None:
        """Counts an epoch of this validation loss; nothing for other schedules."""
        if not isinstance(options, PlateauOptions):
            return
        if self.lowest is None or loss < self.lowest * (1 - options.threshold):
            self.lowest, self.waited = loss, 0
        else:
            self.waited += 1
        if self.cooling:
            self.cooling, self.waited = self.cooling - 1, 0
        if self.waited > options.patience:
            self.factor = max(self.factor * options.factor, options.least)
            self.cooling, self.waited = options.cooldown, 0
