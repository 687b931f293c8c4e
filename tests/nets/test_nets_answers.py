"""Answers of networks, and how they differ."""

from __future__ import annotations

import math

import pytest
import torch

from nets.answers import Answers, accuracy_by_class, answers, confusion, difference, suffered
from nets.datasets import Dataset
from tests.nets.conftest import small_network


def given(labels: list[int], predicted: list[int], confidence: float = 0.9) -> Answers:
    return Answers(
        torch.tensor(labels), torch.tensor(predicted), torch.full((len(labels),), confidence, dtype=torch.float64)
    )


def test_answers_are_counted_whole_by_class_and_by_what_was_taken_for_what(digits: Dataset) -> None:
    network = small_network("resnet18").train()
    found = answers(network, digits.test, digits, batch_size=50)
    assert network.training
    assert found.accuracy == int((found.predicted == digits.test.labels).sum()) / len(digits.test)
    assert len(found.predicted) == len(digits.test)
    assert ((found.confidence >= 0.1 - 1e-6) & (found.confidence <= 1)).all()
    assert found.logits is None
    logits = answers(network, digits.test, digits, batch_size=50, keep_logits=True).logits
    assert logits is not None
    assert logits.argmax(1).equal(found.predicted)
    signs: list[int] = []
    assert answers(network, digits.test, digits, batch_size=50, told=lambda: signs.append(1)).accuracy == found.accuracy
    assert len(signs) == math.ceil(len(digits.test) / 50)
    by_class = accuracy_by_class(found, 10)
    cells = torch.zeros(10, 10, dtype=torch.int64)
    for label, named, count in confusion(found):
        assert count > 0
        cells[label, named] = count
    assert cells.equal(torch.bincount(digits.test.labels * 10 + found.predicted, minlength=100).reshape(10, 10))
    assert by_class.tolist() == pytest.approx((cells.diag() / cells.sum(1)).tolist())


def test_only_images_that_one_of_both_got_wrong_make_a_difference() -> None:
    labels = [0] * 100
    before, after = [0] * 90 + [1] * 10, [0] * 84 + [1] * 6 + [0] * 4 + [1] * 6
    found = difference(given(labels, before), given(labels, after))
    assert found.mean == pytest.approx(-0.02)
    # Ten images of a hundred changed, and half an image of each kind beside them: (11 - 2² / 102) / 102².
    reach = 1.96 * math.sqrt(11 - 4 / 102) / 102
    assert (found.low, found.high) == pytest.approx((-2 / 102 - reach, -2 / 102 + reach))


@pytest.mark.parametrize("count", [1, 3, 10, 1000])
def test_few_images_leave_much_open(count: int) -> None:
    labels = [0] * count
    same = difference(given(labels, labels), given(labels, labels))
    assert same.mean == 0
    assert same.high == -same.low == pytest.approx(1.96 / (count + 2) if count > 1 else 1.96 / 3)
    worse = difference(given(labels, labels), given(labels, [1] * count))
    assert worse.mean == -1
    assert -1 <= worse.low <= -1 + 2 / count
    assert worse.high > -1
    if count <= 3:
        assert worse.high > -0.02, "it may be as good"


def test_a_class_without_images_has_no_accuracy() -> None:
    found = accuracy_by_class(given([0, 0, 2], [0, 1, 2]), 3)
    assert (found[0], found[2]) == (0.5, 1)
    assert torch.isnan(found[1])


def test_the_classes_that_lost_most_come_first() -> None:
    labels = [0] * 4 + [1] * 4 + [2] * 4
    before = labels
    after = [0] * 4 + [1, 1, 0, 0] + [2, 2, 2, 0]
    found = suffered(given(labels, before), given(labels, after), ["a", "b", "c", "nobody"])
    assert found == [{"label": "b", "before": 1.0, "after": 0.5}, {"label": "c", "before": 1.0, "after": 0.75}]
