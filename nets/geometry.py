"""Where pixels of a batch come from: windows, boxes and affine maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def windows(framed: Tensor, top: NDArray[np.int64], left: NDArray[np.int64], shape: Sequence[int]) -> Tensor:
    """A window of `shape` (N, H, W, C) out of each image, beginning at `top` and `left`, int64 (N,)."""
    _, height, width, _ = shape
    cut = np.empty(shape, dtype=np.uint8)
    # Copying views one by one is four times as fast as indexing all pixels at once.
    for image, source, row, column in zip(cut, framed.numpy(), top.tolist(), left.tolist(), strict=True):
        image[:] = source[row : row + height, column : column + width]
    return torch.from_numpy(cut)


@dataclass(frozen=True)
class Boxes:
    """A rectangle in each image, from `top` and `left` up to but without `bottom` and `right`: int64 (N,) each."""

    top: NDArray[np.int64]
    bottom: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]

    @property
    def areas(self) -> NDArray[np.int64]:
        return (self.bottom - self.top) * (self.right - self.left)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns, image by image."""
        edges = (self.top, self.bottom, self.left, self.right)
        for top, bottom, left, right in zip(*(edge.tolist() for edge in edges), strict=True):
            yield slice(top, bottom), slice(left, right)


def affine(pixels: Tensor, maps: Tensor, fill: Tensor) -> Tensor:
    """Pixels moved by an affine map of each image: every pixel becomes the one nearest to where its map leads.

    `maps` is float32 (N, 2, 3), applied to (x, y, 1) with x to the right and y down, in pixels from the upper left
    corner of the image; pixel centres lie at halves. What comes from outside is `fill`, uint8 (C,).
    """
    count, height, width, channels = pixels.shape
    x, y = _sources(maps, height=height, width=width)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = (y * width + x).long() + (torch.arange(count) * (height * width))[:, None, None]
    # The fill is one more pixel behind all others.
    rows = torch.cat([pixels.reshape(-1, channels), fill[None]])
    chosen = torch.where(inside, places, len(rows) - 1).flatten()
    return rows.index_select(0, chosen).reshape(pixels.shape)


def _sources(maps: Tensor, *, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Columns and rows to read from: whole numbers, float32 (N, H, W) each."""
    columns = torch.arange(width, dtype=torch.float32) + 0.5
    rows = torch.arange(height, dtype=torch.float32)[:, None] + 0.5
    factors = maps[:, :, :, None, None]
    x, y = ((factors[:, axis, 0] * columns + (factors[:, axis, 1] * rows + factors[:, axis, 2])) for axis in (0, 1))
    return x.floor_(), y.floor_()
