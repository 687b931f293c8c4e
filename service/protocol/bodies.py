"""How the bodies of requests look in OpenAPI, with examples; the tests send each of them."""

from __future__ import annotations

from typing import Any

from service import deadlines
from service.examples import PNG_BASE64
from service.protocol.requests import HEADER_LENGTH

PNG_TENSOR = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [PNG_BASE64]}
# The pixels of the same nought.
PIXELS = [
    *(0, 0, 80, 207, 143, 16, 0, 0, 0, 0, 207, 239, 159, 239, 80, 0),
    *(0, 48, 239, 32, 0, 175, 128, 0, 0, 64, 191, 0, 0, 128, 128, 0),
    *(0, 80, 128, 0, 0, 143, 128, 0, 0, 64, 175, 0, 16, 191, 112, 0),
    *(0, 32, 223, 80, 159, 191, 0, 0, 0, 0, 96, 207, 159, 0, 0, 0),
]

INFER: dict[str, Any] = {
    "an image file": {"summary": "A PNG file in base64; the answer is logits", "value": {"inputs": [PNG_TENSOR]}},
    "three most probable classes": {
        "summary": "The same, answered with the three most probable classes",
        "value": {
            "id": "42",
            "inputs": [PNG_TENSOR],
            "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}],
        },
    },
    "pixels": {
        "summary": "Pixels of one grey image, 8 x 8; the answer is probabilities",
        "value": {
            "inputs": [{"name": "images", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": PIXELS}],
            "outputs": [{"name": "probabilities"}],
        },
    },
}
LOAD: dict[str, Any] = {"no configuration": {"value": {}}}
UNLOAD: dict[str, Any] = {"as Triton's client": {"value": {"parameters": {"unload_dependents": False}}}}
INDEX: dict[str, Any] = {
    "all models": {"value": {}},
    "those in memory": {"value": {"ready": True}},
}

PARAMETERS = {"type": "object", "description": "Strings, numbers and flags by name; unknown ones are passed over."}
SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 1}}
INPUT = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"const": "images"},
        "shape": SHAPE,
        "datatype": {"enum": ["FP32", "UINT8", "BYTES"]},
        "parameters": PARAMETERS,
        "data": {"type": "array", "items": {}, "description": "Nested as `shape` says, or flat."},
    },
}
OUTPUT = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"enum": ["logits", "probabilities"]}, "parameters": PARAMETERS},
}
INFER_SCHEMA = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": PARAMETERS,
        "inputs": {"type": "array", "items": INPUT, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": OUTPUT},
    },
}
REQUEST_SCHEMA = {"type": "object", "properties": {"parameters": PARAMETERS}}
INDEX_SCHEMA = {"type": "object", "properties": {"ready": {"type": "boolean"}}}


def described(schema: dict[str, Any], examples: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    """The entries of an operation for a body that the route reads by itself."""
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": required, "content": content}}


def described_infer() -> dict[str, Any]:
    """The same for `infer`, whose body may go on after the JSON."""
    operation = described(INFER_SCHEMA, INFER, required=True)
    raw = {"schema": {"type": "string", "format": "binary"}}
    operation["requestBody"]["content"]["application/octet-stream"] = raw
    description = "Of the JSON at the beginning of the body, in bytes, where raw tensors follow it."
    header = {"name": HEADER_LENGTH, "in": "header", "description": description, "schema": {"type": "integer"}}
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return {**operation, "parameters": [model, header, deadlines.PARAMETER]}
