"""OpenVINO on the CPU. Imported through `inference.runtimes`, which forbids its telemetry first."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import properties

from inference.runtimes import INPUT_NAME, OUTPUT_NAME, Network


def compile_graph(graph: bytes, threads: int) -> Network:
    """A compiled model with a pool of requests, since a request serves one thread at a time."""
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", _settings(threads))
    output = compiled.output(OUTPUT_NAME)
    compiled.input(INPUT_NAME)
    idle: deque[Any] = deque()

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            request.infer({INPUT_NAME: batch}, share_inputs=True)
            logits: NDArray[np.float32] = request.get_tensor(output).data.copy()
        finally:
            idle.append(request)
        return logits

    return run


def _settings(threads: int) -> dict[Any, Any]:
    return {
        properties.inference_num_threads: threads,
        properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
        # Some processors would otherwise compute in bfloat16 and miss the golden logits.
        properties.hint.inference_precision: openvino.Type.f32,
    }
