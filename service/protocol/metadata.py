"""What the service and its models say of themselves: metadata, the configuration of a model, its statistics."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from inference.models import LoadedModel
from inference.runtimes import INPUT_NAME, OUTPUT_NAME
from inference.statistics import Duration, ModelStatistics
from service.protocol.outputs import VERSION

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "statistics",
]
# As the field names them; a runtime that is not here goes by its own name.
PLATFORMS = {"onnxruntime": "onnxruntime_onnx"}


def server_metadata() -> dict[str, Any]:
    """The service and the extensions of the protocol that it speaks."""
    return {"name": "pruneyard", "version": version("pruneyard"), "extensions": EXTENSIONS}


def model_metadata(name: str, model: LoadedModel) -> dict[str, Any]:
    """Of a model under the name that the client uses; shapes count the batch, whose size is free (-1)."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": _platform(model),
        "inputs": [{"name": INPUT_NAME, "datatype": "FP32", "shape": [-1, *_image_dims(model)]}],
        "outputs": [{"name": OUTPUT_NAME, "datatype": "FP32", "shape": [-1, len(model.manifest.classes)]}],
    }


def model_config(name: str, model: LoadedModel, *, max_images: int) -> dict[str, Any]:
    """As Triton's ModelConfig, in JSON; dims are without the batch. `parameters` say how to prepare an image."""
    image = {"data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": _image_dims(model)}
    logits = {"data_type": "TYPE_FP32", "dims": [len(model.manifest.classes)]}
    return {
        "name": name,
        "platform": _platform(model),
        "backend": model.runtime,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_images,
        "input": [{"name": INPUT_NAME, **image}],
        "output": [{"name": OUTPUT_NAME, **logits}],
        "parameters": {key: {"string_value": value} for key, value in _preparation(model).items()},
    }


def _image_dims(model: LoadedModel) -> list[int]:
    rule = model.manifest.preprocessing
    return [rule.channels, rule.image_size, rule.image_size]


def _platform(model: LoadedModel) -> str:
    return PLATFORMS.get(model.runtime, model.runtime)


def _preparation(model: LoadedModel) -> dict[str, str]:
    """(pixel / 255 - mean) / std, a channel each, of pixels of this size; probabilities are the softmax of
    logits / temperature.
    """
    rule = model.manifest.preprocessing
    return {
        "model": model.manifest.id,
        "image_size": str(rule.image_size),
        "channels": "RGB" if rule.channels == 3 else "grey",
        "mean": json.dumps(rule.mean),
        "std": json.dumps(rule.std),
        "temperature": str(model.manifest.temperature),
    }


def model_statistics(name: str, statistics: ModelStatistics) -> dict[str, Any]:
    """What a model has done since the service started. No answer comes from a cache, so none is counted there."""
    stages = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "name": name,
        "version": VERSION,
        "last_inference": statistics.last_inference,
        "inference_count": statistics.inference_count,
        "execution_count": statistics.execution_count,
        "inference_stats": {
            **{stage: _duration(getattr(statistics, stage)) for stage in stages},
            "cache_hit": _duration(Duration()),
            "cache_miss": _duration(Duration()),
        },
        "batch_stats": [_batch(size, spent) for size, spent in sorted(statistics.batches.items())],
    }


def _batch(size: int, spent: Duration) -> dict[str, Any]:
    """Only the network itself is timed by size of batch: what is before and after it belongs to requests."""
    return {
        "batch_size": size,
        "compute_input": _duration(Duration()),
        "compute_infer": _duration(spent),
        "compute_output": _duration(Duration()),
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
