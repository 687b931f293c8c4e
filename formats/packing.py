"""Bytes made smaller without loss: as they are, by zstd, or by Huffman codes alone, whichever is smallest.

The first byte tells which. Huffman codes alone (RFC 1951 with no match in it) are smaller than zstd where bytes stand
in no order but some are much more frequent than others: exponents of weights, distances between them.
"""

from __future__ import annotations

import zlib

import numpy as np
import zstandard
from numpy.typing import NDArray

Blob = NDArray[np.uint8]

LEVEL = 19
SAMPLES, SAMPLE_BYTES = 4, 1 << 17
MAX_BYTES = 1 << 34
RAW = -zlib.MAX_WBITS  # neither header nor checksum: the file of the weights has a hash of its own


def pack(data: bytes) -> Blob:
    """The smallest of the three; of much data the one that makes samples of it smallest, since zstd takes its time."""
    form = min(FORMS, key=lambda each: len(FORMS[each](_samples(data))))
    return np.frombuffer(bytes([form]) + FORMS[form](data), dtype=np.uint8)


def _samples(data: bytes) -> bytes:
    """All of it, or pieces from everywhere."""
    if len(data) <= SAMPLES * SAMPLE_BYTES:
        return data
    starts = np.linspace(0, len(data) - SAMPLE_BYTES, SAMPLES).astype(int).tolist()
    return b"".join(data[start : start + SAMPLE_BYTES] for start in starts)


def _plain(data: bytes) -> bytes:
    return data


def _by_zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def _by_huffman(data: bytes) -> bytes:
    coder = zlib.compressobj(zlib.Z_BEST_COMPRESSION, zlib.DEFLATED, RAW, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


PLAIN, ZSTD, HUFFMAN = range(3)
FORMS = {PLAIN: _plain, ZSTD: _by_zstd, HUFFMAN: _by_huffman}


def unpack(blob: Blob, expected: int) -> Blob:
    """Exactly `expected` bytes, or a ValueError or an error of the two libraries."""
    check_size(expected)
    form, content = blob[0], blob[1:]
    if form == PLAIN:
        return _as_long_as(content, expected)
    if form == ZSTD:
        return from_zstd(content, expected)
    if form == HUFFMAN:
        found = zlib.decompressobj(RAW).decompress(content.tobytes(), expected + 1)
        return _as_long_as(np.frombuffer(found, dtype=np.uint8), expected)
    raise ValueError(f"there is no form {form} of packed bytes")


def from_zstd(blob: Blob, expected: int) -> Blob:
    """The same of frames of zstd: what a frame says of its own size is not believed."""
    check_size(expected)
    with zstandard.ZstdDecompressor().stream_reader(blob.tobytes(), read_across_frames=True) as reader:
        return _as_long_as(np.frombuffer(reader.read(expected + 1), dtype=np.uint8), expected)


def check_size(expected: int) -> None:
    """ValueError for less than nothing, which the libraries take for no limit, and for more than any file has."""
    if not 0 <= expected <= MAX_BYTES:
        raise ValueError(f"{expected} bytes of weights cannot be read")


def _as_long_as(data: Blob, expected: int) -> Blob:
    if len(data) != expected:
        raise ValueError("the data is not as long as its header says")
    return data
