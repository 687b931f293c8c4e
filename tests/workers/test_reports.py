"""The one word that a report comes down to, and why."""

from __future__ import annotations

from typing import Any

import pytest

from inference.comparing import Comparison, Timing
from workers.reports import judgement


def latency(low: float) -> Comparison:
    return Comparison(1, Timing(2.0, 2.2), Timing(2.0 / (low + 0.1), 2.3), low + 0.1, low, low + 0.2, 99)


def sizes(after: int, macs: int, nonzero: int) -> dict[str, Any]:
    return {
        "bytes": {"before": 1000, "after": after},
        "macs": {"before": 100, "after": macs},
        "parameters": {"before": 50, "after": 50},
        "nonzero_parameters": {"before": 50, "after": nonzero},
    }


VERDICTS = [
    # The upper end of the change in accuracy, the lower end of the speed-up, then of 1000 bytes, of 100
    # multiply-accumulates and of 50 parameters what is left.
    (0.004, 1.8, (300, 40, 50), "faster", "times as fast"),
    (-0.015, 1.06, (300, 40, 50), "faster", "1.06 to 1.26"),
    (0.004, 1.02, (120, 100, 5), "smaller_only", "no maintained runtime on x86"),
    (0.004, 0.7, (120, 40, 50), "smaller_only", "what a call costs"),
    (0.004, 1.04, (990, 40, 50), "not_faster", "what a call costs"),
    (0.004, 0.5, (2000, 200, 50), "not_faster", "as much to do"),
    (-0.035, 3.0, (100, 40, 50), "too_costly", "3.5 points less"),
]


@pytest.mark.parametrize(("lost", "low", "left", "verdict", "words"), VERDICTS)
def test_the_verdict(lost: float, low: float, left: tuple[int, int, int], verdict: str, words: str) -> None:
    word, reason = judgement(lost, latency(low), sizes(*left))
    assert word == verdict
    assert words in reason


def test_where_it_is_known_why_it_is_no_faster_that_is_said() -> None:
    assert (
        "for want of instructions"
        in judgement(0.0, latency(1.0), sizes(300, 100, 50), why="for want of instructions")[1]
    )
    assert "for want" not in judgement(0.0, latency(2.0), sizes(300, 100, 50), why="for want of instructions")[1]
