"""How good a network is, under the names that models carry, and how far its probabilities can be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from formats.manifest import Calibration
from inference import calibration
from nets.answers import Answers, Ask, Told, answers, answers_of
from nets.architectures import Network
from nets.datasets import Dataset, Split


@dataclass(frozen=True)
class Judged:
    """A network's answers on both splits, and its calibration if that was asked for."""

    validation: Answers
    test: Answers
    calibration: Calibration | None = None

    def scores(self) -> dict[str, float]:
        """Accuracy (0 to 1) and mean cross-entropy on the validation and the test split."""
        return {
            "validation_accuracy": self.validation.accuracy,
            "validation_loss": self.validation.loss,
            "test_accuracy": self.test.accuracy,
            "test_loss": self.test.loss,
        }

    def calibration_error(self) -> float:
        """The expected calibration error of its softmax, without a temperature, on the test images."""
        return calibration.calibration_error(self.test.confidence.numpy(), self.test.right.numpy())


def judge(network: Network, data: Dataset, told: Told) -> Judged:
    """Asks a network for all images that it was not trained on; `told` hears that it goes on."""
    ask = partial(answers, network, data=data, told=told)
    return Judged(ask(data.validation), ask(data.test))


def judge_and_calibrate(network: Network, data: Dataset, told: Told) -> Judged:
    """The same of a network that is to be published."""
    return _calibrated(partial(answers, network, data=data, keep_logits=True, told=told), data)


def judge_and_calibrate_as_run(ask: Ask, data: Dataset) -> Judged:
    """The same of whatever takes normalised images (N, C, H, W) and gives logits (N, classes)."""
    return _calibrated(partial(answers_of, ask, data=data, keep_logits=True), data)


def _calibrated(asked: Callable[[Split], Answers], data: Dataset) -> Judged:
    validation, test = asked(data.validation), asked(data.test)
    found = _calibration(validation, test)
    return Judged(replace(validation, logits=None), replace(test, logits=None), found)


def _calibration(validation: Answers, test: Answers) -> Calibration | None:
    """Fitted on one split and checked on the other; None for logits that are not all finite."""
    (fitted, labels), (checked, wanted) = (_arrays(given) for given in (validation, test))
    if not (np.isfinite(fitted).all() and np.isfinite(checked).all()):
        return None
    return calibration.check(calibration.fit(fitted, labels), checked, wanted)


def _arrays(given: Answers) -> tuple[calibration.Logits, calibration.Labels]:
    assert given.logits is not None
    return given.logits.numpy(), given.labels.numpy()
