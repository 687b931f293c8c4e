"""Schedules: within bounds, without jumps at the end of a warm-up, and as torch's own where it has them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from nets.schedules import Moment, Plateau, factor
from specs.schedules import SCHEDULES, OneCycleOptions, PlateauOptions, ScheduleOptions, WarmupOptions

LR = 0.4


def options_of(name: str, **options: Any) -> ScheduleOptions:
    made: ScheduleOptions = SCHEDULES[name].options(**options)
    return made


def curve(options: ScheduleOptions, *, steps: int, each: int, cut: float = 1.0) -> list[float]:
    return [factor(options, Moment(step, steps, each, cut)) for step in range(steps)]


@st.composite
def any_options(draw: st.DrawFn) -> ScheduleOptions:
    """Options of any schedule, within the bounds of the catalogue."""
    name = draw(st.sampled_from(list(SCHEDULES)))
    shares, cuts = st.floats(0, 0.99), st.floats(0.01, 1)
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "warmup": st.floats(0.01, 0.99) if name == "one-cycle" else shares,
        "final": shares,
        "start": shares,
        "gamma": cuts,
        "every": st.integers(1, 20),
        "milestones": st.sets(st.integers(1, 50), min_size=1, max_size=5).map(lambda epochs: tuple(sorted(epochs))),
    }
    fields = SCHEDULES[name].options.model_fields
    return options_of(name, **{field: draw(strategy) for field, strategy in strategies.items() if field in fields})


@given(any_options(), st.integers(1, 30), st.integers(1, 8), st.floats(1e-6, 1))
def test_factors_lie_between_nought_and_one(options: ScheduleOptions, epochs: int, each: int, cut: float) -> None:
    values = curve(options, steps=epochs * each, each=each, cut=cut)
    assert all(math.isfinite(value) and 0 <= value <= 1 for value in values)


@given(any_options(), st.integers(1, 30), st.integers(1, 8), st.floats(1e-6, 1))
def test_a_warmup_rises_evenly_to_where_the_schedule_is(
    options: ScheduleOptions, epochs: int, each: int, cut: float
) -> None:
    steps = epochs * each
    values = curve(options, steps=steps, each=each, cut=cut)
    if isinstance(options, OneCycleOptions):
        peak = options.warmup * steps
        rise = [value for step, value in enumerate(values) if step < peak]
        assert rise == sorted(rise)
        assert values[0] == pytest.approx(options.start)
        return
    assert isinstance(options, WarmupOptions)
    rising = round(options.warmup * steps)
    differences = [later - earlier for earlier, later in pairwise([0.0, *values[: rising + 1]])]
    # From nothing before the first step to the schedule's own value at the end, all rises are alike.
    if rising and rising < steps:
        assert differences == pytest.approx([values[rising] / (rising + 1)] * (rising + 1), rel=1e-6)


@given(any_options(), st.integers(1, 30), st.integers(1, 8))
def test_after_the_warmup_nothing_rises(options: ScheduleOptions, epochs: int, each: int) -> None:
    steps = epochs * each
    warmup = options.warmup if isinstance(options, WarmupOptions | OneCycleOptions) else 0.0
    after = curve(options, steps=steps, each=each)[math.ceil(warmup * steps) :]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_short_trainings_have_factors_above_nought(name: str, steps: int) -> None:
    assert all(0 < value <= 1 for value in curve(options_of(name), steps=steps, each=1))


def peer(name: str, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    if name == "step":
        return lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.3)
    if name == "multistep":
        return lr_scheduler.MultiStepLR(optimizer, milestones=[2, 5, 6], gamma=0.3)
    return lr_scheduler.ExponentialLR(optimizer, gamma=0.8)


OURS = {
    "step": {"every": 3, "gamma": 0.3},
    "multistep": {"milestones": (2, 5, 6), "gamma": 0.3},
    "exponential": {"gamma": 0.8},
}


@pytest.mark.parametrize("name", OURS)
def test_epochs_are_cut_as_by_torch(name: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    theirs = peer(name, optimizer)
    values = curve(options_of(name, **OURS[name]), steps=30, each=3)
    for epoch in range(10):
        assert [LR * value for value in values[3 * epoch : 3 * epoch + 3]] == pytest.approx(
            [theirs.get_last_lr()[0]] * 3
        )
        optimizer.step()
        theirs.step()


def test_a_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    theirs = lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.1 * LR)
    for value in curve(options_of("cosine", final=0.1), steps=30, each=3):
        assert LR * value == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@given(
    st.lists(st.floats(0.001, 10), min_size=1, max_size=40),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([0.0, 1e-4, 0.2]),
    st.sampled_from([0.0, 0.05]),
)
def test_a_plateau_is_that_of_torch(
    losses: list[float], patience: int, cooldown: int, threshold: float, least: float
) -> None:
    options = options_of("plateau", factor=0.5, patience=patience, cooldown=cooldown, threshold=threshold, least=least)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=0.5,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        min_lr=least * LR,
        eps=0.0,
    )
    ours = Plateau()
    for loss in losses:
        ours.see(options, loss)
        theirs.step(loss)
        at = factor(options, Moment(5, 10, 5, ours.factor))
        assert LR * at == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("name", [name for name, entry in SCHEDULES.items() if entry.options is not PlateauOptions])
def test_only_the_plateau_looks_at_losses(name: str) -> None:
    state = Plateau()
    for _ in range(20):
        state.see(options_of(name), 1.0)
    assert (state == Plateau()) == (name != "plateau")


def test_schedules_pass_through_their_marks() -> None:
    def at(name: str, step: int, **options: Any) -> float:
        return factor(options_of(name, **options), Moment(step, 100, 10))

    assert at("constant", 99) == 1
    assert [at("step", step, every=2, gamma=0.5) for step in (19, 20, 40)] == [1, 0.5, 0.25]
    assert [at("multistep", step, milestones=(2, 4), gamma=0.5) for step in (19, 20, 39, 40)] == [1, 0.5, 0.5, 0.25]
    assert [at("exponential", step, gamma=0.5) for step in (9, 10, 29)] == [1, 0.5, 0.25]
    assert at("cosine", 50) == pytest.approx(0.5)
    assert at("cosine", 20, warmup=0.2) == pytest.approx(1)
    assert at("cosine", 99, final=0.1) == pytest.approx(0.1, abs=1e-3)
    assert [at("one-cycle", step) for step in (0, 25)] == [pytest.approx(0.1), pytest.approx(1)]
    assert at("one-cycle", 99, final=0) == pytest.approx(1 / 75)
    assert [at("step", step, every=2, gamma=0.5, warmup=0.2) for step in (0, 9, 20)] == [
        pytest.approx(0.5 / 21),
        pytest.approx(0.5 * 10 / 21),
        0.5,
    ]
