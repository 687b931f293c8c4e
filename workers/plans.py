"""From a spec to the plan of a training, on the device and in the precision that it comes down to on this machine."""

from __future__ import annotations

from typing import Any

from nets import compiling, devices, precision
from nets.pruning import Gradually
from nets.training import TrainingPlan
from specs.jobs import REWOUND, DistillSpec, FineTune, PruneSpec, TrainSpec
from specs.pruning import MagnitudeOptions
from specs.training import EarlyStopping


def plan_training(spec: TrainSpec) -> TrainingPlan:
    """The training of a train job; raises DeviceUnavailable and PrecisionUnavailable."""
    frozen = spec.freeze == "backbone"
    return TrainingPlan(augmentation=spec.augmentation, seed=spec.seed, frozen=frozen, **_regime(spec, spec.device))


def plan_shrinking(spec: TrainSpec | DistillSpec) -> Gradually | None:
    """The cuts of a network whose weights are cut while it trains; None for all others."""
    shrinking = spec.architecture.shrinking()
    if shrinking is None:
        return None
    options = MagnitudeOptions(sparsity=shrinking.sparsity, rounds=shrinking.rounds)
    # 0.29 of 100 epochs is a little less than 29 in binary numbers.
    start = min(spec.epochs - 1, int(round(shrinking.dense_share * spec.epochs, 6)))
    return Gradually("magnitude", options, spec.epochs, start=start)


def dense_epochs(spec: TrainSpec) -> frozenset[int]:
    """The last epoch before the first cut of such a network, which its report needs; nothing if none comes before."""
    gradually = plan_shrinking(spec)
    return frozenset() if gradually is None or gradually.start == 0 else frozenset({gradually.start})


def plan_fine_tuning(spec: PruneSpec, fine_tune: FineTune, *, origin: TrainSpec) -> TrainingPlan:
    """The retraining of a prune job, on images changed as it says or as the parent's were; raises the same."""
    if fine_tune.rewind:
        fine_tune = fine_tune.model_copy(update={name: getattr(origin, name) for name in REWOUND})
    augmentation = origin.augmentation if fine_tune.augmentation is None else fine_tune.augmentation
    return TrainingPlan(augmentation=augmentation, seed=origin.seed, **_regime(fine_tune, spec.device))


def plan_distilling(spec: DistillSpec) -> TrainingPlan:
    """The training of a distill job; raises the same."""
    return TrainingPlan(augmentation=spec.augmentation, seed=spec.seed, **_regime(spec, spec.device))


def student_origin(teacher: TrainSpec, spec: DistillSpec) -> TrainSpec:
    """The training of a student, as its own children are to take it up.

    The seed is the teacher's, which says how the data are split; what the teacher began with and kept is not the
    student's.
    """
    shared = (TrainSpec.model_fields.keys() & DistillSpec.model_fields.keys()) - {"kind", "name", "recipe", "seed"}
    own = {name: getattr(spec, name) for name in shared}
    return teacher.model_copy(update={**own, "keep_epochs": (), "pretrained": None, "freeze": None})


def _regime(spec: TrainSpec | DistillSpec | FineTune, device_name: str) -> dict[str, Any]:
    """What both have."""
    device = devices.resolve(device_name)
    stopping = spec.early_stopping
    return {
        "optimizer": spec.optimizer,
        "schedule": spec.schedule,
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "loss": spec.loss,
        "accumulation": spec.gradient_accumulation,
        "clipping": spec.gradient_clipping,
        "ema_decay": spec.ema.decay if spec.ema else None,
        "patience": stopping.patience if stopping else None,
        "min_delta": stopping.min_delta if stopping else EarlyStopping().min_delta,
        "device": device,
        "precision": precision.resolve(spec.precision, device),
        "compiler": compiling.compiler(spec.compile, device),
    }
