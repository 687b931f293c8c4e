"""Turn a published model into integers, as accurate as was asked for, and publish the result as its child."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from formats.graphs import GRAPH_NAME, filled_graph
from inference.runtimes import RUNTIMES
from inference.telemetry import forbid_telemetry
from nets.anatomy import Layers, layers_since, shapes_of
from nets.answers import Ask
from nets.figures import Figures
from nets.publishing import publish_quantized, state_arrays
from specs.jobs import QuantizeSpec
from workers.parents import Parent, child_of, load_parent
from workers.publishing import publish_files
from workers.reports import Stages, report_beside
from workers.run import Run
from workers.scores import judge, judge_and_calibrate_as_run

if TYPE_CHECKING:
    from torch import Tensor

    from nets.quantization import Quantized

FLOAT_BITS, INTEGER_BITS = 32, 8


def quantize(run: Run, spec: QuantizeSpec) -> None:
    """The task of a quantize job. It calibrates on training images and chooses by validation images."""
    run.enter("loading")
    parent = load_parent(run, spec.model)
    quantization = _quantization()
    compile_graph = partial(_compiled, run)

    def told(images: int) -> None:
        run.on_files("quantizing", min(images, spec.calibration_images), spec.calibration_images)

    graph = filled_graph((parent.directory / GRAPH_NAME).read_bytes(), state_arrays(parent.network))
    found: Quantized = quantization.quantize(graph, parent.data, spec, compile_graph=compile_graph, told=told)
    run.enter("evaluating")
    ask = compile_graph(found.model.SerializeToString())
    after = judge_and_calibrate_as_run(ask, parent.data)
    training = {**parent.manifest.training, "quantize": spec.model_dump(mode="json")}
    request = child_of(parent, run, "quantized", training=training, judged=after)
    layers = _layers(parent, quantization.integer_layers(parent.network, found.model))
    stages = Stages(judge(parent.network, parent.data, run.on_work), None, after)
    publish_files(
        run,
        partial(publish_quantized, model=found.model, request=request, ask=ask, counts=_counts(parent)),
        request,
        test=after.test,
        result={"drop": round(found.drop, 5), "float_layers": _still_float(layers)},
        report=report_beside(run, stages, layers, parent),
    )


def _quantization() -> Any:
    """The module that knows NNCF, which takes seconds to load, and asks for OpenVINO's telemetry as it does."""
    forbid_telemetry()
    return import_module("nets.quantization")


def _compiled(run: Run, graph: bytes) -> Ask:
    """OpenVINO: it runs integers faster than ONNX Runtime on every network, and depthwise ones three times so."""
    network = RUNTIMES["openvino"].compile(graph, threads=run.settings.inference_threads)

    def ask(images: Tensor) -> Tensor:
        logits = network(np.ascontiguousarray(images.numpy()))
        run.on_work()
        return images.new_tensor(logits)

    return ask


def _counts(parent: Parent) -> Figures:
    manifest = parent.manifest
    return Figures(manifest.parameters, manifest.nonzero_parameters, manifest.macs)


def _layers(parent: Parent, integers: dict[str, float]) -> Layers:
    """The parent's layers, those in integers with their own zeros: small weights round to nought."""
    layers = layers_since(parent.network, shapes_of(parent.network))
    return [
        {
            **layer,
            "zeros": round(integers.get(layer["name"], float(layer["zeros"])), 5),
            "bits": INTEGER_BITS if layer["name"] in integers else FLOAT_BITS,
        }
        for layer in layers
    ]


def _still_float(layers: Layers) -> list[str]:
    return [layer["name"] for layer in layers if layer["bits"] == FLOAT_BITS]
