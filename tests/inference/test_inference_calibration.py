"""Temperatures and label sets: what they promise is held, and nothing runs off."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from formats.manifest import COVERAGES, Calibration
from inference.answers import AnswerRule, answers
from inference.calibration import (
    FEWEST_IMAGES,
    HIGHEST,
    LOWEST,
    MOST_IMAGES,
    calibration_error,
    check,
    fit,
)
from tests.inference.conftest import described

Sample = tuple[NDArray[np.float32], NDArray[np.int64]]


def sample(count: int, *, classes: int = 8, sure: float = 1.0, spread: float = 2.0, seed: int = 0) -> Sample:
    """Labels drawn by the softmax of random logits, and those logits times `sure`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * spread
    # The largest of logits with Gumbel noise is a draw by their softmax.
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return (logits * sure).astype(np.float32), labels


def perfect(count: int, *, margin: float = 5.0) -> Sample:
    labels = np.arange(count) % 4
    return (np.eye(4)[labels] * margin).astype(np.float32), labels


@pytest.mark.parametrize("sure", [0.2, 0.7, 1.0, 3.0, 10.0])
def test_the_temperature_undoes_what_made_the_network_too_sure(sure: float) -> None:
    found = check(fit(*sample(3000, sure=sure)), *sample(3000, sure=sure, seed=1))
    assert found.temperature == pytest.approx(sure, rel=0.1)
    assert found.test is not None
    assert found.test.ece < 0.03
    if sure != 1:
        assert found.test.ece < found.test.ece_uncalibrated / 2


@pytest.mark.parametrize("count", [0, 1, 5, 19])
def test_few_images_say_nothing_of_a_temperature(count: int) -> None:
    assert fit(*perfect(count)).temperature == 1


@pytest.mark.parametrize("count", [20, 300, 5000])
@pytest.mark.parametrize("margin", [0.1, 1.0, 5.0, 50.0, 1e6])
def test_a_network_that_is_always_right_is_as_sure_as_its_images_allow(count: int, margin: float) -> None:
    logits, labels = perfect(count, margin=margin)
    temperature = fit(logits, labels).temperature
    assert LOWEST <= temperature <= HIGHEST
    if LOWEST < temperature < HIGHEST:
        wrong = 1 - 1 / (1 + 3 * math.exp(-margin / temperature))
        assert wrong == pytest.approx(1 / (count + 2), rel=0.05)


def test_no_network_is_beyond_bounds() -> None:
    logits, labels = perfect(300)
    assert fit(logits, (labels + 1) % 4).temperature == pytest.approx(HIGHEST)
    assert fit(logits * 0, labels).temperature == 1
    assert fit(logits * np.float32(1e37), labels).temperature <= HIGHEST * 1.001


@settings(max_examples=30, deadline=None)
@given(
    coverage=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.503, 0.917]),
    sure=st.sampled_from([0.1, 1.0, 8.0]),
    spread=st.sampled_from([0.0, 1.0, 4.0]),
    fitted=st.sampled_from([40, 300, 2000]),
    seed=st.integers(0, 1000),
)
def test_label_sets_hold_the_label_as_often_as_was_asked(
    coverage: float, sure: float, spread: float, fitted: int, seed: int
) -> None:
    """Whatever the network is worth. Both samples are by chance: five standard deviations are allowed."""
    calibration = fit(*sample(fitted, sure=sure, spread=spread, seed=seed))
    logits, labels = sample(2000, sure=sure, spread=spread, seed=seed + 5000)
    found = answers(logits, described(logits.shape[1], calibration), AnswerRule(coverage=coverage))
    held = sum(str(label) in each["label_set"] for each, label in zip(found, labels, strict=True)) / len(labels)
    assert held >= coverage - 5 * math.sqrt(coverage * (1 - coverage) * (1 / fitted + 1 / len(labels)))


def test_coverage_is_held_on_average_over_samples() -> None:
    held = []
    for seed in range(300):
        calibration = fit(*sample(19, seed=seed))
        logits, labels = sample(50, seed=seed + 10_000)
        found = answers(logits, described(logits.shape[1], calibration), AnswerRule(coverage=0.9))
        held += [str(label) in each["label_set"] for each, label in zip(found, labels, strict=True)]
    # With 19 images the promise is k / 20 = 0.9 exactly; without the correction it would be 0.85.
    assert np.mean(held) == pytest.approx(0.9, abs=0.02)


def test_a_check_counts_what_answers_say() -> None:
    logits, labels = sample(5000, sure=2.0, seed=1)  # more than are looked at together
    calibration = check(fit(*sample(400, sure=2.0)), logits, labels)
    assert calibration.test is not None
    assert calibration.test.images == 5000
    for row in calibration.test.coverage:
        sets = [
            each["label_set"]
            for each in answers(logits, described(logits.shape[1], calibration), AnswerRule(coverage=row.asked))
        ]
        assert row.mean_set_size == pytest.approx(np.mean([len(labels) for labels in sets]))
        held = [str(label) in labels for label, labels in zip(labels, sets, strict=True)]
        assert row.measured == pytest.approx(np.mean(held))


def test_good_networks_need_one_label_only() -> None:
    logits, labels = perfect(500)
    found = check(fit(logits, labels), logits, labels).test
    assert found is not None
    assert all((row.measured, row.mean_set_size) == (1, 1) for row in found.coverage)


def test_of_many_images_the_same_ones_are_drawn_each_time() -> None:
    logits, labels = sample(MOST_IMAGES + 500)
    found = fit(logits, labels)
    assert found.images == MOST_IMAGES
    assert found == fit(logits, labels)
    assert found.temperature == pytest.approx(1, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400))
def test_bounds_fall_and_there_are_as_many_as_images_can_promise(count: int) -> None:
    bounds = fit(*sample(count)).least_probabilities
    assert list(bounds) == sorted(bounds, reverse=True)
    assert len(bounds) == sum(coverage * (count + 1) <= 10000 * count for coverage in COVERAGES)


def test_what_is_written_down_is_read_again_and_nothing_else_is() -> None:
    found = check(fit(*sample(300)), *sample(200, seed=1))
    assert Calibration.model_validate_json(found.model_dump_json()) == found
    spoilt: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"least_probabilities": [1.5]},
        {"least_probabilities": [math.nan]},
        {"least_probabilities": [0.5] * 1000},
    ]
    for change in spoilt:
        with pytest.raises(ValidationError):
            Calibration.model_validate({**found.model_dump(), **change})


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    def error(confidence: list[float], right: list[int]) -> float:
        return calibration_error(np.array(confidence), np.array(right))

    assert error([0.9] * 10, [1] * 9 + [0]) == pytest.approx(0)
    assert error([0.9] * 10, [1] * 6 + [0] * 4) == pytest.approx(0.3)
    assert error([1.0, 0.55], [1, 0]) == pytest.approx(0.275)
    assert error([], []) == 0


def test_fewest_images_are_enough() -> None:
    assert fit(*perfect(FEWEST_IMAGES)).temperature != 1
