"""How good a network is, under the names that models carry."""

from __future__ import annotations

from dataclasses import dataclass

from nets.answers import Answers, answers
from nets.architectures import Network
from nets.datasets import Dataset


@dataclass(frozen=True)
class Judged:
    """A network's answers on both splits."""

    validation: Answers
    test: Answers

    def scores(self) -> dict[str, float]:
        """Accuracy (0 to 1) and mean cross-entropy on the validation and the test split."""
        return {
            "validation_accuracy": self.validation.accuracy,
            "validation_loss": self.validation.loss,
            "test_accuracy": self.test.accuracy,
            "test_loss": self.test.loss,
        }


def judge(network: Network, data: Dataset) -> Judged:
    """Asks a network for all images that it was not trained on."""
    return Judged(answers(network, data.validation, data), answers(network, data.test, data))
