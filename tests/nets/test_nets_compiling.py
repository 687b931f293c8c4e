"""torch.compile on trial: kept where it pays, never an end of the training, and the same bits however it is stopped."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets.compiling import CACHE_NAME, DIED, LEAST_GAIN, Compiler, Forward, Step, compiler, key, versions_here
from nets.datasets import Dataset
from nets.errors import Interrupted
from nets.export import graph
from nets.probe_cache import FINDINGS, ProbeCache
from nets.training import TrainingPlan, train
from specs.devices import Finding
from tests.nets.conftest import IMAGE_SIZE, FolderObserver, GraphMemory, narrow, plan, small_network

AT_STEP = 2
COMPILES = shutil.which("g++") is not None and Path(sysconfig.get_path("include"), "Python.h").exists()
HAS_COMPILER = pytest.mark.skipif(not COMPILES, reason="torch.compile needs a C++ compiler and the headers of Python")


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is taken from what another test compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def cache(tmp_path: Path) -> ProbeCache:
    return ProbeCache(tmp_path, CACHE_NAME)


def on_trial(cache: ProbeCache, *, worth_seconds: float = 0.0, **changes: Any) -> TrainingPlan:
    return plan(compiler=Compiler(cache, worth_seconds=worth_seconds, tried_after=AT_STEP), **changes)


@dataclass
class Observer(FolderObserver):
    """Keeps the network too."""

    network: nn.Module = field(default_factory=nn.Identity)


def trained(few: Dataset, chosen: TrainingPlan, folder: Path, *, stops: tuple[int, ...] = ()) -> Observer:
    """A training, stopped after so many steps of each attempt."""
    folder.mkdir(exist_ok=True)
    observer = Observer(folder)
    for stop in (*stops, None):
        observer.stop_after, observer.steps = stop, 0
        network = small_network("mlp")
        try:
            train(network, few, chosen, observer)
        except Interrupted:
            continue
    observer.network = network
    return observer


def weights(observer: Observer) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in observer.network.state_dict().items()}


class Normal(nn.Module):
    """A network of a normalisation, whose statistics a step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = nn.BatchNorm1d(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.normal(images)


def step_of(network: nn.Module, forward: Forward) -> Step:
    images = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    def take() -> float:
        loss = forward(images).square().mean()
        loss.backward()
        return loss.item()

    return Step(network, forward, take, "test")


def test_a_short_training_is_not_asked(few: Dataset, cache: ProbeCache, tmp_path: Path) -> None:
    observer = trained(few, on_trial(cache, worth_seconds=1e9), tmp_path / "kept")
    assert observer.notices == []
    assert not (tmp_path / CACHE_NAME).exists()


@HAS_COMPILER
def test_a_trial_says_what_it_found_and_another_training_goes_by_it(
    few: Dataset, cache: ProbeCache, tmp_path: Path
) -> None:
    first = trained(few, on_trial(cache), tmp_path / "first")
    (notice,) = first.notices
    assert "times as fast" in notice
    again = trained(few, on_trial(cache), tmp_path / "again")
    assert again.notices == first.notices
    assert weights(again) == weights(first)


@HAS_COMPILER
def test_a_compiled_training_stopped_anywhere_ends_with_the_same_bits(
    few: Dataset, cache: ProbeCache, tmp_path: Path
) -> None:
    found_fast(cache, few, tmp_path)
    whole = trained(few, on_trial(cache), tmp_path / "whole")
    assert whole.notices == ["fast"]
    for stop in (1, 2, 3, 6):
        assert weights(trained(few, on_trial(cache), tmp_path / f"{stop}", stops=(stop,))) == weights(whole)
    # It learns as it does when it is not compiled.
    plain = trained(few, plan(), tmp_path / "plain")
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(value, whole.network.state_dict()[name], rtol=1e-3, atol=1e-4)


@HAS_COMPILER
def test_what_was_compiled_is_exported_as_any_other(few: Dataset, cache: ProbeCache, tmp_path: Path) -> None:
    found_fast(cache, few, tmp_path)
    network = trained(few, on_trial(cache), tmp_path / "kept").network
    memory = GraphMemory()
    graph(network, narrow("mlp"), channels=1, image_size=IMAGE_SIZE, cache=memory)
    assert memory.puts == 1


def found_fast(cache: ProbeCache, few: Dataset, folder: Path) -> None:
    """Has a trial made, and what it found changed to a large gain."""
    trained(few, on_trial(cache), folder / "trial")
    (finding,) = FINDINGS.validate_json((folder / CACHE_NAME).read_bytes())
    cache.keep(finding.model_copy(update={"ratio": 2 * LEAST_GAIN, "reason": "fast"}))


def test_without_a_compiler_it_trains_as_it_is(
    few: Dataset, cache: ProbeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    # A size of its own: what another test compiled for its size is still in memory.
    observer = trained(few, on_trial(cache, batch_size=10), tmp_path / "kept")
    (notice,) = observer.notices
    assert "cannot be compiled here" in notice
    assert weights(observer) == weights(trained(few, plan(batch_size=10), tmp_path / "plain"))


@HAS_COMPILER
def test_a_trial_leaves_the_network_as_it_was(cache: ProbeCache) -> None:
    network = Normal()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    forward = Forward(network, 8)
    assert Compiler(cache, worth_seconds=0).consider(step_of(network, forward), left=1.0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_trial_that_took_its_process_down_is_not_made_again(cache: ProbeCache) -> None:
    network = Normal()
    forward = Forward(network, 8)
    step = step_of(network, forward)

    class Death(BaseException):
        """Stands for a signal."""

    def take() -> float:
        raise Death

    with pytest.raises(Death):
        Compiler(cache, worth_seconds=0).consider(Step(network, forward, take, step.about), left=1.0)
    assert Compiler(cache, worth_seconds=0).consider(step, left=1.0) == DIED
    assert not forward.compiled


def test_a_compiled_step_of_another_loss_is_not_kept(cache: ProbeCache) -> None:
    network = Normal()
    forward = Forward(network, 8)
    step = step_of(network, forward)

    def take() -> float:
        return 2.0 if forward.compiled else 1.0

    reason = Compiler(cache, worth_seconds=0).consider(Step(network, forward, take, step.about), left=1.0)
    assert reason is not None
    assert "its loss is 2, not 1" in reason
    assert not forward.compiled


def test_losses_that_are_left_to_chance_are_not_compared(cache: ProbeCache) -> None:
    """Slopes by lot are others in what is compiled, as dropped features are."""
    network = small_network("mlp", activation="rrelu")
    forward = Forward(network, 8)

    def take() -> float:
        return 2.0 if forward.compiled else 1.0

    reason = Compiler(cache, worth_seconds=0).consider(Step(network, forward, take, "test"), left=1.0)
    assert reason is not None
    assert "cannot be compiled" not in reason


def test_a_batch_that_took_the_last_image_is_not_tried(few: Dataset, cache: ProbeCache, tmp_path: Path) -> None:
    """It is not of the size that is compiled, so eager steps would be held against eager ones."""
    compiler = Compiler(cache, worth_seconds=0, tried_after=1)
    observer = FolderObserver(tmp_path)
    train(small_network("mlp"), few, plan(batch_size=len(few.train) - 1, compiler=compiler), observer)
    assert observer.notices == []


def test_other_networks_and_batches_have_trials_of_their_own(cache: ProbeCache) -> None:
    network = Normal()
    step = step_of(network, Forward(network, 8))
    other = nn.Sequential(Normal())
    keys = {key(step), key(step_of(other, Forward(other, 8))), key(Step(network, step.forward, step.take, "larger"))}
    assert len(keys) == 3
    cache.keep(Finding(name=key(step), usable=True, reason="slow", ratio=1.0, versions=versions_here()))
    assert Compiler(cache, worth_seconds=0).consider(step, left=1.0) == "slow"


@pytest.mark.parametrize(("choice", "device"), [("off", "cpu"), ("auto", "cuda")])
def test_off_and_on_accelerators_nothing_is_tried(choice: str, device: str) -> None:
    assert compiler(choice, torch.device(device)) is None  # type: ignore[arg-type]
