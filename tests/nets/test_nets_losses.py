"""The loss: torch's own with smoothed labels and class weights, for whole and for mixed targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from nets import gradients, losses
from nets.batches import Batch
from nets.errors import WrongClassWeights
from nets.losses import Loss
from specs.training import LossOptions

CLASSES = 4
UNEVEN = (0.5, 3.0, 1.0, 0.25)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"class_weights": UNEVEN},
    {"class_weights": "balanced", "label_smoothing": 0.3},
]


def numbers(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))


def labels_of(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, CLASSES, (count,), generator=torch.Generator().manual_seed(seed))


def loss_of(options: dict[str, Any], labels: Tensor) -> Loss:
    return losses.build(LossOptions(**options), labels, classes=CLASSES)


def of_torch(logits: Tensor, targets: Tensor, options: dict[str, Any], weights: Tensor | None) -> Tensor:
    """Torch's losses for targets that are shares (N, classes), each times the weights of its classes."""
    smooth = options.get("label_smoothing", 0.0)
    counts = torch.ones(len(targets)) if weights is None else targets @ weights
    return cross_entropy(logits, targets, reduction="none", label_smoothing=smooth) * counts


@pytest.mark.parametrize("options", OPTIONS)
def test_the_loss_and_its_gradient_are_those_of_torch(options: dict[str, Any]) -> None:
    logits, labels = numbers(50, CLASSES).requires_grad_(), labels_of(50)
    loss = loss_of(options, labels)
    ours = loss.of(logits, labels).mean
    if len(options) < 2:
        theirs = cross_entropy(logits, labels, loss.weights, label_smoothing=options.get("label_smoothing", 0.0))
    else:
        assert loss.weights is not None
        theirs = of_torch(logits, one_hot(labels, CLASSES).float(), options, loss.weights).sum()
        theirs = theirs / loss.weights[labels].sum()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (ours, theirs)))


@pytest.mark.parametrize("options", OPTIONS)
def test_mixed_targets_are_weighed_by_their_shares(options: dict[str, Any]) -> None:
    logits, labels, partners = numbers(50, CLASSES), labels_of(50), labels_of(50, seed=1)
    share = torch.rand(50, generator=torch.Generator().manual_seed(2))
    loss = loss_of(options, labels)
    ours = loss.of_mixed(logits, labels, partners, share)
    targets = share[:, None] * one_hot(labels, CLASSES) + (1 - share[:, None]) * one_hot(partners, CLASSES)
    smooth = options.get("label_smoothing", 0.0)
    # Each of an image's two labels counts as much as its class does.
    wanted = sum(
        part * of_torch(logits, one_hot(each, CLASSES).float(), options, loss.weights)
        for part, each in ((share, labels), (1 - share, partners))
    )
    torch.testing.assert_close(ours.total, torch.as_tensor(wanted).sum())
    if loss.weights is None or not smooth:
        # torch has no mean by weight for targets that are shares, but the sum.
        theirs = cross_entropy(logits, targets, loss.weights, reduction="sum", label_smoothing=smooth)
        torch.testing.assert_close(ours.total, theirs)
    weights = torch.ones(CLASSES) if loss.weights is None else loss.weights
    torch.testing.assert_close(ours.weight, (targets * weights).sum())


@pytest.mark.parametrize("options", OPTIONS)
def test_a_whole_share_is_no_mixing(options: dict[str, Any]) -> None:
    logits, labels, partners = numbers(20, CLASSES), labels_of(20), labels_of(20, seed=1)
    loss = loss_of(options, labels)
    mixed = loss.of_mixed(logits, labels, partners, torch.ones(20))
    torch.testing.assert_close(mixed.mean, loss.of(logits, labels).mean)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_common_images_are_not_taken_for_a_class_that_is_rare(smoothing: float) -> None:
    """What would be the best answer for images of each class, if a network could tell them apart."""
    labels = torch.tensor([0] * 3000 + [1] * 3000 + [2] * 3000 + [3] * 3)
    loss = loss_of({"class_weights": "balanced", "label_smoothing": smoothing}, labels)
    answers = torch.zeros(CLASSES, CLASSES, requires_grad=True)
    optimizer = torch.optim.Adam([answers], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss.of(answers[labels], labels).mean.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert answers.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 15 + [3] * 5)
    ours = loss_of({"class_weights": "balanced"}, labels).weights
    assert ours is not None
    wanted = compute_class_weight("balanced", classes=np.arange(CLASSES), y=labels.numpy())
    assert ours.tolist() == pytest.approx(wanted.tolist())
    assert ours[labels].mean() == pytest.approx(1)


def test_a_class_without_images_has_a_finite_weight() -> None:
    weights = loss_of({"class_weights": "balanced"}, torch.tensor([0, 1, 2])).weights
    assert weights is not None
    assert weights.isfinite().all()


@pytest.mark.parametrize("count", [2, 3, 5])
def test_weights_for_another_number_of_classes_are_refused(count: int) -> None:
    with pytest.raises(WrongClassWeights, match=f"{count} numbers, and the data set has 4 classes"):
        loss_of({"class_weights": (1.0,) * count}, labels_of(10))


class Auxiliary(nn.Module):
    """Two auxiliary heads beside the head, in training mode only."""

    auxiliary_weight = 0.3

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (nn.Linear(6, CLASSES) for _ in range(3))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = images.flatten(1)
        logits: Tensor = self.head(features)
        return (logits, self.first(features), self.second(features)) if self.training else logits


@pytest.mark.parametrize("options", OPTIONS)
def test_auxiliary_heads_count_as_much_as_the_network_says(options: dict[str, Any]) -> None:
    network, images, labels = Auxiliary().train(), numbers(20, 1, 2, 3), labels_of(20)
    loss, features = loss_of(options, labels), images.flatten(1)
    seen = gradients.take(network, [Batch(images, labels)], loss, alone=True, dtype=torch.float32)
    taken = [parameter.grad for parameter in network.parameters()]
    head, first, second = (
        loss.of(layer(features), labels).mean for layer in (network.head, network.first, network.second)
    )
    wanted = head + 0.3 * (first + second)
    assert seen.loss == pytest.approx(wanted.item())
    assert seen.correct == int((network.head(features).argmax(1) == labels).sum())
    for ours, theirs in zip(taken, torch.autograd.grad(wanted, list(network.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("sizes", [[20], [10, 10], [9, 7, 3, 1]])
def test_batches_of_one_step_count_as_one_large_batch(options: dict[str, Any], sizes: list[int]) -> None:
    images, labels = numbers(20, 1, 2, 3), labels_of(20)
    loss = loss_of(options, labels)
    whole, parts = Auxiliary().train(), Auxiliary().train()
    parts.load_state_dict(whole.state_dict())
    once = gradients.take(whole, [Batch(images, labels)], loss, alone=True, dtype=torch.float32)
    pieces = zip(images.split(sizes), labels.split(sizes), strict=True)
    batches = [Batch(some, their) for some, their in pieces]
    seen = gradients.take(parts, batches, loss, alone=len(batches) == 1, dtype=torch.float32)
    assert (seen.images, seen.correct) == (once.images, once.correct)
    assert seen.loss == pytest.approx(once.loss, rel=1e-5)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
