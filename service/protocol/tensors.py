"""Tensors as the protocol writes them: in JSON, nested or flat, or as raw bytes after it.

Raw values are little-endian and row-major, without padding. Each element of a BYTES tensor is 4 bytes of
length and then so many bytes.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.protocol.errors import BadRequest

Shape = tuple[int, ...]
Values = NDArray[Any] | list[bytes]

BYTES = "BYTES"
LENGTH = struct.Struct("<I")
MAX_RANK = 8


@dataclass(frozen=True)
class NumberType:
    """A datatype of numbers; `spelled` are the types that JSON may write them with."""

    dtype: np.dtype[Any]
    spelled: frozenset[type]


NUMBERS = {
    "FP32": NumberType(np.dtype("<f4"), frozenset({int, float})),
    "UINT8": NumberType(np.dtype("u1"), frozenset({int})),
}
DATATYPES = (*NUMBERS, BYTES)


def read_shape(value: Any) -> Shape:
    """A list of sizes, each 1 or more."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_RANK:
        raise BadRequest(f"`shape` is a list of 1 to {MAX_RANK} sizes.")
    if any(type(size) is not int or size < 1 for size in value):
        raise BadRequest("Each size in `shape` is a whole number, 1 or more.")
    return tuple(value)


def from_json(data: Any, datatype: str, shape: Shape) -> Values:
    """The values of `data`; texts of a BYTES tensor are base64, which is what JSON can hold of a file."""
    flat = _flattened(data, shape)
    if datatype == BYTES:
        return [_from_base64(text) for text in flat]
    number = NUMBERS[datatype]
    if not set(map(type, flat)) <= number.spelled:
        raise BadRequest(f"`data` of an {datatype} tensor holds numbers of that type only.")
    try:
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            return np.array(flat, dtype=number.dtype).reshape(shape)
    except OverflowError:
        raise BadRequest(f"`data` holds numbers that {datatype} has no room for.") from None


def from_bytes(buffer: memoryview, datatype: str, shape: Shape) -> Values:
    """The values of raw bytes; they must be as many as the shape says."""
    if datatype == BYTES:
        return _split(buffer, math.prod(shape))
    number = NUMBERS[datatype]
    if math.prod(shape) * number.dtype.itemsize != len(buffer):
        raise BadRequest("The tensor's bytes are not as many as its `shape` and `datatype` say.")
    return np.frombuffer(buffer, dtype=number.dtype).reshape(shape)


def to_bytes(values: NDArray[Any]) -> bytes:
    """Numbers, or texts, as raw bytes."""
    if values.dtype.kind != "U":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"".join(_with_length(text.encode()) for text in values.ravel().tolist())


def _with_length(element: bytes) -> bytes:
    return LENGTH.pack(len(element)) + element


def _flattened(data: Any, shape: Shape) -> list[Any]:
    """All values in rows, of a list that is flat already or nested as the shape says."""
    if not isinstance(data, list):
        raise BadRequest("A tensor's `data` is a list.")
    if not data or type(data[0]) is not list:
        return _checked_flat(data, shape)
    level: list[Any] = [data]
    for size in shape:
        if not _are_lists_of(size, level):
            raise BadRequest("`data` is not nested as `shape` says.")
        level = list(chain.from_iterable(level))
    return level


def _checked_flat(data: list[Any], shape: Shape) -> list[Any]:
    if len(data) != math.prod(shape):
        raise BadRequest("`data` does not hold as many values as `shape` says.")
    return data


def _are_lists_of(size: int, level: Sequence[Any]) -> bool:
    return set(map(type, level)) == {list} and set(map(len, level)) == {size}


def _from_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        hint = "In JSON, each element of a BYTES tensor is an image file in base64, without line breaks and prefix."
        raise BadRequest(hint) from None


def _split(buffer: memoryview, count: int) -> list[bytes]:
    elements = list(_elements(buffer, count))
    if sum(map(len, elements)) + count * LENGTH.size != len(buffer):
        raise BadRequest("The tensor holds more bytes than its elements.")
    return elements


def _elements(buffer: memoryview, count: int) -> Iterable[bytes]:
    start = 0
    for _ in range(count):
        after = start + LENGTH.size
        if after > len(buffer):
            raise BadRequest("The BYTES tensor holds fewer elements than its `shape` says.")
        (length,) = LENGTH.unpack(buffer[start:after])
        start = after + length
        if start > len(buffer):
            raise BadRequest("An element of the BYTES tensor is longer than the tensor.")
        yield bytes(buffer[after:start])
