"""From logits to answers: probabilities, and the classes that are most probable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray


class Answer(TypedDict):
    """One class and how probable it is."""

    label: str
    index: int
    probability: float


class NonFiniteLogits(ArithmeticError):
    """Logits that are not finite numbers have no probabilities."""


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax over the last axis, in float64; NonFiniteLogits if any logit is infinite or not a number."""
    exact = np.asarray(logits, dtype=np.float64)
    if not np.all(np.isfinite(exact)):
        raise NonFiniteLogits("The network's output is not finite, so there are no probabilities.")
    powers = np.exp(exact - exact.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def top_answers(logits: NDArray[Any], classes: Sequence[str], *, top_k: int) -> list[Answer]:
    """The `top_k` most probable classes of one row of logits (classes,), best first (of equals, the lower index)."""
    shares = probabilities(logits)
    if shares.shape != (len(classes),):
        raise ValueError(f"{len(classes)} classes need as many logits, in one row")
    order = np.argsort(-shares, kind="stable")[: max(1, top_k)]
    return [Answer(label=classes[index], index=int(index), probability=float(shares[index])) for index in order]
