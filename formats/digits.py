"""The digits data set, read from the file that scikit-learn ships, without importing scikit-learn.

Importing it costs the API process 70 MB and more; its file is plain CSV. A test holds this reader to
`sklearn.datasets.load_digits`.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEVELS = 16
SIDE = 8


def read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels, uint8 of shape (1797, 8, 8) where level 16 is 255, and labels of shape (1797,)."""
    with gzip.open(_file(), "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    levels = table[:, :-1].reshape(-1, SIDE, SIDE)
    return np.rint(levels * 255.0 / LEVELS).astype(np.uint8), table[:, -1]


def _file() -> Path:
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("scikit-learn is not installed; the digits data set comes with it.")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
