"""Named tensors as one file: dense, or sparse for pruned networks. Both are safetensors files; neither is pickle.

Sparse coding, lossless. All float32 tensors, in the order of the header, are seen as one row of 32-bit words:
`mask` is one bit a word (set where the word is not zero), packed, under zstd;
`values` are the words that are not zero, their first bytes first, then their second bytes and so on, each place a
frame of zstd (bytes of one place resemble each other: exponents compress, mantissas do not).
All int8 tensors are a row of bytes, coded in the same way as `mask8` and `values8`.
Tensors of other types follow as they are, under zstd, in `rest`.
`header` is JSON under zstd: of each tensor its name, its type and its shape, in the order of names.
A word is zero only if all its bits are: -0.0 is kept.

This is `sparse-2`. Files of `sparse-1`, which are read too, have all values in one frame and their header in the
metadata.
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
Coding = Literal["dense", "sparse-1", "sparse-2"]
SPARSE: Coding = "sparse-2"  # what `write_sparse` writes

DENSE_NAME = "weights.safetensors"
SPARSE_NAME = "weights.sparse.safetensors"
LEVEL = 19
# What is coded by its zeros: the type, what ends the names of its two parts, and what its words are read as.
ROWS: tuple[tuple[type[np.generic], str, type[np.generic]], ...] = (
    (np.float32, "", np.uint32),
    (np.int8, "8", np.uint8),
)
CODED = tuple(np.dtype(kind) for kind, _, _ in ROWS)
MAX_BYTES = 1 << 34
MAX_HEADER_BYTES = 1 << 26


def write_dense(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """A plain safetensors file."""
    save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path, dict(metadata or {}))


def write_sparse(path: Path, tensors: Tensors) -> None:
    """A file in the sparse coding at the top of this module."""
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    header = json.dumps([[name, tensor.dtype.str, list(tensor.shape)] for name, tensor in ordered.items()]).encode()
    metadata: dict[str, str] = {"coding": SPARSE, "header": str(len(header))}
    blobs = {"header": _compress(header)}
    for kind, suffix, word in ROWS:
        words = [tensor.reshape(-1).view(word) for tensor in ordered.values() if tensor.dtype == kind]
        if words:
            coded, nonzero = _coded(np.concatenate(words))
            blobs |= {f"{part}{suffix}": blob for part, blob in coded.items()}
            metadata[f"nonzero{suffix}"] = str(nonzero)
    blobs["rest"] = _compress(b"".join(tensor.tobytes() for tensor in ordered.values() if tensor.dtype not in CODED))
    save_file(blobs, path, metadata)


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file that `write_dense` or `write_sparse` made; DamagedFiles if it is neither."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if metadata.get("coding") not in {"sparse-1", SPARSE}:
            return dict(load_file(path))
        return _read_sparse(load_file(path), metadata)
    except (SafetensorError, zstandard.ZstdError, KeyError, TypeError, ValueError) as error:
        raise DamagedFiles(f"{path.name} cannot be read: {error}") from error


def _coded(row: NDArray[Any]) -> tuple[dict[str, NDArray[np.uint8]], int]:
    """Mask and values of a row of words, and how many are not zero."""
    set_words = row != 0
    shuffled = row[set_words].view(np.uint8).reshape(-1, row.itemsize).T
    parts = {
        "mask": _compress(np.packbits(set_words).tobytes()),
        "values": np.concatenate([_compress(place.tobytes()) for place in shuffled]),
    }
    return parts, int(set_words.sum())


def _compress(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zstandard.ZstdCompressor(level=LEVEL).compress(data), dtype=np.uint8)


def _decompress(blob: NDArray[np.uint8], expected: int) -> NDArray[np.uint8]:
    """Exactly `expected` bytes, or an error: what a frame says of its own size is not believed."""
    if expected > MAX_BYTES:
        raise ValueError(f"{expected} bytes of weights are more than can be read")
    with zstandard.ZstdDecompressor().stream_reader(blob.tobytes(), read_across_frames=True) as reader:
        data = reader.read(expected + 1)
    if len(data) != expected:
        raise ValueError("the data is not as long as its header says")
    return np.frombuffer(data, dtype=np.uint8)


def _read_sparse(blobs: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    header = [
        (str(name), np.dtype(kind), tuple(int(n) for n in shape)) for name, kind, shape in _header(blobs, metadata)
    ]
    rows = {np.dtype(kind): _row(blobs, metadata, header, kind, suffix) for kind, suffix, _ in ROWS}
    rest_size = sum(kind.itemsize * math.prod(shape) for _, kind, shape in header if kind not in CODED)
    rest = _decompress(blobs["rest"], rest_size)
    tensors: dict[str, NDArray[Any]] = {}
    at = dict.fromkeys([*rows, None], 0)
    for name, kind, shape in header:
        row, place = (rows[kind], kind) if kind in rows else (rest, None)
        size = math.prod(shape) * kind.itemsize
        tensors[name] = row[at[place] : at[place] + size].view(kind).reshape(shape)
        at[place] += size
    return tensors


def _header(blobs: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> list[list[Any]]:
    if metadata["coding"] == "sparse-1":
        header = json.loads(metadata["tensors"])
    elif (size := int(metadata["header"])) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {size} bytes is more than can be read")
    else:
        header = json.loads(_decompress(blobs["header"], size).tobytes())
    if not isinstance(header, list) or any(min(shape, default=0) < 0 for _, _, shape in header):
        raise ValueError("the header does not list tensors")
    return header


def _row(
    blobs: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    header: list[tuple[str, np.dtype[Any], tuple[int, ...]]],
    kind: type[np.generic],
    suffix: str,
) -> NDArray[np.uint8]:
    """The bytes of all tensors of a type, one after the other."""
    width, count = np.dtype(kind).itemsize, sum(math.prod(shape) for _, own, shape in header if own == kind)
    if not count:
        return np.zeros(0, dtype=np.uint8)
    nonzero = int(metadata[f"nonzero{suffix}"])
    packed = _decompress(blobs[f"mask{suffix}"], (count + 7) // 8)
    set_words = np.unpackbits(packed, count=count).astype(bool)
    shuffled = _decompress(blobs[f"values{suffix}"], width * nonzero).reshape(width, nonzero)
    row = np.zeros((count, width), dtype=np.uint8)
    row[set_words] = shuffled.T
    return row.reshape(-1)
