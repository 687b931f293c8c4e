from __future__ import annotations

import pytest

from nets.errors import TooLarge
from nets.memory import check_fits
from specs.architectures import ARCHITECTURES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_cannot_fit_is_told_before_it_is_built(name: str) -> None:
    options = ARCHITECTURES[name].options()
    check_fits(options, classes=10, channels=3, image_size=32, available=10**11)
    with pytest.raises(TooLarge, match="parameters"):
        check_fits(options, classes=10, channels=3, image_size=32, available=10**5)


def test_averaged_weights_are_counted() -> None:
    options = ARCHITECTURES["mlp"].options(hidden=(1000,))
    bytes_each = 4 * (32 * 32 * 3 * 1000 + 1000 + 1000 * 10 + 10)
    check_fits(options, classes=10, channels=3, image_size=32, available=4 * bytes_each)
    with pytest.raises(TooLarge):
        check_fits(options, classes=10, channels=3, image_size=32, available=5 * bytes_each - 1, averaged=True)


def test_a_network_of_terabytes_costs_nothing_to_refuse() -> None:
    options = ARCHITECTURES["mlp"].options(hidden=(16384,) * 16)
    with pytest.raises(TooLarge):
        check_fits(options, classes=10, channels=3, image_size=512, available=64 * 10**9)
