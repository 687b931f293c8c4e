"""The outputs that a client may ask for, and the answer that holds them, in JSON or as raw bytes after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.manifest import ModelManifest
from inference.answers import probabilities
from inference.runtimes import OUTPUT_NAME
from service.protocol.documents import count, flag, object_at
from service.protocol.errors import BadRequest
from service.protocol.tensors import BYTES, to_bytes

VERSION = "1"
JSON = partial(json.dumps, allow_nan=False, separators=(",", ":"))

# What there is beside the network's own output is given only when it is named: clients expect one output of a model.
# Each of the logits and the temperature at which they are probabilities.
OUTPUTS: Mapping[str, Callable[[NDArray[np.float32], float], NDArray[np.float32]]] = {
    OUTPUT_NAME: lambda logits, _: logits,
    "probabilities": lambda logits, temperature: probabilities(logits, temperature).astype(np.float32),
}


@dataclass(frozen=True)
class WantedOutput:
    """An output, as raw bytes or in JSON; with `classes`, the names of so many most probable classes instead."""

    name: str
    binary: bool
    classes: int


def default_output(*, binary: bool) -> WantedOutput:
    """What is given to a client who names no output."""
    return WantedOutput(OUTPUT_NAME, binary, classes=0)


def read_output(given: dict[str, Any], *, binary: bool) -> WantedOutput:
    """One of the outputs that a request names; `binary` is what the request says of all."""
    name = given.get("name")
    if not isinstance(name, str) or name not in OUTPUTS:
        raise BadRequest(f"The `name` of an output is one of {', '.join(OUTPUTS)}.")
    parameters = object_at(given, "parameters", "outputs[].parameters")
    if "shared_memory_region" in parameters:
        raise BadRequest("Shared memory is not offered here: outputs come in the body.")
    wanted = flag(parameters, "binary_data", default=binary)
    return WantedOutput(name, wanted, count(parameters, "classification") or 0)


@dataclass(frozen=True)
class Answer:
    """A body; `json_length` is how much of it is JSON, if something follows."""

    body: bytes
    json_length: int | None


def write_answer(
    head: dict[str, Any], outputs: Sequence[WantedOutput], logits: NDArray[np.float32], manifest: ModelManifest
) -> Answer:
    """The answer that holds these outputs of logits (N, classes), after the entries of `head`."""
    entries: list[str] = []
    parts: list[bytes] = []
    for output in outputs:
        entry, raw = _entry(output, _values(output, logits, manifest))
        entries.append(entry)
        parts += raw
    text = f'{JSON(head)[:-1]},"outputs":[{",".join(entries)}]}}'.encode()
    return Answer(b"".join([text, *parts]), len(text)) if parts else Answer(text, None)


def _values(output: WantedOutput, logits: NDArray[np.float32], manifest: ModelManifest) -> NDArray[Any]:
    if output.classes:
        return _classified(logits, manifest, output.classes)
    return OUTPUTS[output.name](logits, manifest.temperature)


def _entry(output: WantedOutput, values: NDArray[Any]) -> tuple[str, list[bytes]]:
    datatype = BYTES if values.dtype.kind == "U" else "FP32"
    entry: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": list(values.shape)}
    if not output.binary:
        # Row by row: other threads have no turn within one.
        rows = ",".join([JSON(row)[1:-1] for row in values.tolist()])
        return f'{JSON(entry)[:-1]},"data":[{rows}]}}', []
    raw = to_bytes(values)
    return JSON({**entry, "parameters": {"binary_data_size": len(raw)}}), [raw]


def _classified(logits: NDArray[np.float32], manifest: ModelManifest, classes: int) -> NDArray[np.str_]:
    """Texts "probability:index:label" (N, classes), most probable first; of equals, the lower index."""
    # By logits, of which fewer are equal: probabilities of next to nothing are all nought.
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :classes]
    best = np.take_along_axis(probabilities(logits, manifest.temperature), order, axis=-1)
    texts = [
        [f"{share:.6f}:{index}:{manifest.classes[index]}" for share, index in zip(*row, strict=True)]
        for row in zip(best.tolist(), order.tolist(), strict=True)
    ]
    return np.array(texts, dtype=np.str_)
