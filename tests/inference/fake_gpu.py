"""Graphics that are not there: OpenVINO's CPU under the name GPU, which computes right, or fails in one of many ways.

`fake(behaviour)` is a device like any other; the process of a trial finds its core by the import string too.
A fault that is to come later, while serving, is set in `LATER`, which other processes do not see; nor do they add to
`CALLS`, which counts how networks came to be.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import numpy as np

from inference.devices import Device

LATER: dict[str, Any] = {}
CALLS: Counter[str] = Counter()
STEP = 2e-3  # about what float16 is off by


def fake(behaviour: str, **changes: Any) -> Device:
    core = f"tests.inference.fake_gpu:{behaviour}"
    return Device("gpu", "made up", "GPU", precisions=("f32", "f16"), core=core, **{"trial_seconds": 20.0, **changes})


class Core:
    """What the runtime asks of `openvino.Core`; `alter` changes the logits of each call."""

    def __init__(self, alter: Any, *, names: tuple[str, ...] = ("CPU", "GPU")) -> None:
        import openvino  # noqa: PLC0415 - as the runtime does, only when it is asked for

        self._core = openvino.Core()
        self._alter = alter
        self.available_devices = list(names)

    def get_property(self, _device: str, name: str) -> Any:
        return self._core.get_property("CPU", name)

    def read_model(self, graph: bytes) -> Any:
        return self._core.read_model(graph)

    def compile_model(self, model: Any, _device: str, settings: dict[Any, Any]) -> Any:
        CALLS["compile"] += 1
        return Compiled(self._core.compile_model(model, "CPU", {**settings, **FLOAT}), self._alter, settings)

    def import_model(self, blob: Any, _device: str, settings: dict[Any, Any]) -> Any:
        CALLS["import"] += 1
        return Compiled(self._core.import_model(blob, "CPU", {**settings, **FLOAT}), self._alter, settings)


FLOAT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


class Compiled:
    def __init__(self, compiled: Any, alter: Any, settings: dict[Any, Any]) -> None:
        self._compiled = compiled
        self._alter = alter
        self._half = any("f16" in str(value) or "float16" in str(value) for value in settings.values())

    def output(self, name: str) -> Any:
        return self._compiled.output(name)

    def input(self, name: str) -> Any:
        return self._compiled.input(name)

    def export_model(self, file: Any) -> None:
        self._compiled.export_model(file)

    def create_infer_request(self) -> Any:
        return Request(self._compiled.create_infer_request(), self._alter, half=self._half)


class Request:
    def __init__(self, request: Any, alter: Any, *, half: bool) -> None:
        self._request = request
        self._alter = alter
        self._half = half

    def infer(self, inputs: Any, *, share_inputs: bool) -> None:
        self._request.infer(inputs, share_inputs=share_inputs)

    def get_tensor(self, output: Any) -> Any:
        logits = self._request.get_tensor(output).data.copy()
        return Tensor(LATER.get("alter", self._alter)(logits, self._half))


class Tensor:
    def __init__(self, data: Any) -> None:
        self.data = data


def _off(logits: Any, share: float) -> Any:
    return (logits + share * np.abs(logits).max()).astype(np.float32)


def right() -> Core:
    return Core(lambda logits, _half: logits)


def rounding() -> Core:
    """As float16 does: a little off in half precision, and right in single."""
    return Core(lambda logits, half: _off(logits, STEP if half else 0))


def sloppy() -> Core:
    """Off by what half precision may be, in single precision."""
    return Core(lambda logits, _half: _off(logits, STEP))


def wrong() -> Core:
    return Core(lambda logits, _half: -logits)


def half_wrong() -> Core:
    return Core(lambda logits, half: -logits if half else logits)


def no_numbers() -> Core:
    return Core(lambda logits, _half: logits * np.float32("nan"))


def raises() -> Core:
    def alter(_logits: Any, _half: bool) -> Any:
        raise RuntimeError("[GPU] clEnqueueNDRangeKernel, error code: -5 CL_OUT_OF_RESOURCES")

    return Core(alter)


def hangs() -> Core:
    def alter(_logits: Any, _half: bool) -> Any:
        time.sleep(600)

    return Core(alter)


def crashes() -> Core:
    def alter(_logits: Any, _half: bool) -> Any:
        os.abort()

    return Core(alter)


def exits() -> Core:
    def alter(_logits: Any, _half: bool) -> Any:
        os._exit(7)

    return Core(alter)


def absent() -> Core:
    return Core(lambda logits, _half: logits, names=("CPU",))
