"""The graphics chip, as one process uses it: with suspicion.

A model is tried on it in another process first, and is brought up here only if it agreed there. Until it is up, and
from the first fault on, the CPU answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from formats.manifest import Preprocessing
from inference.devices import GPU, Device
from inference.guarded import Guarded
from inference.kernel_cache import KernelCache
from inference.latency import Latency
from inference.models import LoadedModel, load_model, read_stored
from inference.placements import Placement
from inference.runtimes import RUNTIMES, Network
from inference.trial import Order, try_out

# To know what a call should take; it has been measured for longer when the model was published.
BRIEF_SECONDS = 0.2
ROUNDING = 1.001


@dataclass(frozen=True)
class DeviceFault:
    """The graphics failed for a model; if `lasting`, they are not used by this process again, for any model."""

    model: str
    placement: Placement
    reason: str
    lasting: bool


class Graphics:
    """The graphics of this machine for one process. `told` hears of faults, on whichever thread met them."""

    def __init__(
        self,
        device: Device = GPU,
        *,
        kernels: KernelCache | None = None,
        told: Callable[[DeviceFault], None] = lambda _: None,
    ) -> None:
        self.device = device
        self._kernels = kernels
        self._told = told
        self._lock = threading.Lock()
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why this process has given the graphics up; None if it has not."""
        return self._failure

    def try_out(self, directory: Path, placement: Placement, *, threads: int, seconds: float) -> Latency:
        """Tries a model in another process; raises as `inference.trial.try_out` does."""
        kernels = self._kernels
        order = Order(
            directory=str(directory.absolute()),
            placement=placement,
            device=self.device,
            threads=threads,
            seconds=seconds,
            kernels=None if kernels is None else str(kernels.folder.absolute()),
            kernel_bytes=0 if kernels is None else kernels.capacity_bytes,
        )
        return try_out(order)

    def guard(self, safe: LoadedModel, directory: Path, placement: Placement, *, threads: int) -> LoadedModel:
        """The model on the graphics, as soon as it is up there; `safe`, on the CPU, answers where they do not."""
        model = safe.manifest.id

        def bring_up() -> tuple[Network, float]:
            latency = self.try_out(directory, placement, threads=threads, seconds=BRIEF_SECONDS)
            loaded = read_stored(directory).load(
                RUNTIMES[placement.runtime],
                threads=threads,
                device=self.device,
                precision=placement.precision,
                kernels=self._kernels,
            )
            return loaded.network, latency.batch_1_p50

        network = Guarded(
            safe.network,
            bring_up,
            call_seconds=self.device.call_seconds,
            up_seconds=2 * self.device.trial_seconds,
            usable=lambda: self._failure is None,
            on_failure=lambda reason: self._told(DeviceFault(model, placement, reason, lasting=False)),
            on_fault=lambda reason: self._give_up(DeviceFault(model, placement, reason, lasting=True)),
            largest=_largest(safe.manifest.preprocessing),
        )
        return replace(
            safe,
            network=network,
            runtime=placement.runtime,
            device=self.device,
            precision=placement.precision,
            bytes=2 * safe.bytes,  # the chip's memory is the machine's
            prompt=False,
        )

    def _give_up(self, fault: DeviceFault) -> None:
        with self._lock:
            first, self._failure = self._failure is None, self._failure or fault.reason
        if first:
            self._told(fault)


def _largest(rule: Preprocessing) -> float:
    """How far from nought a pixel may lie once it is normalised."""
    normalised = ((level - mean) / std for mean, std in zip(rule.mean, rule.std, strict=True) for level in (0, 1))
    return max(map(abs, normalised)) * ROUNDING


def load_placed(
    directory: Path,
    placement: Placement | None,
    *,
    threads: int = 0,
    kernels: KernelCache | None = None,
    graphics: Graphics | None = None,
    on_cpu: str | None = None,
) -> LoadedModel:
    """The model of a directory where it is to be served; wherever that fails, in the runtime `on_cpu` on the CPU.

    Without a placement, in the first runtime that runs it and agrees. Raises as `inference.models.load_model` does, for
    the CPU; what the graphics do wrong is no error.
    """
    if placement is None or placement.on_cpu:
        runtime = None if placement is None else placement.runtime
        return load_model(directory, runtime=runtime, threads=threads, kernels=kernels)
    safe = load_model(directory, runtime=on_cpu, threads=threads, kernels=kernels)
    if graphics is None or graphics.failure is not None or placement.device != graphics.device.name:
        return safe
    return graphics.guard(safe, directory, placement, threads=threads)
