"""Where a model can be served: a runtime, a device, and the precision that the device computes in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from inference.devices import Device
from inference.runtimes import RUNTIMES


@dataclass(frozen=True)
class Placement:
    """One way to serve a model."""

    runtime: str
    device: str = "cpu"
    precision: str = "f32"

    @property
    def label(self) -> str:
        """As figures are kept under: the runtime alone on the CPU, as in `openvino:gpu:f16` elsewhere."""
        return self.runtime if self.on_cpu else f"{self.runtime}:{self.device}:{self.precision}"

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"


def placements(devices: Iterable[Device]) -> list[Placement]:
    """All ways to serve a model on these devices, in the order in which they are tried."""
    return [
        Placement(runtime.name, device.name, precision)
        for device in devices
        for runtime in RUNTIMES.values()
        if device.name in runtime.devices
        for precision in device.precisions
    ]
