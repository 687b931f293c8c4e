"""Weights as files: both codings give back every bit, and damage is noticed."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from formats.files import DamagedFiles, record_files, verify_files
from formats.packing import pack
from formats.weights import read_weights, write_dense, write_sparse

Tensors = dict[str, NDArray[Any]]


def network(sparsity: float) -> Tensors:
    """Tensors as of a small network, with this share of zeros in its matrices."""
    rng = np.random.default_rng(0)
    matrices = {f"layer{n}.weight": rng.normal(size=(96, 128)).astype(np.float32) for n in range(3)}
    for matrix in matrices.values():
        matrix[rng.random(matrix.shape) < sparsity] = 0.0
    return {
        **matrices,
        "bias": rng.normal(size=96).astype(np.float32),
        "norm.num_batches_tracked": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "scalar": np.array(-0.0, dtype=np.float32),
        "odd": np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45], dtype=np.float32),
        "flags": np.array([True, False]),
        "layer.quantized": (rng.integers(-127, 128, (64, 96)) * (rng.random((64, 96)) >= sparsity)).astype(np.int8),
    }


@pytest.mark.parametrize("write", [write_dense, write_sparse])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 1.0])
def test_every_bit_comes_back(tmp_path: Path, write: Any, sparsity: float) -> None:
    path = tmp_path / "weights"
    tensors = network(sparsity)
    write(path, tensors)
    found = read_weights(path)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype), name
        assert found[name].tobytes() == tensor.tobytes(), name


def test_nine_of_ten_zeros_take_a_tenth_of_the_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(512, 512)) * 0.05).astype(np.float32)
    matrix[np.abs(matrix) < np.quantile(np.abs(matrix), 0.9)] = 0.0
    write_sparse(tmp_path / "sparse", {"matrix": matrix})
    assert (tmp_path / "sparse").stat().st_size <= 0.1 * matrix.nbytes


@pytest.mark.parametrize("write", [write_dense, write_sparse])
def test_damage_is_an_error_of_its_own(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "weights"
    write(path, network(0.9))
    data = path.read_bytes()
    for size in (0, 4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(DamagedFiles):
            read_weights(path)
    path.write_bytes(b"\xff" * len(data))
    with pytest.raises(DamagedFiles):
        read_weights(path)


def _rewritten(path: Path, **changes: str) -> None:
    with safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
        blobs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if "tensors" in changes:
        header = changes.pop("tensors").encode()
        blobs["header"] = pack(header)
        changes["header"] = str(len(header))
    save_file(blobs, path, metadata | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"words.nonzero": "1"},
        {"words.nonzero": "-1"},
        {"words.nonzero": "99999999999999"},
        {"words.nonzero": "x"},
        {"words.gaps": "1"},
        {"words.gaps": "-1"},
        {"words.gaps": "99999999999999"},
        {"words.gaps": "x"},
        {"bytes.nonzero": "1"},
        {"header": "1"},
        {"header": "99999999999999"},
        {"header": "x"},
        {"coding": "sparse-1"},
        {"coding": "sparse-2"},
        {"tensors": "{"},
        {"tensors": "[]"},
        {"tensors": "{}"},
        {"tensors": json.dumps([["a", "<f4", [2**40]]])},
        {"tensors": json.dumps([["a", "<f4", [-1]]])},
        {"tensors": json.dumps([["a", "O", [1]]])},
        {"tensors": json.dumps([["a", "<f4", "x"]])},
        {"tensors": '[["a", "<f4", [Infinity]]]'},
        {"tensors": "[" * 100_000},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_header_that_lies_is_not_believed(tmp_path: Path, changes: dict[str, str]) -> None:
    path = tmp_path / "weights"
    write_sparse(path, network(0.9))
    _rewritten(path, **changes)
    with pytest.raises(DamagedFiles):
        read_weights(path)


def test_records_notice_every_change(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    records = record_files(tmp_path, leave_out="b")
    assert set(records) == {"a"}
    verify_files(tmp_path, records)
    for content in (b"a" * 9, b"b" * 10, b""):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DamagedFiles):
            verify_files(tmp_path, records)
    (tmp_path / "a").unlink()
    with pytest.raises(DamagedFiles):
        verify_files(tmp_path, records)
    with pytest.raises(DamagedFiles):
        verify_files(tmp_path / "sub", {"../a": records["a"]})


@pytest.mark.parametrize("name", ["words.mask", "words.gaps", "words.values.3", "bytes.mask", "rest", "header"])
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_parts_that_are_none_are_damage(tmp_path: Path, name: str, sparsity: float) -> None:
    path = tmp_path / "weights"
    write_sparse(path, network(sparsity))
    with safe_open(path, framework="numpy") as file:
        metadata, blobs = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if name not in blobs:
        pytest.skip("told in the other way")
    bomb = pack(bytes(1 << 22))
    for bad in (b"", b"\x07", b"\x01junk", b"\x02\xff\xff", b"\x00" + b"\xfe" * 100, bomb.tobytes()):
        save_file(blobs | {name: np.frombuffer(bad, dtype=np.uint8)}, path, metadata)
        with pytest.raises(DamagedFiles):
            read_weights(path)


@pytest.mark.parametrize("number", [-1, 1 << 33])
@pytest.mark.parametrize("name", ["words.nonzero", "words.gaps"])
def test_numbers_that_cannot_be_take_no_memory(tmp_path: Path, name: str, number: int) -> None:
    path = tmp_path / "weights"
    write_sparse(path, {"row": np.eye(8, dtype=np.float32)})
    with safe_open(path, framework="numpy") as file:
        metadata, blobs = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    coder = zlib.compressobj(wbits=-15)
    bomb = np.frombuffer(b"\x02" + coder.compress(bytes(1 << 26)) + coder.flush(), dtype=np.uint8)
    save_file(blobs | {"words.gaps": bomb, "words.values.0": bomb}, path, metadata | {name: str(number)})
    tracemalloc.start()
    with pytest.raises(DamagedFiles):
        read_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_one_value_is_not_taken_for_many(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write_sparse(path, {"row": np.full(8, 1.5, dtype=np.float32)})
    with safe_open(path, framework="numpy") as file:
        metadata, blobs = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    fewer = {f"words.values.{place}": pack(b"\x01") for place in range(4)}
    save_file(blobs | fewer, path, metadata | {"words.nonzero": "1"})
    with pytest.raises(DamagedFiles):
        read_weights(path)


def test_words_far_from_each_other_come_back(tmp_path: Path) -> None:
    for distance in (254, 255, 256, 509, 510, 511, 100_000):
        row = np.zeros(3 * distance + 7, dtype=np.float32)
        row[distance :: distance + 1] = -1.5
        write_sparse(tmp_path / "sparse", {"row": row})
        assert read_weights(tmp_path / "sparse")["row"].tobytes() == row.tobytes()
        assert (tmp_path / "sparse").stat().st_size < 2_000


def older(path: Path, tensors: Tensors, coding: str) -> None:
    """A file as it was written before `sparse-3`."""

    def blob(data: bytes) -> NDArray[np.uint8]:
        return np.frombuffer(zstandard.compress(data), dtype=np.uint8)

    ordered = {name: tensors[name] for name in sorted(tensors)}
    header = json.dumps([[name, tensor.dtype.str, list(tensor.shape)] for name, tensor in ordered.items()])
    metadata, blobs = {"coding": coding}, {}
    for kind, ends in ((np.float32, ""), (np.int8, "8")):
        row = np.concatenate([tensor.reshape(-1) for tensor in ordered.values() if tensor.dtype == kind])
        words = row.view(np.uint8).reshape(len(row), -1)
        kept = words.any(1)
        places = [place.tobytes() for place in words[kept].T]
        pieces = [b"".join(places)] if coding == "sparse-1" else places
        blobs[f"values{ends}"] = np.concatenate([blob(piece) for piece in pieces])
        blobs[f"mask{ends}"] = blob(np.packbits(kept).tobytes())
        metadata[f"nonzero{ends}"] = str(int(kept.sum()))
    blobs["rest"] = blob(b"".join(t.tobytes() for t in ordered.values() if t.dtype not in (np.float32, np.int8)))
    if coding == "sparse-1":
        metadata["tensors"] = header
    else:
        metadata["header"], blobs["header"] = str(len(header)), blob(header.encode())
    save_file(blobs, path, metadata)


@pytest.mark.parametrize("coding", ["sparse-1", "sparse-2"])
def test_older_sparse_codings_are_read_too(tmp_path: Path, coding: str) -> None:
    path = tmp_path / "weights"
    tensors = network(0.9)
    older(path, tensors, coding)
    found = read_weights(path)
    assert {name: found[name].tobytes() for name in tensors} == {name: t.tobytes() for name, t in tensors.items()}
