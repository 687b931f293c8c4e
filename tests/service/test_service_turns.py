"""Turns at the cores, for threads that ask networks beside the batches."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.batching import BATCH_SECONDS, BatcherClosed
from service.turns import Turns


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns()
    yield made
    made.close()


class Doubling:
    """A network that takes so long for an image, and keeps how many it was given at a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.sizes: list[int] = []

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.sizes.append(len(images))
        time.sleep(self.seconds * len(images))
        return 2 * images


def test_many_images_of_a_slow_network_take_a_turn_each(turns: Turns) -> None:
    slow, quick = Doubling(0.6 * BATCH_SECONDS), Doubling(0.0)
    for network, count in ((slow, 4), (quick, 64)):
        images = np.arange(count, dtype=np.float32)
        assert np.array_equal(turns.in_turn(network)(images), 2 * images)
    assert slow.sizes == [1, 1, 1, 1], "others have theirs in between"
    assert quick.sizes[0] == 1
    assert len(quick.sizes) < 32


def test_after_the_end_there_are_no_turns(turns: Turns) -> None:
    network = turns.in_turn(Doubling(0.0))
    turns.close()
    with pytest.raises(BatcherClosed):
        network(np.zeros(1, dtype=np.float32))


def test_at_once_is_now_or_not_at_all(turns: Turns) -> None:
    assert turns.at_once(lambda: 1) == 1

    def look(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return images + (turns.at_once(lambda: 1) is not None)

    # Who has the turn may go on within it; another thread may not, which the tests of predictions see.
    assert turns.alone(look)(np.zeros(1, dtype=np.float32)) == 1
