from __future__ import annotations

from specs.jobs import DistillSpec, TrainSpec
from workers.plans import plan_shrinking, student_origin


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
