"""A row of words of which many are zero, as bytes: where those are that are not, and what they are.

Where they are is told in one of two ways, whichever is smaller: `mask` has a bit for each word; `gaps` has for each
word that is not zero how many zeros stand between it and the last one, in bytes; 255 is as many, and more to come.
What they are is told place by place, in `values.0` the first bytes of all words, in `values.1` their second bytes and
so on: those of one place resemble each other. Words of floating point are turned by a bit first, so that the last place
is their exponent, which is not evenly spread, and the sign goes with the mantissa, which is (ZipNN, arXiv 2411.05239).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.packing import Blob, from_zstd, pack, unpack

Blobs = Mapping[str, Blob]
MORE = 255
SIGN = 31
# Of a row with fewer zeros a mask is smaller.
FEW = 4


def code_row(row: NDArray[Any]) -> tuple[dict[str, Blob], dict[str, int]]:
    """The parts of a row of uint32 or uint8, and the numbers that are needed to read them."""
    set_words = row != 0
    nonzero = int(set_words.sum())
    ways = {"mask": np.packbits(set_words)}
    if FEW * nonzero <= len(row):
        ways["gaps"] = _gaps(set_words)
    where = {way: pack(told.tobytes()) for way, told in ways.items()}
    smaller = min(where, key=lambda way: len(where[way]))
    places = _turned(row[set_words], 1).view(np.uint8).reshape(-1, row.itemsize).T
    parts = {smaller: where[smaller], **{f"values.{at}": pack(place.tobytes()) for at, place in enumerate(places)}}
    return parts, {"nonzero": nonzero, "gaps": len(ways.get("gaps", ()))}


def read_row(blobs: Blobs, numbers: Mapping[str, int], count: int, word: np.dtype[Any]) -> Blob:
    """The bytes of a row of so many words; ValueError, or KeyError, if the parts are not those of such a row."""
    nonzero, gaps = numbers["nonzero"], numbers["gaps"]
    _check_numbers(nonzero, count, gaps=gaps)
    if "gaps" in blobs:
        set_words = _between_gaps(unpack(blobs["gaps"], gaps), count)
    else:
        set_words = _bits(unpack(blobs["mask"], (count + 7) // 8), count)
    places = [unpack(blobs[f"values.{at}"], nonzero) for at in range(word.itemsize)]
    values = np.ascontiguousarray(np.stack(places).T).reshape(-1).view(word)
    return _spread(_turned(values, SIGN), set_words)


def read_old_row(blobs: Blobs, nonzero: int, count: int, word: np.dtype[Any]) -> Blob:
    """The same as codings before the third have it: a mask, and all values as they are in one part."""
    _check_numbers(nonzero, count)
    set_words = _bits(from_zstd(blobs["mask"], (count + 7) // 8), count)
    shuffled = from_zstd(blobs["values"], word.itemsize * nonzero).reshape(word.itemsize, nonzero)
    return _spread(np.ascontiguousarray(shuffled.T).reshape(-1).view(word), set_words)


def _check_numbers(nonzero: int, count: int, *, gaps: int = 0) -> None:
    """ValueError for more than there may be in a row of so many words, before memory is taken for it."""
    if not (0 <= nonzero <= count and 0 <= gaps <= nonzero + count // MORE):
        raise ValueError(f"a row of {count} words cannot have {nonzero} that are not zero, {gaps} bytes apart")


def _gaps(set_words: NDArray[np.bool_]) -> Blob:
    whole, left = np.divmod(np.diff(np.flatnonzero(set_words), prepend=-1) - 1, MORE)
    gaps = np.full(len(whole) + int(whole.sum()), MORE, dtype=np.uint8)
    gaps[np.cumsum(whole + 1) - 1] = left
    return gaps


def _between_gaps(gaps: Blob, count: int) -> NDArray[np.bool_]:
    ends = gaps != MORE
    at = np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(np.count_nonzero(ends))
    if len(at) and at[-1] >= count:
        raise ValueError("there are words beyond the end of their row")
    set_words = np.zeros(count, dtype=np.bool_)
    set_words[at] = True
    return set_words


def _bits(packed: Blob, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(packed, count=count).view(np.bool_)


def _turned(words: NDArray[Any], bits: int) -> NDArray[Any]:
    """Words of floating point, whose uppermost bits become the lowermost; others stay as they are."""
    if words.dtype != np.uint32:
        return words
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


def _spread(values: NDArray[Any], set_words: NDArray[np.bool_]) -> Blob:
    if len(values) != np.count_nonzero(set_words):
        raise ValueError("there are more or fewer words than places for them")
    row = np.zeros(len(set_words), dtype=values.dtype)
    row[set_words] = values
    return row.view(np.uint8)
