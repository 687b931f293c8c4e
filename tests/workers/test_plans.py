from __future__ import annotations

from typing import Any

import pytest
import torch

from nets.training import TrainingPlan
from specs.jobs import DistillSpec, FineTune, PruneSpec, TrainSpec
from workers.plans import plan_distilling, plan_fine_tuning, plan_shrinking, plan_training, student_origin

# Every field that all kinds of training have, none of them at its default.
REGIME: dict[str, Any] = {
    "optimizer": {"name": "momentum", "lr": 0.5},
    "schedule": {"name": "step"},
    "epochs": 7,
    "batch_size": 9,
    "loss": {"label_smoothing": 0.1},
    "augmentation": "flip",
    "gradient_accumulation": 3,
    "gradient_clipping": 0.25,
    "ema": {"decay": 0.75},
    "early_stopping": {"patience": 4, "min_delta": 0.125},
    "compile": "off",
}
PARENT = {"dataset": "digits", "architecture": "resnet18", "seed": 5}
PLANS = {
    "train": lambda **told: plan_training(TrainSpec.model_validate({**PARENT, **told})),
    "distill": lambda **told: plan_distilling(
        DistillSpec.model_validate({"teacher": "first", "architecture": "mlp", "seed": 5, **told})
    ),
    "prune": lambda **told: plan_fine_tuning(
        PruneSpec(model="first", device=told.pop("device", "cpu")),
        FineTune.model_validate(told),
        origin=TrainSpec.model_validate(PARENT),
    ),
}


@pytest.mark.parametrize("kind", PLANS)
def test_a_plan_is_what_was_asked_for(kind: str) -> None:
    plan: TrainingPlan = PLANS[kind](**REGIME, device="cpu")
    assert (plan.optimizer.name, plan.optimizer.lr, plan.schedule.name) == ("momentum", 0.5, "step")
    assert (plan.epochs, plan.batch_size, plan.loss.label_smoothing, plan.seed) == (7, 9, 0.1, 5)
    assert [augmentation.name for augmentation in _each(plan.augmentation)] == ["flip"]
    assert (plan.accumulation, plan.clipping, plan.ema_decay) == (3, 0.25, 0.75)
    assert (plan.patience, plan.min_delta) == (4, 0.125)
    assert (plan.compiler, plan.device, plan.precision) == (None, torch.device("cpu"), torch.float32)
    plain: TrainingPlan = PLANS[kind]()
    assert (plain.accumulation, plain.clipping, plain.ema_decay, plain.patience) == (1, None, None, None)


def _each(augmentation: Any) -> list[Any]:
    return list(augmentation) if isinstance(augmentation, tuple | list) else [augmentation]


def test_only_what_is_to_be_frozen_is() -> None:
    weights = {"pretrained": "IMAGENET1K_V1"}
    assert not PLANS["train"](**weights).frozen
    assert PLANS["train"](**weights, freeze="backbone").frozen


def test_a_rewind_takes_the_regime_of_the_parent() -> None:
    origin = TrainSpec.model_validate({**PARENT, **REGIME})
    plan = plan_fine_tuning(PruneSpec(model="first"), FineTune(rewind=True), origin=origin)
    taught = plan_training(origin)
    for field in ("optimizer", "schedule", "epochs", "batch_size", "loss", "accumulation", "clipping", "ema_decay"):
        assert getattr(plan, field) == getattr(taught, field), field
    assert plan.augmentation == taught.augmentation


@pytest.mark.parametrize(
    ("share", "epochs", "wanted"), [(0.29, 100, 29), (0.57, 100, 57), (0.58, 50, 29), (0.5, 3, 1), (0.99999999, 10, 9)]
)
def test_the_first_cut_comes_after_as_many_epochs_as_was_said(share: float, epochs: int, wanted: int) -> None:
    asked = {"dataset": "digits", "architecture": {"name": "fpnet", "dense_share": share}, "epochs": epochs}
    gradually = plan_shrinking(TrainSpec.model_validate(asked))
    assert gradually is not None
    assert gradually.start == wanted


def test_a_student_has_the_split_of_its_teacher_and_not_its_beginnings() -> None:
    pretrained = {"pretrained": "IMAGENET1K_V1", "freeze": "backbone", "keep_epochs": (1,), "seed": 7}
    teacher = TrainSpec.model_validate({"dataset": "digits", "architecture": "resnet18", **pretrained})
    spec = DistillSpec.model_validate({"teacher": "first", "architecture": "mlp", "seed": 3, "epochs": 2})
    student = student_origin(teacher, spec)
    assert TrainSpec.model_validate(student.model_dump(mode="json")) == student
    assert (student.seed, student.pretrained, student.freeze, student.keep_epochs) == (7, None, None, ())
    assert (student.architecture.name, student.epochs, student.dataset) == ("mlp", 2, "digits")


def test_a_network_that_is_cut_while_it_trains_is_cut_while_it_is_taught() -> None:
    asked = {"architecture": {"name": "fpnet", "base": "mlp", "rounds": 2}, "epochs": 10}
    trained = plan_shrinking(TrainSpec.model_validate({"dataset": "digits", **asked}))
    taught = plan_shrinking(DistillSpec.model_validate({"teacher": "first", **asked}))
    assert taught is not None
    assert taught == trained
