"""How far probabilities can be believed: fitted on validation images, checked on test images.

A temperature (Guo et al.: On Calibration of Modern Neural Networks, arXiv 1706.04599) makes probabilities as large as
the network is often right. Label sets are conformal: one holds the right label as often as was asked for, whatever
the network is worth, if the images to come are like those of validation (Angelopoulos and Bates: A Gentle
Introduction to Conformal Prediction, arXiv 2107.07511). A class is in the set if it is probable enough, which
makes the smallest sets on average (Sadinle, Lei and Wasserman: Least Ambiguous Set-Valued Classifiers, arXiv
1609.00451). Adaptive sets (arXiv 2006.02544, 2009.14193) add classes until their probabilities sum up to enough. They
are larger, above all for good networks, unless a lot is drawn for each image, and then an image gets other answers
each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from formats.manifest import COVERAGES, WHOLE, Calibration, CalibrationCheck, CoverageCheck
from inference.answers import label_set_sizes, probabilities

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

# Fewer say nothing of a temperature; more tell no more of either, and take time and memory.
FEWEST_IMAGES = 20
MOST_IMAGES = 10_000
LOWEST, HIGHEST = 1 / 20, 20.0
# Each look at the temperatures between two takes so many of them; the next one is between the neighbours of the best.
LOOKS, TEMPERATURES = 6, 9
BINS = 15
# What coverages are told of on test images.
CHECKED = (0.9, 0.95)
ROWS = 4096
# Bounds are lower by this share of themselves: where many images have the same answer, another runtime's rounding must
# not put all of them on the other side.
MARGIN = 1e-4
# What is less is no bound: probabilities are told in float32, which has hardly anything below it.
LEAST = 1e-30
# Below any logit, and finite at every temperature.
NEVER = -1e100
NO_BETTER = 1e-9


def fit(logits: Logits, labels: Labels) -> Calibration:
    """A temperature and bounds of label sets from logits (N, classes) and labels (N,) of validation images.

    Of more than MOST_IMAGES some are drawn, the same ones each time.
    """
    if len(labels) > MOST_IMAGES:
        drawn = np.random.default_rng(0).permutation(len(labels))[:MOST_IMAGES]
        logits, labels = logits[drawn], labels[drawn]
    against = _Against(logits, labels)
    temperature = _temperature(against)
    bounds = _bounds(np.exp(against.log_shares(temperature)[0]))
    return Calibration(temperature=temperature, images=len(labels), least_probabilities=bounds)


def check(calibration: Calibration, logits: Logits, labels: Labels) -> Calibration:
    """The same with what it is worth on test images, of which logits (N, classes) and labels (N,) are given."""
    if not len(labels):
        return calibration
    bounds = [calibration.least_probability(asked) or 0.0 for asked in CHECKED]
    parts = [_look(calibration.temperature, bounds, logits[at : at + ROWS], labels[at : at + ROWS])
             for at in range(0, len(labels), ROWS)]  # fmt: skip
    right, plain, calibrated, *rest = np.concatenate(parts, axis=1)
    coverage = tuple(
        CoverageCheck(asked=asked, measured=float(held.mean()), mean_set_size=float(sizes.mean()))
        for asked, held, sizes in zip(CHECKED, rest[::2], rest[1::2], strict=True)
    )
    found = CalibrationCheck(
        images=len(labels),
        ece_uncalibrated=calibration_error(plain, right),
        ece=calibration_error(calibrated, right),
        coverage=coverage,
    )
    return calibration.model_copy(update={"test": found})


def calibration_error(confidence: NDArray[Any], right: NDArray[Any]) -> float:
    """How far confidence (N,) and accuracy are apart, on average over BINS of confidence (Guo et al., equation 3)."""
    bins = np.clip(np.ceil(confidence * BINS), 1, BINS).astype(np.intp) - 1
    gaps = np.bincount(bins, weights=right.astype(np.float64) - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / max(1, len(bins)))


class _Against:
    """What speaks against the label of each image: by how much the logits of other classes are above its own."""

    def __init__(self, logits: Logits, labels: Labels) -> None:
        gaps, rows = logits.astype(np.float64), np.arange(len(labels))
        gaps -= gaps[rows, labels][:, None]
        gaps[rows, labels] = NEVER
        self._most = gaps.max(axis=1)
        self._below = gaps - self._most[:, None]

    def __len__(self) -> int:
        return len(self._most)

    def log_shares(self, temperature: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Logarithms of the probabilities of the label and of all else, (N,) each."""
        against = self._most / temperature + np.log(np.exp(self._below / temperature).sum(axis=1))
        return -np.logaddexp(0, against), -np.logaddexp(0, -against)


def _temperature(against: _Against) -> float:
    """The temperature at which labels are most likely, from LOWEST to HIGHEST; 1 for fewer than FEWEST_IMAGES.

    Of a network that is right on all N images none would be low enough. So each counts as something else than its
    label once in N + 2 times, which N images do not rule out (Platt: Probabilistic Outputs for Support Vector
    Machines, 1999, section 2.2).
    """
    if len(against) < FEWEST_IMAGES:
        return 1.0
    doubt = 1 / (len(against) + 2)

    def surprise(power: float) -> float:
        label, others = against.log_shares(math.exp(power))
        return -float((1 - doubt) * label.mean() + doubt * others.mean())

    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(LOOKS):
        powers = np.linspace(low, high, TEMPERATURES).tolist()
        best = int(np.argmin([surprise(power) for power in powers]))
        low, high = powers[max(0, best - 1)], powers[min(TEMPERATURES - 1, best + 1)]
    # Where no temperature is better than none, as for logits that are all alike, there is none.
    return round(math.exp(powers[best]), 4) if surprise(powers[best]) < surprise(0) - NO_BETTER else 1.0


def _bounds(own: NDArray[np.float64]) -> tuple[float, ...]:
    """How probable a class has to be for each of COVERAGES, from the probabilities (N,) of the labels.

    Of N images and one to come, each is as likely as the others to be the k-th best: so the k-th best of N holds for
    the one to come with probability k / (N + 1) at least. Coverages for which k would be above N have no bound.
    """
    best_first, count = -np.sort(-own), len(own)
    ranks = (-(-(count + 1) * asked // WHOLE) for asked in COVERAGES)
    return tuple(_lower(float(best_first[rank - 1])) for rank in ranks if rank <= count)


def _lower(bound: float) -> float:
    return float(f"{bound * (1 - MARGIN):.5e}") if bound > LEAST else 0.0


def _look(temperature: float, bounds: Sequence[float], logits: Logits, labels: Labels) -> NDArray[np.float64]:
    """Of some images, a column each: right or not, confidence without and with the temperature.

    Then for each bound of label sets whether the set held the label, and its size.
    """
    plain, shares = probabilities(logits), probabilities(logits, temperature)
    right, own = shares.argmax(axis=1) == labels, shares[np.arange(len(labels)), labels]
    sets = [row for bound in bounds for row in (right | (own >= np.float64(bound)), label_set_sizes(shares, bound))]
    return np.array([right, plain.max(axis=1), shares.max(axis=1), *sets], dtype=np.float64)
