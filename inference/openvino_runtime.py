"""OpenVINO, on the CPU and on Intel graphics. Imported by `inference.runtimes`, which forbids its telemetry first."""

from __future__ import annotations

import io
from collections import deque
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import properties

from inference.runtimes import INPUT_NAME, OUTPUT_NAME, Network, Where

TYPES = {"f32": openvino.Type.f32, "f16": openvino.Type.f16}


def compile_graph(graph: bytes, where: Where) -> Network:
    """The network of an ONNX graph."""
    core = where.device.open()
    return OpenVinoNetwork(core.compile_model(core.read_model(graph), where.device.openvino, _settings(where)))


def take_up(blob: bytes, where: Where) -> Network:
    """The network of what `OpenVinoNetwork.blob` gave, by the same version and for the same device."""
    core = where.device.open()
    return OpenVinoNetwork(core.import_model(io.BytesIO(blob), where.device.openvino, _settings(where)))


class OpenVinoNetwork:
    """A compiled model with a pool of requests, since a request serves one thread at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._output = compiled.output(OUTPUT_NAME)
        compiled.input(INPUT_NAME)
        self._idle: deque[Any] = deque()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            request.infer({INPUT_NAME: batch}, share_inputs=True)
            logits: NDArray[np.float32] = request.get_tensor(self._output).data.copy()
        finally:
            self._idle.append(request)
        return logits

    def blob(self) -> bytes:
        """The compiled network, weights and all."""
        file = io.BytesIO()
        self._compiled.export_model(file)
        return file.getvalue()


def _settings(where: Where) -> dict[Any, Any]:
    common = {
        properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
        # Some processors would otherwise compute in bfloat16, and graphics in float16, and miss the golden logits.
        properties.hint.inference_precision: TYPES[where.precision],
    }
    if where.device.name != "cpu":
        return common
    return {**common, properties.inference_num_threads: where.threads}
