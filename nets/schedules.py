"""Factors on the learning rate, each a pure function of how far the training is.

Step 0 is the first; where a curve has a last value, it is reached as the last step ends.
"""

from __future__ import annotations

import math
from pkgutil import resolve_name

from specs.options import Options
from specs.schedules import SCHEDULES, ConstantOptions, CosineOptions, OneCycleOptions, StepOptions


def factor(options: Options, *, step: int, steps: int, steps_per_epoch: int) -> float:
    """The factor for step `step` of `steps`."""
    curve = resolve_name(SCHEDULES[options.name].target)
    value: float = curve(options, step=step, steps=steps, steps_per_epoch=steps_per_epoch)
    return value


def constant(_options: ConstantOptions, *, step: int, steps: int, steps_per_epoch: int) -> float:  # noqa: ARG001
    return 1.0


def step(options: StepOptions, *, step: int, steps: int, steps_per_epoch: int) -> float:  # noqa: ARG001
    return options.gamma ** (step // (options.every * steps_per_epoch))


def cosine(options: CosineOptions, *, step: int, steps: int, steps_per_epoch: int) -> float:  # noqa: ARG001
    rising = round(options.warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    progress = (step - rising) / (steps - rising)
    return options.final + (1 - options.final) * (1 + math.cos(math.pi * progress)) / 2


def one_cycle(options: OneCycleOptions, *, step: int, steps: int, steps_per_epoch: int) -> float:  # noqa: ARG001
    peak = options.warmup * steps
    if step < peak:
        return options.start + (1 - options.start) * step / peak
    return options.final + (1 - options.final) * (steps - step) / (steps - peak)
