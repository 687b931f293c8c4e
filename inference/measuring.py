"""How fast a model is served here in each way there is: where it is served is chosen by this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from formats.files import DamagedFiles
from inference.devices import CPU
from inference.gpu import Graphics
from inference.kernel_cache import KernelCache
from inference.latency import Latency, costs_of, latency_of
from inference.models import LoadedModel, load_model
from inference.placements import Placement, placements
from inference.runtimes import RUNTIMES, CannotRun
from inference.trial import DeviceAbsent, TrialDied

SECONDS = 1.2  # of repeats on the CPU in all; loading the model comes on top
# Two measurements of one model differ by as much, and the CPU is the safer of the two.
LEAST_GAIN = 1.05


@dataclass(frozen=True)
class Measurement:
    """The fastest way to serve a model, what every way took, by its label, and why others were skipped."""

    runtime: str
    device: str
    precision: str
    batch_1_p50: float
    batch_8_p50: float | None
    runtimes: dict[str, Latency]
    skipped: dict[str, str]
    chosen_by: str = "measured"

    @property
    def on_cpu(self) -> str:
        """The runtime that is the fastest on the CPU."""
        costs = costs_of({name: self.runtimes[name] for name in self._cpu})
        return min(costs, key=costs.__getitem__)

    @property
    def _cpu(self) -> list[str]:
        return [name for name in RUNTIMES if name in self.runtimes]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def measure(
    directory: Path, *, threads: int = 0, kernels: KernelCache | None = None, graphics: Graphics | None = None
) -> Measurement:
    """Latency from pixels to logits of each runtime on the CPU and, if they are given, on the graphics.

    What fails or disagrees with the golden answers is skipped. The fastest on the CPU is kept compiled in `kernels`.
    CannotRun if nothing is left on the CPU, without which nothing is served; DamagedFiles.
    """
    measured: dict[Placement, Latency] = {}
    skipped: dict[str, str] = {}
    _on_cpu(directory, threads, kernels, measured, skipped)
    if not measured:
        raise CannotRun("No runtime can serve this model. " + " ".join(skipped.values()))
    if graphics is not None:
        _on_graphics(directory, threads, graphics, measured, skipped)
    best = fastest(measured)
    return Measurement(
        runtime=best.runtime,
        device=best.device,
        precision=best.precision,
        batch_1_p50=measured[best].batch_1_p50,
        batch_8_p50=measured[best].batch_8_p50,
        runtimes={placement.label: latency for placement, latency in measured.items()},
        skipped=skipped,
    )


def measure_at(
    directory: Path,
    placement: Placement,
    *,
    threads: int = 0,
    kernels: KernelCache | None = None,
    graphics: Graphics | None = None,
) -> Latency:
    """Latency in one way; CannotRun, GoldenMismatch, DamagedFiles, or TrialFailed on graphics."""
    if placement.on_cpu:
        model = load_model(directory, runtime=placement.runtime, threads=threads, kernels=kernels)
        return latency_of(model, seconds=SECONDS / len(RUNTIMES))
    if graphics is None or graphics.device.name != placement.device:
        raise DeviceAbsent(f"this service does not use the {placement.device}")
    return graphics.try_out(directory, placement, threads=threads, seconds=SECONDS / len(RUNTIMES))


def fastest(measured: Mapping[Placement, Latency]) -> Placement:
    """The fastest for one image and for eight, both counting as much; for one, where eight were too slow to try.

    The CPU unless something else is faster by more than chance.
    """
    costs = costs_of(measured)
    return min(measured, key=lambda placement: costs[placement] * (1 if placement.on_cpu else LEAST_GAIN))


def _on_cpu(
    directory: Path,
    threads: int,
    kernels: KernelCache | None,
    measured: dict[Placement, Latency],
    skipped: dict[str, str],
) -> None:
    best: LoadedModel | None = None
    for placement in placements([CPU]):
        try:
            model = load_model(directory, runtime=placement.runtime, threads=threads)
            measured[placement] = latency_of(model, seconds=SECONDS / len(RUNTIMES))
            best = model if fastest(measured) == placement else best
        except DamagedFiles:
            raise
        except Exception as error:
            skipped[placement.label] = str(error)[:300]
    if best is not None and kernels is not None:
        best.keep_compiled(kernels)


def _on_graphics(
    directory: Path, threads: int, graphics: Graphics, measured: dict[Placement, Latency], skipped: dict[str, str]
) -> None:
    for placement in placements([graphics.device]):
        try:
            measured[placement] = measure_at(directory, placement, threads=threads, graphics=graphics)
        except DeviceAbsent:
            return
        except Exception as error:
            skipped[placement.label] = str(error)[:300]
            if isinstance(error, TrialDied):  # and would again
                return
