"""What a client asks of `infer`: one input tensor, and which outputs it wants in which form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from inference.runtimes import INPUT_NAME
from service.protocol.documents import count, flag, object_at, read_object
from service.protocol.errors import BadRequest
from service.protocol.outputs import WantedOutput, default_output, read_output
from service.protocol.tensors import BYTES, DATATYPES, Shape, Values, from_bytes, from_json, read_shape

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_DIGITS = 12


@dataclass(frozen=True)
class Tensor:
    """An input: numbers of this shape, or the bytes of each of its elements."""

    datatype: str
    shape: Shape
    values: Values


@dataclass(frozen=True)
class InferRequest:
    """A request for predictions; `id` comes back with the answer."""

    id: str | None
    tensor: Tensor
    outputs: tuple[WantedOutput, ...]


def read_request(body: bytes, header_length: str | None, *, max_images: int) -> InferRequest:
    """The request in a body: JSON, and raw values after it where a header says how long the JSON is."""
    end = _json_length(header_length, len(body))
    content = read_object(body[:end])
    parameters = object_at(content, "parameters", "parameters")
    wanted = _listed([] if content.get("outputs") is None else content["outputs"], "outputs")
    binary = flag(parameters, "binary_data_output", default=False)
    outputs = tuple(read_output(output, binary=binary) for output in wanted) or (default_output(binary=binary),)
    if len({output.name for output in outputs}) < len(outputs):
        raise BadRequest("`outputs` names an output twice.")
    return InferRequest(_id(content), _only_input(content, memoryview(body)[end:], max_images), outputs)


def _json_length(header_length: str | None, body_length: int) -> int:
    if header_length is None:
        return body_length
    text = header_length.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS) or int(text) > body_length:
        raise BadRequest(f"{HEADER_LENGTH} is the length of the JSON at the beginning of the body, in bytes.")
    return int(text)


def _id(content: dict[str, Any]) -> str | None:
    given = content.get("id")
    if given is None or isinstance(given, str):
        return given
    raise BadRequest("`id` is a string.")


def _listed(value: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"`{place}` is a list of objects.")
    return value


def _only_input(content: dict[str, Any], raw: memoryview, max_images: int) -> Tensor:
    inputs = _listed(content.get("inputs"), "inputs")
    if len(inputs) != 1 or inputs[0].get("name") != INPUT_NAME:
        raise BadRequest(f"`inputs` holds one input, and its `name` is `{INPUT_NAME}`.")
    given = inputs[0]
    datatype = given.get("datatype")
    if datatype not in DATATYPES:
        raise BadRequest(f"The `datatype` of the input is one of {', '.join(DATATYPES)}.")
    shape = _shape(given, datatype, max_images)
    data = _raw_of(given, raw)
    values = from_json(given["data"], datatype, shape) if data is None else from_bytes(data, datatype, shape)
    return Tensor(datatype, shape, values)


def _shape(given: dict[str, Any], datatype: str, max_images: int) -> Shape:
    """The input's shape, looked at before its values are."""
    shape = read_shape(given.get("shape"))
    if shape[0] > max_images:
        raise BadRequest(f"A request has at most {max_images} images.")
    if datatype == BYTES and math.prod(shape) != shape[0]:
        raise BadRequest("The shape of a BYTES input is [N]: one element for each image.")
    return shape


def _raw_of(given: dict[str, Any], raw: memoryview) -> memoryview | None:
    """The input's bytes after the JSON: all of them, since it is the only one. None if its values are in the JSON."""
    parameters = object_at(given, "parameters", "inputs[0].parameters")
    if "shared_memory_region" in parameters:
        raise BadRequest("Shared memory is not offered here: send the values in the body.")
    size = count(parameters, "binary_data_size")
    if given.get("data") is not None:
        if size or raw:
            raise BadRequest("The values of the input are in `data` or after the JSON, not in both.")
        return None
    if size is None and not raw:
        raise BadRequest(f"The input has no values: send `data`, or raw bytes after the JSON with {HEADER_LENGTH}.")
    if size is not None and size != len(raw):
        raise BadRequest("The bytes after the JSON are not as many as `binary_data_size` says.")
    return raw
