"""A network that learns from another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nets import gradients
from nets.answers import answers
from nets.batches import Batch
from nets.datasets import Dataset
from nets.distillation import Teacher
from nets.errors import Interrupted, OtherClasses
from nets.losses import Loss
from nets.training import train
from tests.nets.conftest import FolderObserver, plan, small_network


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.randn(6, 1, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3, 4, 4]))


def gradient_of(loss: torch.Tensor, network: nn.Module) -> torch.Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])


@pytest.mark.parametrize("weights", [None, torch.arange(1.0, 11.0)], ids=["plain", "weighted"])
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (4.0, 0.7), (2.0, 1.0)])
def test_the_loss_is_the_papers(temperature: float, alpha: float, weights: torch.Tensor | None) -> None:
    """Section 2: softened probabilities, their cross-entropy times T squared, beside that of the labels."""
    student, other, given = small_network("mlp"), small_network("mlp", hidden=(7,)), batch()
    teacher = Teacher(other.eval(), temperature, alpha)
    tally = gradients.take(student, [given], Loss(weights), alone=True, dtype=torch.float32, teacher=teacher)
    found = torch.cat([parameter.grad.flatten() for parameter in student.parameters()])
    logits = student(given.images)
    soft = (other(given.images) / temperature).softmax(1).detach()
    cross = -(soft * (logits / temperature).log_softmax(1)).sum(1).mean() * temperature**2
    hard = cross_entropy(logits, given.labels, weights)
    # The entropy of the teacher, by which divergence and cross-entropy differ, moves no weight.
    wanted = gradient_of(alpha * cross + (1 - alpha) * hard, student)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    entropy = -(soft * soft.log()).sum(1).mean() * temperature**2
    assert tally.loss == pytest.approx((alpha * (cross - entropy) + (1 - alpha) * hard).item(), rel=1e-4)
    assert all(parameter.grad is None for parameter in other.parameters())


def test_a_student_comes_to_think_as_its_teacher_does(digits: Dataset, tmp_path: Path) -> None:
    """It is told no label, so it can have learnt from the teacher only."""
    teacher = small_network("mlp", hidden=(32,))
    for folder in ("taught", "alone"):
        (tmp_path / folder).mkdir()
    train(teacher, digits, plan(epochs=4), FolderObserver(tmp_path / "alone"))
    student = small_network("mlp")
    train(student, digits, plan(epochs=4), FolderObserver(tmp_path / "taught"), teacher=Teacher(teacher, 2.0, 1.0))
    told, thought = (answers(network, digits.test, digits) for network in (teacher, student))
    assert (told.predicted == thought.predicted).double().mean() > 0.85


@pytest.mark.parametrize("changes", [{}, {"precision": torch.float32, "accumulation": 2}], ids=["plain", "accumulated"])
def test_a_student_that_is_stopped_ends_with_the_same_bits(
    few: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    ended = []
    for stop_after in (None, 5):
        folder = tmp_path / str(stop_after)
        folder.mkdir()
        observer = FolderObserver(folder, stop_after=stop_after)
        while True:
            student, teacher = small_network("mlp"), small_network("resnet18")
            try:
                train(student, few, plan(**changes), observer, teacher=Teacher(teacher, 3.0, 0.5))
                break
            except Interrupted:
                observer.stop_after = None
        ended.append(student.state_dict())
    assert all(torch.equal(value, ended[1][name]) for name, value in ended[0].items())


def test_a_teacher_of_other_classes_is_refused() -> None:
    teacher = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 4.0, 0.9)
    with pytest.raises(OtherClasses, match="3 classes"):
        teacher.disagreement(torch.zeros(6, 10), batch().images)
