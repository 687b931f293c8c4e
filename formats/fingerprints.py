"""The fingerprint of a data set whose images are at hand: what they show, with class, and which of them test."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from formats.datasets import fingerprint
from formats.images import pixel_hash


def fingerprint_of(pixels: NDArray[np.uint8], labels: Sequence[str], *, test: Collection[int]) -> str:
    """By `formats.datasets.fingerprint`, of pixels (N, H, W) or (N, H, W, C); `labels` are names of classes.

    What does not test counts as training: which part of that validates is a matter of each job.
    """
    images = pixels if pixels.ndim == 4 else pixels[..., np.newaxis]
    hashes = np.frombuffer(b"".join(pixel_hash(image) for image in images), dtype=np.uint8).reshape(-1, 32)
    tested = set(test)
    return fingerprint(hashes, labels, ["test" if number in tested else "train" for number in range(len(images))])
