from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from torch.nn.functional import cross_entropy, one_hot

from nets.batches import Batch
from nets.mixing import mix, partners
from nets.seeds import Chance, uniform
from specs.augmentations import AUGMENTATIONS
from tests.nets.test_nets_augmentations import images

MIXING = [name for name, entry in AUGMENTATIONS.items() if entry.options.mixes]


def mixed(name: str, count: int, side: int, **options: Any) -> tuple[torch.Tensor, ...]:
    own, other = images(count, side, side, 3), images(count, side, side, 3).flip(0)
    return own, other, *mix(AUGMENTATIONS[name].options(**options), own, other, Chance(np.arange(count), 1, 2))


def test_uniform_numbers_are_uniform() -> None:
    numbers = uniform(np.arange(20_000), seed=5)
    assert numbers.dtype == np.float64
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert kstest(numbers, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03
    assert np.array_equal(uniform(np.array([7, 3]), seed=5), numbers[[7, 3]])


def test_partners_come_from_the_whole_split() -> None:
    found = partners(Chance(np.arange(5000), 1, 2), count=40)
    counts = np.bincount(found, minlength=40)
    # 125 expected, with a standard deviation of 11.
    assert len(counts) == 40
    assert counts.min() > 70
    assert counts.max() < 185
    assert not np.array_equal(found, partners(Chance(np.arange(5000), 1, 3), count=40))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    *_, share = mixed("mixup", 4000, 2, alpha=alpha)
    # Draws of the same kind stay within the band of a Kolmogorov test all but once in a thousand times.
    assert kstest(share.double().numpy(), beta(alpha, alpha).cdf).pvalue > 0.001


def test_mixup_is_a_weighted_sum() -> None:
    own, other, result, share = mixed("mixup", 100, 5)
    weight = share[:, None, None, None].double()
    torch.testing.assert_close(result.double(), weight * own + (1 - weight) * other, rtol=0, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_cutmix_pastes_a_box_and_shares_by_area(alpha: float) -> None:
    own, other, result, share = mixed("cutmix", 2000, 32, alpha=alpha)
    pasted = (result == other).all(3) & (own != other).any(3)
    same = (own == other).all(3)
    assert torch.equal(result[~pasted], own[~pasted])
    area = (pasted | (same & _boxes(pasted))).flatten(1).sum(1)
    torch.testing.assert_close(share, 1 - area / 1024, rtol=0, atol=1e-6)
    # Boxes are cut off at the border, so more than half stays; corners are met, and whole images too.
    assert 0.5 < share.mean() < 0.75
    assert pasted[:, 0, 0].any()
    assert pasted[:, -1, -1].any()
    assert share.min() < 0.1
    assert share.max() > 0.95


def _boxes(pasted: torch.Tensor) -> torch.Tensor:
    rows, columns = pasted.any(2), pasted.any(1)
    return rows[:, :, None] & columns[:, None, :]


@pytest.mark.parametrize("name", MIXING)
def test_mixing_leaves_its_inputs_alone(name: str) -> None:
    own, other, result, share = mixed(name, 20, 8)
    assert torch.equal(own, images(20, 8, 8, 3))
    assert torch.equal(other, images(20, 8, 8, 3).flip(0))
    assert result.shape == own.shape
    assert share.dtype == torch.float32
    assert share.min() >= 0
    assert share.max() <= 1


def test_the_loss_is_that_of_mixed_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 10, generator=generator)
    labels, others = (torch.randint(0, 10, (32,), generator=generator) for _ in range(2))
    share = torch.rand(32, generator=generator)
    plain = Batch(torch.empty(32, 1, 1, 1), labels)
    batch = Batch(torch.empty(32, 1, 1, 1), labels, others, share)
    targets = share[:, None] * one_hot(labels, 10) + (1 - share[:, None]) * one_hot(others, 10)
    assert len(batch) == 32
    torch.testing.assert_close(batch.loss(logits).mean, cross_entropy(logits, targets))
    assert torch.equal(plain.loss(logits).mean, cross_entropy(logits, labels))


def test_the_larger_share_is_the_right_answer() -> None:
    logits = torch.eye(3)[[0, 0, 1, 2]]
    labels, others = torch.tensor([0, 1, 0, 2]), torch.tensor([1, 0, 1, 2])
    batch = Batch(torch.empty(4, 1, 1, 1), labels, others, torch.tensor([0.9, 0.2, 0.4, 0.1]))
    assert batch.correct(logits) == 4
    assert Batch(batch.images, labels).correct(logits) == 2
