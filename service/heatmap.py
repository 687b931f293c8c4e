"""A heat map as a picture: in colours over the image that it explains, or in grey."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Nine of the colours of viridis (Smith and van der Walt, 2015, CC0): equal steps look equal, it grows lighter from
# end to end, and it reads the same without red and green.
VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")
LEAST_SIDE, USUAL_SIDE, LARGEST_SIDE = 256, 1024, 2048
# How much of the picture is heat where there is none and where there is most; the rest is the image in grey.
FAINTEST, STRONGEST = 0.35, 0.65
# Pillow shrinks by whole numbers first, so that sampling stays cheap however long a side is.
GAP = 3.0

Pixels = NDArray[np.uint8]


def heat_picture(heat: NDArray[np.float64], image: Pixels, *, size: int | None, overlay: bool) -> bytes:
    """A PNG of a heat (rows, columns) stretched over an image (height, width, 1 or 3), its longer side `size` pixels.

    The least of the heat is the darkest, the most the lightest; where all is equal nothing is marked. Without a
    size the image's own, but not too small to be seen (256) nor larger than screens are (1024).
    """
    width, height = _target(image, size)
    levels = _levels(heat, width, height)
    picture = _over(image, levels) if overlay else levels
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _target(image: Pixels, size: int | None) -> tuple[int, int]:
    height, width = image.shape[:2]
    longer = max(height, width)
    wanted = size or min(max(longer, LEAST_SIDE), USUAL_SIDE)
    return max(1, round(width * wanted / longer)), max(1, round(height * wanted / longer))


def _levels(heat: NDArray[np.float64], width: int, height: int) -> Pixels:
    """The heat from 0 to 255, smoothly as large as the picture."""
    low, high = float(heat.min()), float(heat.max())
    shares = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    large = Image.fromarray(shares.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    levels: Pixels = np.rint(255 * np.asarray(large).clip(0, 1)).astype(np.uint8)
    return levels


def _over(image: Pixels, levels: Pixels) -> Pixels:
    """The image in grey, so that every colour is the heat's, under the heat, which covers more where it is more."""
    height, width = levels.shape
    plain = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).convert("L")
    grey = np.asarray(plain.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=GAP), dtype=np.float32)
    cover = FAINTEST + (STRONGEST - FAINTEST) / 255 * levels[..., None]
    mixed = (1 - cover) * grey[..., None] + cover * colours()[levels]
    picture: Pixels = np.rint(mixed).astype(np.uint8)
    return picture


@cache
def colours() -> Pixels:
    """Red, green and blue of each of 256 levels of heat, (256, 3)."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in VIRIDIS])
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    table: Pixels = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return table
