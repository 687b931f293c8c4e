"""The search for how much to cut for a speed, where a clock would tell what a formula tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from nets import architectures, datasets
from nets.architectures import Network
from nets.datasets import Dataset
from nets.errors import TargetNotReached
from nets.figures import multiply_accumulates
from nets.filters import Cutter, cutter
from specs.architectures import ARCHITECTURES
from specs.datasets import BUILTIN_DATASETS
from specs.pruning import FilterOptions
from workers.speed import ENOUGH, TRIES, Speeds, share_for_speed

SIDE = 8
Law = Callable[[float], float]
# How many times as fast a network is that has this share of the multiply-accumulates left.
LAWS: dict[str, Law] = {
    "as the work": lambda left: 1 / left,
    "calls cost half": lambda left: 1 / (0.5 + 0.5 * left),
    "bound by memory": lambda left: left**-0.5,
    "in steps": lambda left: 1.0 if left > 0.6 else 1.3 if left > 0.3 else 2.0,
}


class Formula:
    """Says how fast a network would be, and counts how often it was asked."""

    def __init__(self, whole: Network, law: Law) -> None:
        self._whole, self._law, self.asked = _macs(whole), law, 0

    def of(self, network: Network) -> float:
        self.asked += 1
        return self._law(_macs(network) / self._whole)


def _macs(network: Network) -> int:
    return multiply_accumulates(network, channels=1, image_size=SIDE)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return datasets.load(BUILTIN_DATASETS["digits"], image_size=SIDE, seed=0, validation_fraction=0.2)


@pytest.fixture(scope="module")
def whole(data: Dataset) -> Cutter:
    options = ARCHITECTURES["resnet18"].options(width=0.25)
    network = architectures.build(options, classes=10, channels=1, image_size=SIDE, seed=0).eval()
    return cutter(network, data, method="l1-filter", options=FilterOptions(round_to=1), seed=0)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("asked", [1.05, 1.3, 1.8])
def test_what_was_asked_for_is_found_with_little_more_cut(whole: Cutter, data: Dataset, law: str, asked: float) -> None:
    speeds = Formula(whole.network, LAWS[law])
    share, found = share_for_speed(cast(Speeds, speeds), whole, data, asked=asked)
    assert found == Formula(whole.network, LAWS[law]).of(whole.at(share)) >= asked
    assert speeds.asked <= TRIES + 1
    if law != "in steps":
        assert found <= asked * ENOUGH * 1.05
    else:
        assert Formula(whole.network, LAWS[law]).of(whole.at(max(0.0, share - 0.15))) < found


def test_the_most_there_is_is_told(whole: Cutter, data: Dataset) -> None:
    speeds = Formula(whole.network, LAWS["calls cost half"])
    with pytest.raises(TargetNotReached, match=r"speedup 2\.5 cannot be reached") as caught:
        share_for_speed(cast(Speeds, speeds), whole, data, asked=2.5)
    assert caught.value.best == speeds.of(whole.at(1.0))
