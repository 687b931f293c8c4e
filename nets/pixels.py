"""The pixels of a data set, in memory or mapped from a file that several processes share."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# What may lie in memory of a mapped file at a time.
RESIDENT_BYTES = 64 * 1024 * 1024
# Linux maps this much around a page that is asked for, if the file is cached (fault_around_bytes).
FAULT_BYTES = 64 * 1024


class Pixels:
    """Images of uint8, shape (N, H, W, C), row after row; ValueError if the array is anything else.

    A read-only array over a mapped file (np.memmap, or np.frombuffer of an mmap) does not pile up in the memory of
    the process: after about 64 MiB the system is told that the pages are not needed. They stay in its own cache.
    """

    def __init__(self, array: NDArray[np.uint8]) -> None:
        if array.dtype != np.uint8 or array.ndim != 4 or not array.flags.c_contiguous:
            raise ValueError("Pixels are uint8 of shape (N, H, W, C) without gaps; use np.ascontiguousarray.")
        self._array = array.view(np.ndarray)
        self._mapping = _mapping(array)
        self._touched = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        count, height, width, channels = self._array.shape
        return count, height, width, channels

    def __len__(self) -> int:
        return len(self._array)

    def take(self, numbers: Tensor) -> Tensor:
        """The images of these numbers, uint8 (n, H, W, C), in memory of their own; IndexError for one not there."""
        order = numbers.numpy()
        if self._mapping is None:
            return torch.from_numpy(self._array.take(order, axis=0))
        step = max(1, RESIDENT_BYTES // self._cost())
        parts = [self._read(order[start : start + step]) for start in range(0, max(1, len(order)), step)]
        return torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _cost(self) -> int:
        """How much of the file one image makes resident."""
        return FAULT_BYTES + self._array[:1].nbytes

    def _read(self, order: NDArray[np.int64]) -> NDArray[np.uint8]:
        cost = len(order) * self._cost()
        if self._touched + cost > RESIDENT_BYTES:
            _release(self._mapping)
            self._touched = 0
        self._touched += cost
        return self._array.take(order, axis=0)


def _mapping(array: NDArray[np.uint8]) -> mmap.mmap | None:
    """The mapped file under a read-only array. What was written to a private mapping would be lost by releasing it."""
    owner: Any = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return owner if isinstance(owner, mmap.mmap) and not array.flags.writeable else None


def _release(mapping: mmap.mmap | None) -> None:
    # Windows has no such call and trims working sets by itself.
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if mapping is not None and advice is not None:
        mapping.madvise(advice)
