"""From logits to what is told of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from formats.manifest import COVERAGES, WHOLE, Calibration
from inference.answers import AnswerRule, NonFiniteLogits, answers, coverage_note, probabilities
from inference.calibration import fit
from tests.inference.conftest import described

CLASSES = ("a", "b", "c")
# How logits may lie: many of them equal, as usual, or so far apart that most probabilities are nought.
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[Any]]] = {
    "equal": lambda rng, shape: rng.integers(-2, 3, shape),
    "usual": lambda rng, shape: rng.normal(size=shape) * 4,
    "far": lambda rng, shape: rng.normal(size=shape) * 10 ** rng.uniform(0, 30, shape),
}


def drawn(name: str, seed: int, rows: int, classes: int) -> NDArray[np.float32]:
    return DRAWS[name](np.random.default_rng(seed), (rows, classes)).astype(np.float32)


# Drawn by a seed: arrays that hypothesis makes number by number take it seconds.
LOGITS = st.builds(
    drawn, st.sampled_from(list(DRAWS)), st.integers(0, 10**6), st.integers(0, 4), st.sampled_from([1, 2, 5, 70, 300])
)
COVERAGE = st.floats(0.5, 1, exclude_max=True)


def calibrated(temperature: float = 1.0, *, images: int = 500, seed: int = 0) -> Calibration:
    """A calibration as a network of middling worth has it."""
    rng = np.random.default_rng(seed)
    found = fit(rng.normal(size=(images, 5)).astype(np.float32), rng.integers(0, 5, images))
    return found.model_copy(update={"temperature": temperature})


def one(logits: list[float], rule: AnswerRule) -> Any:
    return answers(np.array([logits], np.float32), described(CLASSES), rule)[0]


def test_the_most_probable_come_first() -> None:
    found = one([1.0, 3.0, 2.0], AnswerRule(top_k=2))
    assert [(answer["label"], answer["index"]) for answer in found["top"]] == [("b", 1), ("c", 2)]
    assert found["probability"] == pytest.approx(np.exp(3) / np.exp([1, 2, 3]).sum())
    assert found["top"][0] == {key: found[key] for key in ("label", "index", "probability")}
    assert "label_set" not in found


@pytest.mark.parametrize(("top_k", "length"), [(-1, 1), (0, 1), (1, 1), (3, 3), (100, 3)])
def test_as_many_as_there_are(top_k: int, length: int) -> None:
    assert len(one([0, 0, 0], AnswerRule(top_k=top_k))["top"]) == length


@given(LOGITS, st.integers(1, 400))
def test_order_is_that_of_a_stable_sort(logits: NDArray[np.float32], top_k: int) -> None:
    found = answers(logits, described(logits.shape[1]), AnswerRule(top_k=top_k))
    wanted = np.argsort(-logits, axis=1, kind="stable")[:, :top_k].tolist()
    assert [[answer["index"] for answer in each["top"]] for each in found] == wanted
    assert all(each["index"] == row[0] for each, row in zip(found, wanted, strict=True))


@given(LOGITS, st.floats(0.05, 20))
def test_probabilities_are_those_of_the_logits_at_the_temperature(
    logits: NDArray[np.float32], temperature: float
) -> None:
    exact = logits.astype(np.float64)
    powers = np.exp((exact - exact.max(axis=1, keepdims=True)) / temperature)
    wanted = powers / powers.sum(axis=1, keepdims=True)
    shares = probabilities(logits, temperature)
    np.testing.assert_allclose(shares.sum(axis=1, dtype=np.float64), 1, rtol=1e-5)
    np.testing.assert_allclose(shares, wanted, rtol=1e-3, atol=1e-12)
    found = answers(logits, described(logits.shape[1], calibrated(temperature)), AnswerRule(top_k=1000))
    assert [sorted(answer["probability"] for answer in each["top"]) for each in found] == [
        pytest.approx(sorted(row)) for row in shares.tolist()
    ]


def test_models_of_before_have_the_temperature_1() -> None:
    assert described(CLASSES).temperature == 1
    logits = np.array([[1.0, 3.0, 2.0]], np.float32)
    for calibration in (None, calibrated(1.0)):
        found = answers(logits, described(CLASSES, calibration), AnswerRule(top_k=3))
        assert [answer["probability"] for answer in found[0]["top"]] == pytest.approx(
            np.exp([3, 2, 1]) / np.exp([1, 2, 3]).sum(), rel=1e-6
        )


@given(LOGITS, st.floats(0, 1), st.integers(1, 10))
def test_a_threshold_leaves_what_is_so_probable_and_the_best(
    logits: NDArray[np.float32], threshold: float, top_k: int
) -> None:
    whole, part = (
        answers(logits, described(logits.shape[1]), AnswerRule(top_k=top_k, threshold=least))
        for least in (0.0, threshold)
    )
    for before, after in zip(whole, part, strict=True):
        assert after["top"] == [answer for answer in before["top"] if answer["probability"] >= threshold] or (
            after["top"] == before["top"][:1] and before["probability"] < threshold
        )


@given(LOGITS, COVERAGE, COVERAGE, st.integers(1, 3), st.floats(0, 1))
def test_label_sets_grow_with_coverage_and_hold_the_best(
    logits: NDArray[np.float32], one_coverage: float, other: float, top_k: int, threshold: float
) -> None:
    known, (low, high) = described(logits.shape[1], calibrated()), sorted((one_coverage, other))
    small, large = (answers(logits, known, AnswerRule(top_k, threshold, coverage)) for coverage in (low, high))
    plain = answers(logits, known, AnswerRule(top_k, threshold))
    for narrow, wide, without in zip(small, large, plain, strict=True):
        assert narrow["label_set"][0] == wide["label_set"][0] == narrow["label"]
        assert narrow["label_set"] == wide["label_set"][: len(narrow["label_set"])]
        assert {key: value for key, value in narrow.items() if key != "label_set"} == without


def test_without_images_enough_label_sets_have_all_labels_and_say_so() -> None:
    logits = np.array([[1.0, 30.0, 2.0]], np.float32)
    few = calibrated(images=9)
    for coverage, calibration, words in (
        (0.5, None, "without a calibration"),
        (0.91, few, "9 validation images"),
        (0.99999, calibrated(), "500 validation images"),
    ):
        known = described(CLASSES, calibration)
        assert answers(logits, known, AnswerRule(coverage=coverage))[0]["label_set"] == ["b", "c", "a"]
        assert words in (coverage_note(known, coverage) or "")
    # The worst of nine images is the worst of ten with the one to come in one case of ten.
    assert coverage_note(described(CLASSES, few), 0.9) is None
    assert answers(logits, described(CLASSES, few), AnswerRule(coverage=0.9))[0]["label_set"] == ["b"]


@given(COVERAGE, st.integers(0, 3000))
def test_a_bound_is_never_that_of_a_lower_coverage(coverage: float, images: int) -> None:
    count = sum(-(-(images + 1) * each // WHOLE) <= images for each in COVERAGES)
    known = Calibration(temperature=1, images=images, least_probabilities=tuple(np.linspace(1, 0.5, count)))
    found = known.least_probability(coverage)
    at = [each / WHOLE for each, bound in zip(COVERAGES, known.least_probabilities, strict=False) if bound == found]
    assert (
        at[0] >= coverage - 1e-9
        if at
        else (found is None and coverage > (COVERAGES[count - 1] / WHOLE if count else 0))
    )


@pytest.mark.parametrize("shift", [-1e30, -1000, 0, 1000, 1e30, 3e38])
def test_huge_logits_do_not_overflow(shift: float) -> None:
    shares = probabilities(np.array([[shift, shift, -shift]], np.float32), 0.05)
    assert np.all(np.isfinite(shares))
    assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_have_no_answer(bad: float) -> None:
    with pytest.raises(NonFiniteLogits, match="not finite"):
        one([0, bad, 0], AnswerRule(top_k=1))


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3,), (1, 1, 3)])
def test_another_number_of_classes_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3 classes"):
        answers(np.zeros(shape, np.float32), described(CLASSES), AnswerRule())
