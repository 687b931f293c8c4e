from __future__ import annotations

from pathlib import Path

from nets.datasets import Dataset
from nets.rehearsal import LEAST, WARM, rehearse
from tests.nets.conftest import plan, small_network


def test_a_rehearsal_of_long_steps_says_that_it_goes_on(few: Dataset, tmp_path: Path) -> None:
    """After each batch, not after each step: a step may take many."""
    signs = list[int]()
    rehearse(small_network("mlp"), few, plan(batch_size=10, accumulation=5), tmp_path, told=lambda: signs.append(1))
    assert len(signs) >= 5 * min(WARM + LEAST, 3)
