"""How good a network is, under the names that models carry."""

from __future__ import annotations

from nets.architectures import Network
from nets.datasets import Dataset
from nets.evaluation import evaluate


def scores(network: Network, data: Dataset) -> dict[str, float]:
    """Accuracy (0 to 1) and mean cross-entropy on the validation and the test split."""
    validation = evaluate(network, data.validation, data)
    test = evaluate(network, data.test, data)
    return {
        "validation_accuracy": validation.accuracy,
        "validation_loss": validation.loss,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
    }
