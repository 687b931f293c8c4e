"""Named tensors as one file: dense, or sparse for pruned networks. Both are safetensors files; neither is pickle.

Sparse coding, lossless. All float32 tensors, in the order of the header, are seen as one row of 32-bit words, and all
int8 tensors as one of bytes: parts whose names begin with `words.` and `bytes.`, as `formats.rows` tells. Tensors of
other types follow as they are in `rest`. `header` is JSON: of each tensor its name, its type and its shape, in order of
names. All parts are packed (`formats.packing`). A word is zero only if all its bits are: -0.0 is kept.

This is `sparse-3`. Two older ones are read too: there a row is `mask` and `values`, one of bytes `mask8` and `values8`;
all is under zstd, and `sparse-1` has its header in the metadata.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zstandard
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from formats.files import DamagedFiles
from formats.packing import Blob, check_size, from_zstd, pack, unpack
from formats.rows import Blobs, code_row, read_old_row, read_row

Tensors = Mapping[str, NDArray[Any]]
Coding = Literal["dense", "sparse-1", "sparse-2", "sparse-3"]
OLD = {"sparse-1", "sparse-2"}
SPARSE: Coding = "sparse-3"  # what `write_sparse` writes

DENSE_NAME = "weights.safetensors"
SPARSE_NAME = "weights.sparse.safetensors"


@dataclass(frozen=True)
class Row:
    """Tensors of one type that are coded by their zeros: what their words are read as, and the names of their parts."""

    kind: np.dtype[Any]
    word: np.dtype[Any]
    begins: str
    once_ended: str


ROWS = (
    Row(np.dtype(np.float32), np.dtype(np.uint32), "words.", ""),
    Row(np.dtype(np.int8), np.dtype(np.uint8), "bytes.", "8"),
)
CODED = tuple(row.kind for row in ROWS)
MAX_HEADER_BYTES = 1 << 26
# What a header that is none leads to: numbers without end, lists in lists without end among it.
UNREADABLE = (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError)


def write_dense(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """A plain safetensors file."""
    save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path, dict(metadata or {}))


def write_sparse(path: Path, tensors: Tensors) -> None:
    """A file in the sparse coding at the top of this module."""
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    header = json.dumps([[name, tensor.dtype.str, list(tensor.shape)] for name, tensor in ordered.items()]).encode()
    metadata: dict[str, str] = {"coding": SPARSE, "header": str(len(header))}
    blobs = {"header": pack(header)}
    for row in ROWS:
        words = [tensor.reshape(-1).view(row.word) for tensor in ordered.values() if tensor.dtype == row.kind]
        if words:
            parts, numbers = code_row(np.concatenate(words))
            blobs |= {f"{row.begins}{name}": blob for name, blob in parts.items()}
            metadata |= {f"{row.begins}{name}": str(number) for name, number in numbers.items()}
    blobs["rest"] = pack(b"".join(tensor.tobytes() for tensor in ordered.values() if tensor.dtype not in CODED))
    save_file(blobs, path, metadata)


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file that `write_dense` or `write_sparse` made; DamagedFiles if it is neither."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        if metadata.get("coding") not in {SPARSE, *OLD}:
            return dict(load_file(path))
        return _read_sparse(load_file(path), metadata)
    except (SafetensorError, zstandard.ZstdError, zlib.error, *UNREADABLE) as error:
        raise DamagedFiles(f"{path.name} cannot be read: {error}") from error


def _read_sparse(blobs: Blobs, metadata: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    old = metadata["coding"] in OLD
    unpacked = from_zstd if old else unpack
    header = [
        (str(name), np.dtype(kind), tuple(int(n) for n in shape))
        for name, kind, shape in _header(blobs, metadata, unpacked)
    ]
    read = _old_row if old else _row
    rows = {}
    for row in ROWS:
        count = sum(math.prod(shape) for _, kind, shape in header if kind == row.kind)
        check_size(count * row.word.itemsize)
        rows[row.kind] = read(row, blobs, metadata, count) if count else np.zeros(0, dtype=np.uint8)
    rest = unpacked(
        blobs["rest"], sum(kind.itemsize * math.prod(shape) for _, kind, shape in header if kind not in CODED)
    )
    tensors: dict[str, NDArray[Any]] = {}
    at = dict.fromkeys([*rows, None], 0)
    for name, kind, shape in header:
        data, place = (rows[kind], kind) if kind in rows else (rest, None)
        size = math.prod(shape) * kind.itemsize
        tensors[name] = data[at[place] : at[place] + size].view(kind).reshape(shape)
        at[place] += size
    return tensors


def _header(blobs: Blobs, metadata: Mapping[str, str], unpacked: Callable[[Blob, int], Blob]) -> list[list[Any]]:
    if metadata["coding"] == "sparse-1":
        header = json.loads(metadata["tensors"])
    elif (size := int(metadata["header"])) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {size} bytes is more than can be read")
    else:
        header = json.loads(unpacked(blobs["header"], size).tobytes())
    if not isinstance(header, list) or any(min(shape, default=0) < 0 for _, _, shape in header):
        raise ValueError("the header does not list tensors")
    return header


def _row(row: Row, blobs: Blobs, metadata: Mapping[str, str], count: int) -> Blob:
    """The bytes of all tensors of a type, one after the other."""
    parts = {name.removeprefix(row.begins): blob for name, blob in blobs.items() if name.startswith(row.begins)}
    numbers = {name: int(metadata[f"{row.begins}{name}"]) for name in ("nonzero", "gaps")}
    return read_row(parts, numbers, count, row.word)


def _old_row(row: Row, blobs: Blobs, metadata: Mapping[str, str], count: int) -> Blob:
    parts = {name: blobs[f"{name}{row.once_ended}"] for name in ("mask", "values")}
    return read_old_row(parts, int(metadata[f"nonzero{row.once_ended}"]), count, row.word)
