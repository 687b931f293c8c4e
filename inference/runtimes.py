"""What can run a network. Each runtime is one function, found by an import string.

So a process pays only for the runtime it uses: ONNX Runtime takes 23 MB, OpenVINO 38 MB, before any model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.devices import CPU, Device
from inference.telemetry import forbid_telemetry
from specs.cores import physical_cores
from specs.registry import Registry

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


class CannotRun(RuntimeError):
    """A runtime that is not installed, or does not take this graph."""


@dataclass(frozen=True)
class Where:
    """Where a network is to compute, in which precision (`f32` or `f16`), and with how many threads."""

    device: Device = CPU
    precision: str = "f32"
    threads: int = 1


@dataclass(frozen=True)
class Runtime:
    """One runtime; `target` names a function of (ONNX bytes, Where), `footprint` is memory per byte of the graph.

    `restore` names a function of (bytes, Where) that takes up what a network of this runtime gave as its `blob()`:
    it is compiled already. `package` is what pip calls the runtime, `devices` are where it can compute.
    """

    name: str
    title: str
    target: str
    footprint: float
    package: str
    devices: tuple[str, ...] = ("cpu",)
    restore: str | None = None

    def compile(self, graph: bytes, *, threads: int, device: Device = CPU, precision: str = "f32") -> Network:
        """A function of float32 (N, C, H, W) to float32 logits (N, classes), for any N and from any thread.

        `threads` 0 is one for each physical core. Raises CannotRun.
        """
        return self._made(self.target, graph, Where(device, precision, threads or physical_cores()))

    def take_up(self, blob: bytes, *, threads: int, device: Device = CPU, precision: str = "f32") -> Network:
        """The same function, from what `blob()` of one of the same kind gave; raises CannotRun."""
        if self.restore is None:
            raise CannotRun(f"{self.title} keeps nothing compiled")
        return self._made(self.restore, blob, Where(device, precision, threads or physical_cores()))

    def preload(self) -> None:
        """Loads the runtime's own code, so that the first model need not wait for it; raises CannotRun."""
        forbid_telemetry()
        try:
            import_module(self.target.partition(":")[0])
        except Exception as error:
            raise CannotRun(f"{self.title} cannot be loaded: {str(error)[:300]}") from error

    @property
    def version(self) -> str:
        """The installed version, without loading it; empty if there is none."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return ""

    def _made(self, target: str, data: bytes, where: Where) -> Network:
        forbid_telemetry()
        try:
            make: Any = resolve_name(target)
            network: Network = make(data, where)
        except Exception as error:
            raise CannotRun(f"{self.title} cannot run this model: {str(error)[:300]}") from error
        return network


def blob_of(network: Network) -> bytes | None:
    """What a network can be taken up from without being compiled again; None if its runtime has no such thing."""
    give = getattr(network, "blob", None)
    try:
        return None if give is None else bytes(give())
    except Exception:  # a device may refuse; then the next load compiles
        return None


# The first is the default: it loads faster and keeps one copy of the weights, where OpenVINO keeps two.
RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    [
        Runtime("onnxruntime", "ONNX Runtime", "inference.onnx_runtime:compile_graph", 1.1, "onnxruntime"),
        Runtime(
            "openvino",
            "OpenVINO",
            "inference.openvino_runtime:compile_graph",
            2.1,
            "openvino",
            devices=("cpu", "gpu"),
            restore="inference.openvino_runtime:take_up",
        ),
    ],
)
