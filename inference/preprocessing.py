"""From pixels to a network's input, as the model's own manifest says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formats.manifest import Preprocessing


@dataclass(frozen=True)
class Normaliser:
    """(pixel / 255 - mean) / std as one factor and one addend for each channel."""

    shape: tuple[int, int, int]
    factors: NDArray[np.float32]
    addends: NDArray[np.float32]

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) to contiguous float32 (N, C, H, W); ValueError for another type or size."""
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != self.shape:
            raise ValueError(f"pixels must be uint8 (N, {', '.join(map(str, self.shape))})")
        count, height, width, channels = pixels.shape
        images = np.empty((count, channels, height, width), dtype=np.float32)
        # Few calls, since each has to get the interpreter back from the threads that wait for it.
        np.multiply(pixels.transpose(0, 3, 1, 2), self.factors, out=images)
        images += self.addends
        return images


def normaliser(preprocessing: Preprocessing) -> Normaliser:
    """Worked out once for each model; ValueError if means or deviations are not one for each channel."""
    mean = np.asarray(preprocessing.mean, dtype=np.float64)
    std = np.asarray(preprocessing.std, dtype=np.float64)
    wanted = (preprocessing.channels,)
    if mean.shape != wanted or std.shape != wanted or not np.all(std > 0):
        raise ValueError("preprocessing needs a mean and a positive deviation for each channel")
    factors, addends = 1 / (255 * std), -mean / std
    if not np.all(np.abs([factors, addends]) < np.finfo(np.float32).max):
        raise ValueError("preprocessing needs means and deviations of a usual size for each channel")
    size = preprocessing.image_size
    return Normaliser(
        shape=(size, size, preprocessing.channels),
        factors=factors.astype(np.float32)[:, np.newaxis, np.newaxis],
        addends=addends.astype(np.float32)[:, np.newaxis, np.newaxis],
    )
