from __future__ import annotations

from dataclasses import dataclass

import pytest

from workers.cadence import Cadence


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("cost", "expected"), [(0.1, 30.0), (1.5, 30.0), (10.0, 200.0)])
def test_checkpoints_come_every_so_often_and_never_cost_more_than_a_twentieth(cost: float, expected: float) -> None:
    clock = Clock()
    cadence = Cadence(30.0, clock)
    assert not cadence.due(), "what came before the first step is no part of it"
    clock.now += 29.9
    assert not cadence.due()
    clock.now += 0.1
    assert cadence.due()
    with cadence.saving():
        clock.now += cost
    clock.now += expected - 0.1
    assert not cadence.due()
    clock.now += 0.2
    assert cadence.due()
