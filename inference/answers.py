"""From logits to answers: calibrated probabilities, the classes that are most probable, and sets that hold the label.

All rows of a batch go through numpy together; plain objects are made of what is told only. This runs for each
prediction, so exponentials are taken in float32, which is ten times as fast as float64, and sums in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from formats.manifest import ModelManifest

Floats = NDArray[np.float32]
Places = NDArray[np.intp]

# Up to so many classes sorting all of them is as quick as finding the largest first.
FEW_CLASSES = 64


class Answer(TypedDict):
    """One class and how probable it is."""

    label: str
    index: int
    probability: float


class Prediction(Answer):
    """The most probable class of one image, all that were asked for, and the label set if one was."""

    top: list[Answer]
    label_set: NotRequired[list[str]]


@dataclass(frozen=True)
class AnswerRule:
    """What is told of each image: up to `top_k` classes, at least `threshold` probable; the best one always.

    With a `coverage` (at least 0.5, below 1) also the set of labels that holds the right one so often.
    """

    top_k: int = 5
    threshold: float = 0.0
    coverage: float | None = None


class NonFiniteLogits(ArithmeticError):
    """Logits that are not finite numbers have no probabilities."""


def answers(logits: NDArray[Any], manifest: ModelManifest, rule: AnswerRule) -> list[Prediction]:
    """A prediction for each row of logits (N, classes), best class first (of equals, the lower index).

    A label set has the classes that are at least as probable as the model's manifest says for that coverage, best
    first: sets grow with coverage and hold the best class at least. Raises NonFiniteLogits, and ValueError for
    another number of classes.
    """
    classes, logits = manifest.classes, np.asarray(logits, dtype=np.float32)
    if logits.ndim != 2 or logits.shape[1] != len(classes):
        raise ValueError(f"{len(classes)} classes need as many logits, in rows")
    shares = probabilities(logits, manifest.temperature)
    sizes = None if rule.coverage is None else label_set_sizes(shares, manifest.least_probability(rule.coverage))
    told = min(max(1, rule.top_k), len(classes))
    order = _order(logits, told if sizes is None else max(told, *sizes, 1))
    tops = _tops(shares, order[:, :told], classes, rule.threshold)
    predictions: list[Prediction] = [
        {"label": top[0]["label"], "index": top[0]["index"], "probability": top[0]["probability"], "top": top}
        for top in tops
    ]
    if sizes is not None:
        for prediction, row, size in zip(predictions, order.tolist(), sizes, strict=True):
            prediction["label_set"] = [classes[at] for at in row[:size]]
    return predictions


def _tops(shares: Floats, order: Places, classes: Sequence[str], threshold: float) -> list[list[Answer]]:
    """Of each row the classes in this order, as far as they are probable enough; the first one always."""
    best = shares[np.arange(len(order))[:, None], order]
    tops: list[list[Answer]] = [
        [{"label": classes[at], "index": at, "probability": share} for at, share in zip(row, chances, strict=True)]
        for row, chances in zip(order.tolist(), best.tolist(), strict=True)
    ]
    if threshold <= 0:
        return tops
    return [top[:count] for top, count in zip(tops, label_set_sizes(best, threshold), strict=True)]


def coverage_note(manifest: ModelManifest, coverage: float) -> str | None:
    """Why label sets of this coverage have all labels, if they do for want of images: nothing less is sure."""
    calibration = manifest.calibration
    if calibration is None:
        return "The model was published without a calibration, so label sets have all labels."
    if calibration.least_probability(coverage) is not None:
        return None
    return (
        f"The model was calibrated on {calibration.images} validation images, too few for this coverage, "
        "so label sets have all labels."
    )


def probabilities(logits: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Softmax of logits (..., classes) / temperature, float32; NonFiniteLogits if any is infinite or not a number."""
    exact = np.asarray(logits, dtype=np.float32)
    # Finite numbers of float32 have a finite sum in float64, and others never have.
    if not np.isfinite(np.add.reduce(exact, axis=None, dtype=np.float64)):
        raise NonFiniteLogits("The network's output is not finite, so there are no probabilities.")
    with np.errstate(over="ignore"):  # what is so far below the largest logit has no probability at all
        powers = exact - np.maximum.reduce(exact, axis=-1, keepdims=True)
        powers *= np.float32(1 / temperature)
    np.exp(powers, out=powers)
    powers /= np.add.reduce(powers, axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
    return powers


def label_set_sizes(shares: Floats, least: float) -> list[int]:
    """How many classes of each row (N, classes) are at least so probable, but one at least."""
    # In float64: the bound is not rounded up to a float32.
    counts: list[int] = np.maximum(np.add.reduce(shares >= np.float64(least), axis=1), 1).tolist()
    return counts


def _order(logits: Floats, count: int) -> Places:
    """Where the `count` largest of each row are, the largest first, and of equals the lower index."""
    if count == 1:
        first: Places = logits.argmax(axis=1, keepdims=True)
        return first
    total = logits.shape[1]
    if total > FEW_CLASSES and count < total // 4:
        found = np.argpartition(logits, total - count, axis=1)[:, total - count :]
        found.sort(axis=1)
        rows = np.arange(len(logits))[:, None]
        largest = logits[rows, found]
        # Unless others are equal to the least of these: which of them were found is chance.
        if np.count_nonzero(logits >= largest.min(axis=1, keepdims=True)) == largest.size:
            return found[rows, (-largest).argsort(axis=1, kind="stable")]
    return (-logits).argsort(axis=1, kind="stable")[:, :count]
