"""What can run a network. Each runtime is one function, found by an import string.

So a process pays only for the runtime it uses: ONNX Runtime takes 23 MB, OpenVINO 38 MB, before any model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import psutil
from numpy.typing import NDArray

from inference.telemetry import forbid_telemetry
from specs.registry import Registry

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


class CannotRun(RuntimeError):
    """A runtime that is not installed, or does not take this graph."""


@dataclass(frozen=True)
class Runtime:
    """One runtime; `target` names a function of (ONNX bytes, threads), `footprint` is memory per byte of the graph."""

    name: str
    title: str
    target: str
    footprint: float

    def compile(self, graph: bytes, *, threads: int) -> Network:
        """A function of float32 (N, C, H, W) to float32 logits (N, classes), for any N and from any thread.

        `threads` 0 is one for each physical core. Raises CannotRun.
        """
        forbid_telemetry()
        module, _, function = self.target.partition(":")
        try:
            network: Network = getattr(import_module(module), function)(graph, threads or physical_cores())
        except Exception as error:
            raise CannotRun(f"{self.title} cannot run this model: {str(error)[:300]}") from error
        return network


def physical_cores() -> int:
    """Physical cores that this process may use, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


# The first is the default: it loads faster and keeps one copy of the weights, where OpenVINO keeps two.
RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    [
        Runtime("onnxruntime", "ONNX Runtime", "inference.onnx_runtime:compile_graph", footprint=1.1),
        Runtime("openvino", "OpenVINO", "inference.openvino_runtime:compile_graph", footprint=2.1),
    ],
)
