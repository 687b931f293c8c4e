from __future__ import annotations

import numpy as np
import pytest

from inference.answers import NonFiniteLogits, probabilities, top_answers

CLASSES = ("a", "b", "c")


def test_the_most_probable_come_first():
    answers = top_answers(np.array([1.0, 3.0, 2.0], np.float32), CLASSES, top_k=2)
    assert [(answer["label"], answer["index"]) for answer in answers] == [("b", 1), ("c", 2)]
    assert answers[0]["probability"] == pytest.approx(np.exp(3) / np.exp([1, 2, 3]).sum())


@pytest.mark.parametrize(("top_k", "length"), [(-1, 1), (0, 1), (1, 1), (3, 3), (100, 3)])
def test_as_many_as_there_are(top_k, length):
    assert len(top_answers(np.zeros(3, np.float32), CLASSES, top_k=top_k)) == length


def test_equals_are_in_order_of_their_index():
    assert [answer["index"] for answer in top_answers(np.zeros(3), CLASSES, top_k=3)] == [0, 1, 2]


@pytest.mark.parametrize("shift", [-1e30, -1000, 0, 1000, 1e30])
def test_huge_logits_do_not_overflow(shift):
    shares = probabilities(np.array([[shift, shift, 0.0]], np.float32))
    assert np.all(np.isfinite(shares))
    assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_have_no_answer(bad):
    with pytest.raises(NonFiniteLogits, match="not finite"):
        top_answers(np.array([0, bad, 0], np.float32), CLASSES, top_k=1)


def test_another_number_of_classes_is_an_error():
    with pytest.raises(ValueError, match="3 classes"):
        top_answers(np.zeros(4), CLASSES, top_k=1)
