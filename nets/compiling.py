"""torch.compile, kept where a trial shows that it pays.

To compile a training step takes from ten seconds to minutes, so only a training that has long enough to go has a trial:
after its first steps, which tell how long the others will take. The trial times steps of both kinds in turn, on a batch
of the training, and leaves the network as it was. What came out is kept for networks and batches of this kind, so that
the same job trained again is trained in the same way. While a trial runs it is on record as failed: a job whose process
it takes down begins again without it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from nets.gradients import undoing
from nets.probe_cache import ProbeCache
from nets.probe_step import processor
from specs.devices import Finding
from specs.settings import Settings
from specs.training import Compilation

CACHE_NAME = "compiling.json"
# A trial takes a minute or so; even one that finds nothing should not be felt.
WORTH_SECONDS = 900.0
TRIED_AFTER = 20
ROUNDS = 4
LEAST_GAIN = 1.05
TOLERANCE = 0.01
DIED = "The process that compiled it did not live to tell."


class Forward:
    """The forward pass of a network: eager, or compiled for batches of one size, all others staying eager."""

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        self._network = network
        self._batch_size = batch_size
        self._quick: Callable[[Tensor], Any] | None = None
        self.compiled = False

    def switch(self, *, compiled: bool) -> None:
        """From now on compiled, which is done when it is first called and when gradients are first taken, or eager."""
        if compiled and self._quick is None:
            self._quick = torch.compile(self._network, dynamic=False)
        self.compiled = compiled

    def __call__(self, images: Tensor) -> Any:
        """What the network makes of images (N, C, H, W)."""
        if self._quick is not None and self.compiled and len(images) == self._batch_size:
            return self._quick(images)
        return self._network(images)


@dataclass(frozen=True)
class Step:
    """A step that can be tried out: `take` makes the gradients of one batch and returns their loss."""

    network: nn.Module
    forward: Forward
    take: Callable[[], float]
    about: str


@dataclass(frozen=True)
class Compiler:
    """Whether a training is worth a trial, and what earlier trials showed; seconds are of what is left of it."""

    cache: ProbeCache
    worth_seconds: float = WORTH_SECONDS
    tried_after: int = TRIED_AFTER

    def consider(self, step: Step, *, left: float) -> str | None:
        """Compiles the step if that pays, and says so, or why not; None if the training is too short to ask."""
        if left < self.worth_seconds:
            return None
        name, versions = key(step), versions_here()
        finding = self.cache.find(name, versions)
        if finding is None:
            self.cache.keep(Finding.now(name, versions, usable=False, reason=DIED))
            finding = _tried(step, name, versions)
            self.cache.keep(finding)
        if finding.ratio is None or finding.ratio < LEAST_GAIN:
            step.forward.switch(compiled=False)
            return finding.reason
        return compile_again(step) or finding.reason


def compiler(choice: Compilation, device: torch.device, settings: Settings | None = None) -> Compiler | None:
    """What a training is given for this choice: nothing where compiling is off, or on an accelerator."""
    if choice == "off" or device.type != "cpu":
        return None
    return Compiler(ProbeCache((settings or Settings()).home, CACHE_NAME))


def compile_again(step: Step) -> str | None:
    """Compiles a step that was found to be worth it; if that fails it stays eager, and what is said is why."""
    try:
        with _as_before(step.network):
            step.forward.switch(compiled=True)
            step.take()
    except Exception as error:
        step.forward.switch(compiled=False)
        return _failed(error)
    return None


def key(step: Step) -> str:
    """A name for all steps that compile to the same."""
    return "sha256:" + hashlib.sha256(f"{step.network}\n{step.about}".encode()).hexdigest()


def versions_here() -> dict[str, str]:
    """What a trial depends on beside the step."""
    return {"torch": str(torch.__version__), "cpu": processor(), "threads": str(torch.get_num_threads())}


def _tried(step: Step, name: str, versions: dict[str, str]) -> Finding:
    try:
        ratio = float(f"{_gain(step):.3g}")
    except Exception as error:  # a compiler fails in as many ways as there are compilers
        return Finding.now(name, versions, usable=False, reason=_failed(error))
    words = "is kept" if ratio >= LEAST_GAIN else f"is not kept, which takes {LEAST_GAIN:g} times"
    reason = f"A compiled step is {ratio:g} times as fast as one that is not, and {words}."
    return Finding.now(name, versions, usable=True, reason=reason, ratio=ratio)


def _gain(step: Step) -> float:
    """Seconds of an eager step over those of a compiled one; the forward pass is left compiled."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with _as_before(step.network):
        _compare(step)
        for _ in range(ROUNDS):
            for compiled in (False, True):
                step.forward.switch(compiled=compiled)
                began = time.perf_counter()
                step.take()
                seconds[compiled].append(time.perf_counter() - began)
    # Whatever else the machine does only ever makes a step slower.
    return min(seconds[False]) / min(seconds[True])


def _compare(step: Step) -> None:
    """Takes a step of each kind; ArithmeticError unless their losses agree, as far as chance has no part in them."""
    step.forward.switch(compiled=False)
    eager = step.take()
    step.forward.switch(compiled=True)
    compiled = step.take()
    if not any(map(_draws, step.network.modules())) and not math.isclose(
        eager, compiled, rel_tol=TOLERANCE, abs_tol=TOLERANCE
    ):
        raise ArithmeticError(f"its loss is {compiled:.4g}, not {eager:.4g}")


def _draws(module: nn.Module) -> bool:
    """Whether what a module answers in training is left to chance; what is compiled draws other numbers."""
    return (isinstance(module, _DropoutNd) and module.p > 0) or isinstance(module, nn.RReLU)


@contextmanager
def _as_before(network: nn.Module) -> Iterator[None]:
    """At the end of the block the network is as it was: statistics of batch normalisation, and no gradients."""
    undo = undoing(network)
    try:
        yield
    finally:
        undo()


def _failed(error: Exception) -> str:
    words = str(error).strip().splitlines()
    return (
        f"It cannot be compiled here ({type(error).__name__}: {words[0][:150] if words else ''}); it trains as it is."
    )
