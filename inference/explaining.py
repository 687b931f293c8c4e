"""Where in an image a network sees a class: from its own feature maps where they tell, else by covering places.

Class activation maps are those of Zhou et al. (Learning Deep Features for Discriminative Localization, arXiv
1512.04150), occlusion that of Zeiler and Fergus (Visualizing and Understanding Convolutional Networks, arXiv
1311.2901).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.heads import with_activation_maps
from formats.manifest import ModelManifest
from inference.answers import probabilities
from inference.memory import give_back
from inference.models import (
    ABSOLUTE_TOLERANCE,
    QUANTIZED_TOLERANCE,
    RELATIVE_TOLERANCE,
    WORKING_BYTES,
    GoldenMismatch,
    LoadedModel,
    StoredModel,
    read_stored,
)
from inference.preprocessing import Normaliser, normaliser
from inference.runtimes import RUNTIMES, CannotRun, Network

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Places of the cover along a side. As many as so many multiply-accumulates pay for, about a second of two cores.
FEWEST_PLACES, MOST_PLACES = 7, 14
AFFORDABLE_MACS = 100_000_000_000
BATCH = 32


class CannotExplain(ValueError):
    """A network has no class activation maps; the text says why."""


@dataclass(frozen=True)
class Explanation:
    """How much each place (height, width) speaks for a class: places fit the image's, whatever their number."""

    heat: Floats
    index: int
    probability: float
    method: str


@dataclass(frozen=True)
class ActivationMaps:
    """A network that tells its class activation maps beside its logits.

    `side` is how many places a map has along a side, `bytes` about what the network takes in memory.
    """

    manifest: ModelManifest
    side: int
    bytes: int
    normalise: Normaliser = field(repr=False)
    network: Network = field(repr=False)

    @property
    def classes(self) -> int:
        """How many classes the network knows."""
        return len(self.manifest.classes)

    def __call__(self, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (N, classes) and maps (N, classes, side, side) of pixels (N, size, size, channels)."""
        rows = self.network(self.normalise(pixels))
        maps = rows[:, self.classes :].reshape(-1, self.classes, self.side, self.side)
        return rows[:, : self.classes], maps

    def explain(self, pixels: Pixels, index: int | None = None) -> Explanation:
        """The map of one image (size, size, channels) for a class; without one for the most probable."""
        logits, maps = self(pixels[None])
        chosen, probability = _chosen(logits[0], index, self.manifest)
        return Explanation(maps[0, chosen].astype(np.float64), chosen, probability, "cam")


def load_activation_maps(directory: Path, *, runtime: str, threads: int = 0) -> ActivationMaps:
    """The network of a model's directory with its maps, held against its golden answers.

    CannotExplain if it has no head of global pooling and one linear layer, if its last features are no square of
    several places, or if its maps do not add up to its logits. Raises DamagedFiles too.
    """
    stored = read_stored(directory)
    graph = with_activation_maps(stored.graph())
    if graph is None:
        raise CannotExplain("The network does not end in global average pooling and one linear layer.")
    entry = RUNTIMES[runtime]
    try:
        network = entry.compile(graph, threads=threads)
        side = _side(stored, runtime, network)
        size = int(entry.footprint * len(graph)) + WORKING_BYTES
        maps = ActivationMaps(stored.manifest, side, size, normaliser(stored.manifest.preprocessing), network)
        _check_sums(maps, stored)
        return maps
    except (CannotRun, GoldenMismatch) as error:
        raise CannotExplain(f"The runtime does not give the network's maps: {error}") from error
    finally:
        del graph
        give_back()


def _side(stored: StoredModel, runtime: str, network: Network) -> int:
    """How many places a map has along a side, of a network whose logits are those that were published."""
    classes = len(stored.manifest.classes)
    values: list[int] = []

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = network(images)
        values.append(rows.shape[1] - classes)
        return rows[:, :classes]

    stored.check(runtime, logits)
    side = math.isqrt(values[0] // classes)
    if side < 2 or classes * side**2 != values[0]:
        raise CannotExplain("The network's last features are a single place, or not a square of places.")
    return side


def _check_sums(maps: ActivationMaps, stored: StoredModel) -> None:
    """A map's mean and a bias, the same for all images, have to be the class's logit."""
    logits, found = maps(stored.golden.pixels)
    rest = logits - found.mean(axis=(2, 3))
    relative = QUANTIZED_TOLERANCE if stored.manifest.kind == "quantized" else RELATIVE_TOLERANCE
    allowed = ABSOLUTE_TOLERANCE + relative * float(np.max(np.abs(logits)))
    if not float(np.max(np.ptp(rest, axis=0))) <= 2 * allowed:
        raise CannotExplain("The network's class activation maps do not add up to its logits.")


def explain_by_occlusion(model: LoadedModel, pixels: Pixels, index: int | None = None) -> Explanation:
    """How much covering each place of one image (size, size, channels) takes from a class, as (size, size).

    Without a class, for the most probable. The cover is square and of the mean colour of the training images. What it
    takes is told in log-odds, which unlike the paper's probability still tell differences where that is near one.
    Places whose covering makes the class likelier have nothing, so that what is dark does not speak for it.
    """
    bare = model.predict(pixels[None])
    chosen, probability = _chosen(bare[0], index, model.manifest)
    windows = _windows(len(pixels), _places(len(pixels), model.manifest.macs))
    cover = np.rint(255 * np.asarray(model.manifest.preprocessing.mean)).clip(0, 255).astype(np.uint8)
    odds = [_log_odds(model.predict(batch), chosen) for batch in _covered(pixels, windows, cover)]
    taken = _log_odds(bare, chosen) - np.concatenate(odds)
    return Explanation(np.maximum(_spread(taken, windows), 0), chosen, probability, "occlusion")


def _chosen(logits: NDArray[np.float32], index: int | None, manifest: ModelManifest) -> tuple[int, float]:
    shares = probabilities(logits, manifest.temperature)
    chosen = int(np.argmax(shares)) if index is None else index
    return chosen, float(shares[chosen])


def _places(size: int, macs: int) -> int:
    affordable = math.isqrt(AFFORDABLE_MACS // max(1, macs))
    return max(1, min(size - 1, max(FEWEST_PLACES, min(MOST_PLACES, affordable))))


def _windows(size: int, places: int) -> NDArray[np.bool_]:
    """Which pixels of a side the cover hides at each place (places, size); most of them at the next place too."""
    width = 3 * size // (places + 2)
    starts = np.rint(np.linspace(0, size - width, places)).astype(int)
    along = np.arange(size)
    hidden: NDArray[np.bool_] = (along >= starts[:, None]) & (along < starts[:, None] + width)
    return hidden


def _covered(pixels: Pixels, windows: NDArray[np.bool_], cover: Pixels) -> Iterator[Pixels]:
    """Batches of the image covered at one place after the other, row by row."""
    places = len(windows) ** 2
    for first in range(0, places, BATCH):
        rows, columns = np.divmod(np.arange(first, min(first + BATCH, places)), len(windows))
        hidden = windows[rows][:, :, None] & windows[columns][:, None, :]
        yield np.where(hidden[..., None], cover, pixels)


def _log_odds(logits: NDArray[np.float32], index: int) -> Floats:
    """The logarithm of p / (1 - p) of a class for each row; ArithmeticError as from `probabilities`."""
    shares = probabilities(logits)  # refuses what is not finite
    if shares.shape[1] == 1:
        return np.asarray(logits[:, 0], dtype=np.float64)
    others = np.delete(logits.astype(np.float64), index, axis=1)
    odds: Floats = logits[:, index] - np.logaddexp.reduce(others, axis=1)
    return odds


def _spread(taken: Floats, windows: NDArray[np.bool_]) -> Floats:
    """For each pixel the mean of what the covers over it took."""
    hidden = windows.astype(np.float64)
    times = hidden.sum(axis=0)
    spread: Floats = hidden.T @ taken.reshape(len(hidden), -1) @ hidden / np.outer(times, times)
    return spread
