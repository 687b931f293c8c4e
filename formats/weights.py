"""Named tensors as one file: dense, or sparse for pruned networks. Both are safetensors files; neither is pickle.

Sparse coding, lossless. All float32 tensors, in the order of the header, are seen as one row of 32-bit words:
`mask` is one bit a word (set where the word is not zero), packed, under zstd;
`values` are the words that are not zero, their first bytes first, then their second bytes and so on, under zstd
(bytes of one place resemble each other: exponents compress, mantissas do not).
Tensors of other types follow as they are, under zstd, in `rest`.
A word is zero only if all its bits are: -0.0 is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zstandard
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from formats.files import DamagedFiles

Tensors = Mapping[str, NDArray[Any]]
Coding = Literal["dense", "sparse-1"]

DENSE_NAME = "weights.safetensors"
SPARSE_NAME = "weights.sparse.safetensors"
LEVEL = 19
MAX_BYTES = 1 << 34


def write_dense(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """A plain safetensors file."""
    save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path, dict(metadata or {}))


def write_sparse(path: Path, tensors: Tensors) -> None:
    """A file in the sparse coding at the top of this module."""
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    words = [tensor.reshape(-1).view(np.uint32) for tensor in ordered.values() if tensor.dtype == np.float32]
    row = np.concatenate(words) if words else np.zeros(0, np.uint32)
    set_words = row != 0
    shuffled = row[set_words].view(np.uint8).reshape(-1, 4).T
    rest = b"".join(tensor.tobytes() for tensor in ordered.values() if tensor.dtype != np.float32)
    header = [[name, tensor.dtype.str, list(tensor.shape)] for name, tensor in ordered.items()]
    save_file(
        {
            "mask": _compress(np.packbits(set_words).tobytes()),
            "values": _compress(np.ascontiguousarray(shuffled).tobytes()),
            "rest": _compress(rest),
        },
        path,
        {"coding": "sparse-1", "tensors": json.dumps(header), "nonzero": str(int(set_words.sum()))},
    )


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file that `write_dense` or `write_sparse` made; DamagedFiles if it is neither."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if metadata.get("coding") != "sparse-1":
            return dict(load_file(path))
        return _read_sparse(load_file(path), metadata)
    except (SafetensorError, zstandard.ZstdError, KeyError, TypeError, ValueError) as error:
        raise DamagedFiles(f"{path.name} cannot be read: {error}") from error


def _compress(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zstandard.ZstdCompressor(level=LEVEL).compress(data), dtype=np.uint8)


def _decompress(blob: NDArray[np.uint8], expected: int) -> NDArray[np.uint8]:
    """Exactly `expected` bytes, or an error: what a frame says of its own size is not believed."""
    if expected > MAX_BYTES:
        raise ValueError(f"{expected} bytes of weights are more than can be read")
    with zstandard.ZstdDecompressor().stream_reader(blob.tobytes()) as reader:
        data = reader.read(expected + 1)
    if len(data) != expected:
        raise ValueError("the data is not as long as its header says")
    return np.frombuffer(data, dtype=np.uint8)


def _read_sparse(blobs: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    header = [(str(name), np.dtype(kind), tuple(int(n) for n in shape)) for name, kind, shape in _header(metadata)]
    count = sum(math.prod(shape) for _, kind, shape in header if kind == np.float32)
    row = _row(blobs, count=count, nonzero=int(metadata["nonzero"]))
    rest_size = sum(kind.itemsize * math.prod(shape) for _, kind, shape in header if kind != np.float32)
    rest = _decompress(blobs["rest"], rest_size)
    tensors: dict[str, NDArray[Any]] = {}
    word = byte = 0
    for name, kind, shape in header:
        size = math.prod(shape)
        if kind == np.float32:
            tensors[name] = row[word : word + size].view(np.float32).reshape(shape)
            word += size
        else:
            tensors[name] = rest[byte : byte + size * kind.itemsize].view(kind).reshape(shape)
            byte += size * kind.itemsize
    return tensors


def _header(metadata: Mapping[str, str]) -> list[list[Any]]:
    header = json.loads(metadata["tensors"])
    if not isinstance(header, list) or any(min(shape, default=0) < 0 for _, _, shape in header):
        raise ValueError("the header does not list tensors")
    return header


def _row(blobs: Mapping[str, NDArray[Any]], *, count: int, nonzero: int) -> NDArray[np.uint32]:
    packed = _decompress(blobs["mask"], (count + 7) // 8)
    set_words = np.unpackbits(packed, count=count).astype(bool)
    shuffled = _decompress(blobs["values"], 4 * nonzero).reshape(4, nonzero)
    row = np.zeros(count, dtype=np.uint32)
    row[set_words] = np.ascontiguousarray(shuffled.T).view(np.uint32).reshape(-1)
    return row
