from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nets import optimizers
from nets.answers import answers
from nets.averaging import Average
from nets.checkpoints import Progress, Trained, read_checkpoint, read_network
from nets.datasets import Dataset
from nets.errors import BatchTooSmall, CheckpointLost, Interrupted, NonFiniteLoss, NonFiniteWeights, is_out_of_memory
from nets.layers import Layers, layers_of
from nets.observer import EpochRow
from nets.pruning import Gradually, select, sparsity
from nets.training import TrainingPlan, train
from specs.augmentations import AUGMENTATIONS
from specs.optimizers import OPTIMIZERS
from specs.pruning import PRUNING_METHODS
from specs.schedules import SCHEDULES
from specs.training import LossOptions
from tests.nets.conftest import (
    ALL_AT_ONCE,
    BEST_PRECISION,
    FolderObserver,
    augmentation_of,
    bits,
    one_of_each_file,
    plan,
    schedule_of,
    small_network,
)

ROOT = Path(__file__).parent.parent.parent


def unsteady(**changes: Any) -> TrainingPlan:
    """A learning rate far too high: the last epoch is not the best."""
    optimizer, schedule = OPTIMIZERS["sgd"].options(lr=20.0), SCHEDULES["constant"].options()
    return plan(**{"optimizer": optimizer, "schedule": schedule, "epochs": 6, **changes})


def label(value: Any) -> str:
    """What tells one change of the plan from others."""
    if not isinstance(value, dict):
        return str(value)
    return "-".join(getattr(option, "name", name) for name, option in value.items())


def test_the_interruption_says_where_it_is_and_leaves_a_checkpoint(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path, stop_after=6)
    with pytest.raises(Interrupted) as raised:
        train(small_network("mlp"), few, plan(), observer)
    assert (raised.value.epoch, raised.value.step) == (2, 2)
    assert observer.saved[-1] == (1, 2, False)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_every_schedule_and_augmentation_trains(few: Dataset, tmp_path: Path, schedule: str, augmentation: str) -> None:
    observer = FolderObserver(tmp_path)
    training = plan(schedule=SCHEDULES[schedule].options(), augmentation=(AUGMENTATIONS[augmentation].options(),))
    result = train(small_network("mlp"), few, training, observer)
    assert [row.epoch for row in observer.rows] == [1, 2, 3]
    assert all(math.isfinite(value) for row in observer.rows for value in asdict(row).values())
    assert observer.rows[-1].train_loss < observer.rows[0].train_loss
    assert observer.fractions == [number / 12 for number in range(1, 13)]
    assert result.epochs_run == 3
    assert not result.stopped_early


def test_the_network_has_the_weights_of_the_best_epoch(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    result = train(small_network("mlp", activation="tanh"), few, unsteady(), observer)
    best = max(observer.rows, key=lambda row: (row.validation_accuracy, -row.validation_loss))
    assert result.best_epoch == best.epoch < result.epochs_run
    assert observer.signs == result.epochs_run  # one for each batch of each validation
    assert answers(result.network, few.validation, few).loss == best.validation_loss
    assert observer.best is not None
    kept = small_network("mlp", activation="tanh")
    read_network(observer.best, kept)
    assert bits(kept) == bits(result.network)


def test_the_same_accuracy_at_a_lower_loss_is_better() -> None:
    progress = Progress()
    figures = [(0.9, 0.5), (0.8, 0.5), (0.7, 0.5), (0.1, 0.4)]
    assert [progress.finish_epoch(loss=loss, accuracy=accuracy) for loss, accuracy in figures] == [
        True,
        True,
        True,
        False,
    ]
    assert progress.best_epoch == 3


def test_early_stopping_waits_for_a_lower_loss(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    training = unsteady(epochs=40, patience=2)
    result = train(small_network("mlp", activation="tanh"), few, training, observer)
    losses = [row.validation_loss for row in observer.rows]
    assert result.stopped_early
    assert result.epochs_run == len(losses) < 40
    assert min(losses[-2:]) >= min(losses[:-2])


def test_a_finished_training_is_not_trained_again(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    first = train(small_network("mlp"), few, plan(), observer)
    steps = observer.steps
    again = train(small_network("mlp"), few, plan(), observer)
    assert observer.steps == steps
    assert bits(again.network) == bits(first.network)


def test_a_lost_best_checkpoint_is_an_error(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    train(small_network("mlp", activation="tanh"), few, unsteady(), observer)
    observer.best = None
    with pytest.raises(CheckpointLost):
        train(small_network("mlp", activation="tanh"), few, unsteady(), observer)


@pytest.mark.parametrize("loss", [LossOptions(), LossOptions(label_smoothing=0.1, class_weights="balanced")])
@pytest.mark.parametrize("augmentation", ["shift", "mixup"])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(6, 2), (3, 4), (12, 1)])
def test_batches_of_one_step_are_as_good_as_a_large_one(
    few: Dataset, tmp_path: Path, loss: LossOptions, augmentation: str, batch_size: int, accumulation: int
) -> None:
    sgd = {"optimizer": OPTIMIZERS["momentum"].options(lr=0.1), "loss": loss, **augmentation_of(augmentation)}
    observers = [FolderObserver(tmp_path / name) for name in ("whole", "parts")]
    trainings = [plan(batch_size=12, **sgd), plan(batch_size=batch_size, accumulation=accumulation, **sgd)]
    for observer, training in zip(observers, trainings, strict=True):
        observer.folder.mkdir()
        train(small_network("mlp"), few, training, observer)
    whole, parts = (observer.rows for observer in observers)
    assert observers[0].steps == observers[1].steps == 15
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-5)
        assert ours.lr == theirs.lr
    for one, other in zip(*(newest_weights(observer) for observer in observers), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def newest_weights(observer: FolderObserver) -> list[Tensor]:
    assert observer.newest is not None
    network = small_network("mlp")
    read_network(observer.newest, network)
    return list(network.parameters())


@pytest.mark.parametrize(("accumulation", "steps"), [(1, 4), (2, 2), (3, 2), (4, 1), (100, 1)])
def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left(
    few: Dataset, tmp_path: Path, accumulation: int, steps: int
) -> None:
    observer = FolderObserver(tmp_path)
    network = small_network("resnet18")
    train(network, few, plan(epochs=2, accumulation=accumulation, **schedule_of("constant")), observer)
    assert observer.steps == 2 * steps
    assert observer.fractions == [number / (2 * steps) for number in range(1, 2 * steps + 1)]
    assert observer.rows[-1].epoch == 2
    assert observer.newest is not None
    read_network(observer.newest, network)
    # Batch normalisation saw every batch.
    assert int(network.bn1.num_batches_tracked) == 8


def test_gradients_are_scaled_down_to_the_norm(few: Dataset, tmp_path: Path) -> None:
    moved = {}
    for clipping in (None, 0.01, 1e6):
        network = small_network("mlp")
        before = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        observer = FolderObserver(tmp_path / str(clipping))
        observer.folder.mkdir()
        one_step = plan(
            optimizer=OPTIMIZERS["sgd"].options(lr=1.0),
            batch_size=50,
            epochs=1,
            clipping=clipping,
            **schedule_of("constant"),
        )
        train(network, few, one_step, observer)
        moved[clipping] = torch.nn.utils.parameters_to_vector(network.parameters()).detach() - before
    assert moved[0.01].norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(moved[0.01], moved[None], dim=0) > 0.999
    assert torch.equal(moved[1e6], moved[None])


def test_cut_weights_count_in_no_norm(few: Dataset, tmp_path: Path) -> None:
    """With nearly all weights cut, those that are left take the whole norm."""
    network = small_network("mlp")
    masks = select(network, method="magnitude", options=PRUNING_METHODS["magnitude"].options(sparsity=0.9))
    masks.apply(network)
    before = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    one_step = plan(
        optimizer=OPTIMIZERS["sgd"].options(lr=1.0), batch_size=50, epochs=1, clipping=0.01, **schedule_of("constant")
    )
    train(network, few, one_step, FolderObserver(tmp_path), masks=masks)
    moved = torch.nn.utils.parameters_to_vector(network.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_averages_follow_the_weights_by_their_rule() -> None:
    network = small_network("resnet18").train()
    average, decay = Average(network, 0.4), 0.4
    wanted = {name: value.double() for name, value in network.state_dict().items()}
    for step in range(1, 8):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        network(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(step)))
        average.update(network, steps=step)
        share = min(decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            wanted[name] = share * wanted[name] + (1 - share) * value.double()
    for name, value in average.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), wanted[name], rtol=1e-4, atol=1e-5)
    assert int(average.network.bn1.num_batches_tracked) == 7
    assert not average.network.training


@pytest.mark.parametrize("best_is_last", [True, False])
def test_the_average_is_validated_and_kept(few: Dataset, tmp_path: Path, best_is_last: bool) -> None:
    observer = FolderObserver(tmp_path)
    training = plan(ema_decay=0.5) if best_is_last else unsteady(ema_decay=0.5, epochs=8)
    network = small_network("mlp", activation="tanh")
    result = train(network, few, training, observer)
    assert (result.best_epoch == result.epochs_run) == best_is_last
    assert observer.best is not None
    assert answers(network, few.validation, few).loss == observer.rows[result.best_epoch - 1].validation_loss
    kept, raw = (load_file(observer.best / name) for name in ("average.safetensors", "network.safetensors"))
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert not all(torch.equal(value, raw[name]) for name, value in network.state_dict().items())


def test_a_plateau_cuts_the_learning_rate(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    # Nothing falls by 99 %, so every epoch after the first is one without a fall.
    never = SCHEDULES["plateau"].options(patience=1, threshold=0.99, factor=0.5, least=0.2)
    train(small_network("mlp"), few, plan(schedule=never, epochs=9), observer)
    shares = [row.lr / 0.01 for row in observer.rows]
    assert shares == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2])


def test_a_fall_that_is_too_small_is_none() -> None:
    progress = Progress()
    for loss in (1.0, 0.95, 0.91, 0.89, 0.85):
        progress.finish_epoch(loss=loss, accuracy=0.5, min_delta=0.1)
    assert (progress.lowest_loss, progress.epochs_without_fall, progress.best_epoch) == (0.89, 1, 5)


@pytest.mark.parametrize("network_name", ["mlp", "resnet18", "mobilenet_v2"])
def test_a_frozen_backbone_keeps_every_bit(few: Dataset, tmp_path: Path, network_name: str) -> None:
    network = small_network(network_name)
    before = bits(network)
    (head,) = layers_of(network).heads
    result = train(network, few, plan(frozen=True, ema_decay=0.5), FolderObserver(tmp_path))
    after = bits(result.network)
    assert {name for name in after if after[name] != before[name]} == {f"{head}.weight", f"{head}.bias"}


def test_statistics_keep_pace_with_a_training_of_some_dozen_steps(digits: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    hot = plan(
        optimizer=OPTIMIZERS["muon"].options(lr=0.02, adamw_lr=0.005),
        schedule=SCHEDULES["one-cycle"].options(),
        augmentation=(),
        epochs=2,
        batch_size=64,
    )
    train(small_network("mobilenet_v1"), digits, hot, observer)
    last = observer.rows[-1]
    # It learns as it goes along, so what comes after the epoch is better than its mean.
    assert last.validation_accuracy > last.train_accuracy - 0.05
    assert last.train_accuracy > 0.3


def test_single_images_are_welcome_where_nothing_is_normalised_over_them(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    train(small_network("resnet18"), few, plan(batch_size=1, epochs=1, frozen=True), observer)
    assert observer.steps == 50


def test_auxiliary_heads_are_heads() -> None:
    network = nn.Module()
    network.auxiliary_weight = 0.3
    network.stem = nn.Conv2d(1, 4, 3)
    network.side = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 10))
    network.inner = nn.Sequential(nn.Linear(4, 4))
    network.fc = nn.Linear(4, 10)
    assert layers_of(network) == Layers("stem", ("side.0", "inner.0"), ("side.2", "fc"))
    del network.auxiliary_weight
    assert layers_of(network) == Layers("stem", ("side.0", "side.2", "inner.0"), ("fc",))


@pytest.mark.skipif(torch.float32 == BEST_PRECISION, reason="this processor has no bfloat16")
def test_half_the_digits_train_nearly_as_well(few: Dataset, tmp_path: Path) -> None:
    rows, weights = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        observer = FolderObserver(tmp_path / str(dtype))
        observer.folder.mkdir()
        network = small_network("resnet18")
        rows[dtype] = train(network, few, plan(precision=dtype), observer) and observer.rows
        weights[dtype] = network.state_dict()
    assert all(value.dtype != torch.bfloat16 for value in weights[torch.bfloat16].values())
    assert rows[torch.bfloat16][-1].train_loss == pytest.approx(rows[torch.float32][-1].train_loss, rel=0.1)
    assert not torch.equal(weights[torch.bfloat16]["conv1.weight"], weights[torch.float32]["conv1.weight"])


@pytest.mark.skipif(torch.float32 == BEST_PRECISION, reason="this processor has no bfloat16")
@pytest.mark.parametrize("name", one_of_each_file())
def test_every_network_begins_to_learn_in_half_the_digits(name: str, few: Dataset, tmp_path: Path) -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        observer = FolderObserver(tmp_path / str(dtype))
        observer.folder.mkdir()
        gentle = plan(precision=dtype, epochs=1, optimizer=OPTIMIZERS["adam"].options(lr=0.001))
        assert train(small_network(name), few, gentle, observer)
        losses.append(observer.rows[0].train_loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1] != losses[0]


def test_a_processor_without_bfloat16_says_so() -> None:
    """PyTorch held to older instructions, in a process of its own, since it looks only once."""
    program = """
import torch
from nets import precision
from nets.errors import PrecisionUnavailable
cpu = torch.device("cpu")
assert precision.resolve("auto", cpu) == precision.resolve("float32", cpu) == torch.float32
try:
    precision.resolve("bfloat16", cpu)
except PrecisionUnavailable as error:
    print(error)
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "AVX512-BF16" in done.stdout
    assert '"auto"' in done.stdout


def test_a_loss_that_is_not_finite_ends_the_training(few: Dataset, tmp_path: Path) -> None:
    training = plan(optimizer=OPTIMIZERS["sgd"].options(lr=1e6), schedule=SCHEDULES["constant"].options(), epochs=20)
    with pytest.raises(NonFiniteLoss, match="learning rate"):
        train(small_network("mlp"), few, training, FolderObserver(tmp_path))


def test_checkpoints_from_before_a_loss_that_is_not_finite_are_whole(few: Dataset, tmp_path: Path) -> None:
    # Each step makes the weights minus three times as large.
    growing = OPTIMIZERS["sgd"].options(lr=1.0, weight_decay=4.0)
    observer = FolderObserver(tmp_path, every=1)
    with pytest.raises(NonFiniteLoss) as raised:
        train(small_network("mlp"), few, plan(optimizer=growing, epochs=40, **schedule_of("constant")), observer)
    assert raised.value.step is not None
    assert observer.saved[-1][:2] == (raised.value.epoch - 1, raised.value.step - 1)
    for directory in tmp_path.iterdir():
        assert all(value.isfinite().all() for value in load_file(directory / "network.safetensors").values())


class Spoiling(FolderObserver):
    """Spoils a weight in a step, or after an epoch, as an overflow in a step does whose loss was still finite."""

    weight: nn.Parameter
    at_step: int | None = None

    def on_step(self, *, epoch: int, epochs: int, fraction: float) -> None:
        super().on_step(epoch=epoch, epochs=epochs, fraction=fraction)
        if self.steps == self.at_step:
            self.weight.data.fill_(math.inf)

    def on_epoch(self, row: EpochRow) -> None:
        super().on_epoch(row)
        if self.at_step is None:
            self.weight.data.fill_(math.nan)


@pytest.mark.parametrize("changes", [{"every": 1}, {"stop_after": 3}], ids=["due", "asked to stop"])
def test_weights_that_are_not_finite_become_no_checkpoint(
    few: Dataset, tmp_path: Path, changes: dict[str, int]
) -> None:
    network, observer = small_network("mlp"), Spoiling(tmp_path, **changes)
    observer.weight, observer.at_step = next(network.parameters()), 3
    with pytest.raises(NonFiniteWeights, match="step 3 of epoch 1"):
        train(network, few, plan(), observer)
    assert [step for _, step, _ in observer.saved] == ([1, 2] if "every" in changes else [])


def test_a_validation_does_not_speak_for_auxiliary_heads(few: Dataset, tmp_path: Path) -> None:
    network, observer = small_network("googlenet", auxiliary=True), Spoiling(tmp_path)
    observer.weight = next(value for name, value in network.named_parameters() if name.startswith("aux1"))
    with pytest.raises(NonFiniteWeights, match="step 1 of epoch 1"):
        train(network, few, plan(epochs=1, batch_size=50), observer)
    assert observer.saved == []


def test_a_single_image_left_over_joins_the_batch_before(few: Dataset, tmp_path: Path) -> None:
    observer = FolderObserver(tmp_path)
    train(small_network("resnet18"), few, plan(batch_size=7, epochs=1), observer)
    assert observer.steps == 7  # 50 images: seven batches of 7, the last of them of 8


def test_batches_of_one_image_are_refused_where_batches_are_normalised(few: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BatchTooSmall):
        train(small_network("resnet18"), few, plan(batch_size=1), FolderObserver(tmp_path))


@pytest.mark.parametrize("method", [name for name, method in PRUNING_METHODS.items() if method.cuts == "weights"])
@pytest.mark.parametrize(
    "changes",
    [*({"optimizer": OPTIMIZERS[name].options(weight_decay=0.01)} for name in OPTIMIZERS), ALL_AT_ONCE],
    ids=label,
)
def test_cut_weights_stay_positive_zeros(few: Dataset, tmp_path: Path, method: str, changes: dict[str, Any]) -> None:
    network = small_network("mlp")
    masks = select(network, method=method, options=PRUNING_METHODS[method].options(sparsity=0.8))
    train(network, few, plan(**{**changes, "epochs": 1}), FolderObserver(tmp_path), masks=masks)
    parameters = dict(network.named_parameters())
    for name, cut in masks.cut.items():
        words = parameters[name].detach()[cut].view(torch.int32)
        assert not words.any()
        assert parameters[name].detach()[~cut].all()


def test_the_optimizer_forgets_what_it_knew_of_weights_that_are_cut(few: Dataset, tmp_path: Path) -> None:
    """Muon would turn the others by it for some dozen steps."""
    options = PRUNING_METHODS["magnitude"].options(sparsity=0.5)
    observer, network = FolderObserver(tmp_path), small_network("mlp")
    muon = plan(optimizer=OPTIMIZERS["muon"].options(), epochs=2)
    train(network, few, muon, observer, gradually=Gradually("magnitude", options, epochs=2, start=1))
    optimizer = optimizers.build(muon.optimizer, network)
    assert observer.newest is not None
    read_checkpoint(observer.newest, Trained(network, optimizer, None))
    weight = network.get_parameter("hidden.3.weight")
    momentum, cut = optimizer.state[weight]["momentum_buffer"], weight == 0
    assert 0 < cut.sum() < cut.numel()
    assert not momentum[cut].any()
    assert momentum[~cut].any()


def test_only_epochs_after_the_last_round_can_be_the_best(few: Dataset, tmp_path: Path) -> None:
    options = PRUNING_METHODS["magnitude"].options(sparsity=0.8, rounds=3)
    network = small_network("mlp")
    gradually = Gradually("magnitude", options, epochs=6)
    result = train(network, few, plan(epochs=6), FolderObserver(tmp_path), gradually=gradually)
    assert result.best_epoch > gradually.beginnings[-1] > 0
    assert sparsity(network).prunable == pytest.approx(0.8, abs=1e-3)


def test_a_network_that_was_cut_is_not_held_against_what_it_was() -> None:
    options = SCHEDULES["plateau"].options(patience=0)
    progress = Progress()
    progress.plateau.see(options, 0.1)
    progress.forget_best()
    progress.plateau.see(options, 2.0)
    assert progress.plateau.factor == 1.0
    progress.plateau.see(options, 2.0)
    assert progress.plateau.factor < 1.0


@pytest.mark.parametrize("name", ["resnet18"])
def test_evaluation_changes_nothing(few: Dataset, name: str) -> None:
    network = small_network(name).train()
    before = bits(network)
    by_seven = answers(network, few.test, few, batch_size=7)
    assert network.training
    assert bits(network) == before
    assert len(by_seven.predicted) == len(few.test)
    whole = answers(network, few.test, few, batch_size=30)
    assert whole.loss == pytest.approx(by_seven.loss, rel=1e-5)


def test_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
