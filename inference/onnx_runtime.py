"""ONNX Runtime on the CPU. Imported through `inference.runtimes`, which forbids its telemetry first."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference.runtimes import INPUT_NAME, OUTPUT_NAME, Network, Where

FATAL = 4


def compile_graph(graph: bytes, where: Where) -> Network:
    """A session over the graph; errors are raised, so nothing is logged."""
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(FATAL)
    session = onnxruntime.InferenceSession(graph, _options(where.threads), providers=["CPUExecutionProvider"])
    if INPUT_NAME not in {value.name for value in session.get_inputs()}:
        raise ValueError(f"the graph has no input {INPUT_NAME}")
    # The session keeps the graph's bytes, weights and all, to build itself anew with other providers. We never do.
    session._model_bytes = None

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        return logits

    return run


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL
    # A spinning pool would take the cores from a training that runs beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
