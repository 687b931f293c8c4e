from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nets.datasets import Dataset
from nets.errors import TooLarge
from nets.memory import GROWTH, check_fits, footprint
from specs.architectures import ARCHITECTURES
from tests.nets.conftest import IMAGE_SIZE, bits, one_of_each_file, small_network


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


@pytest.mark.parametrize("name", one_of_each_file())
def test_what_a_forward_pass_keeps_is_counted_without_one(few: Dataset, name: str) -> None:
    network = small_network(name)
    before = bits(network)
    found = footprint(network, few)
    assert bits(network) == before
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert found.fixed == 4 * 6 * weights
    assert footprint(network, few, averaged=True).fixed == 4 * 8 * weights

    own = {tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda tensor: tensor
    ):
        network.train()(torch.zeros(8, 1, IMAGE_SIZE, IMAGE_SIZE))
    real = sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)
    assert found.per_image == pytest.approx(GROWTH * real / 8, rel=0.15)
    assert found.validation > 30 * IMAGE_SIZE**2
