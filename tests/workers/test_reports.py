"""The one word that a report comes down to, and why."""

from __future__ import annotations

from typing import Any

import pytest

from inference.comparing import Comparison, Timing
from workers.reports import judgement


def latency(low: float) -> Comparison:
    return Comparison(1, Timing(2.0, 2.2), Timing(2.0 / (low + 0.1), 2.3), low + 0.1, low, low + 0.2, 99)


def sizes(after: int) -> dict[str, Any]:
    return {"bytes": {"before": 1000, "after": after}}


VERDICTS = [
    # The upper end of the change in accuracy, the lower end of the speed-up, bytes of 1000, whether there are zeros.
    (0.004, 1.8, 300, False, "faster", "times as fast"),
    (-0.015, 1.06, 300, False, "faster", "1.06 to 1.26"),
    (0.004, 1.02, 120, True, "smaller_only", "no maintained runtime on x86"),
    (0.004, 0.7, 120, False, "smaller_only", "what a call costs"),
    (0.004, 1.04, 990, False, "not_faster", "what a call costs"),
    (-0.035, 3.0, 100, False, "too_costly", "3.5 points less"),
]


@pytest.mark.parametrize(("lost", "low", "after", "zeros", "verdict", "words"), VERDICTS)
def test_the_verdict(lost: float, low: float, after: int, zeros: bool, verdict: str, words: str) -> None:
    word, reason = judgement(lost, latency(low), sizes(after), zeros=zeros)
    assert word == verdict
    assert words in reason
