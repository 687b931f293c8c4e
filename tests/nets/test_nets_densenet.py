from __future__ import annotations

import pytest
import torch
from torch import nn

from specs.networks.densenet import DENSENETS
from tests.nets.conftest import IMAGE_SIZE, small_network
from tests.nets.full_size import parameters_and_macs
from tests.nets.torchvision_peers import assert_same_answers, ours, published_macs, shapes, theirs

PARAMETERS = {
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}


def test_all_names_have_figures() -> None:
    assert list(PARAMETERS) == [entry.name for entry in DENSENETS]


@pytest.mark.parametrize("name", PARAMETERS)
def test_is_torchvisions_network(name: str) -> None:
    parameters, macs = parameters_and_macs(name)
    assert parameters == PARAMETERS[name]
    assert round(macs / 1e9, 3) == published_macs(name)
    assert shapes(ours(name)) == shapes(theirs(name))


@pytest.mark.parametrize("name", PARAMETERS)
def test_gives_torchvisions_answers(name: str) -> None:
    assert_same_answers(ours(name), theirs(name), image_size=33)


@pytest.mark.parametrize(("width", "growth", "stem"), [(1.0, 32, 64), (0.5, 16, 32), (0.0625, 8, 8), (2.0, 64, 128)])
def test_width_scales_growth_and_stem(width: float, growth: int, stem: int) -> None:
    network = ours("densenet121", width=width)
    assert network.get_submodule("features.conv0").weight.shape[0] == stem
    for layer in network.get_submodule("features.denseblock3").children():
        assert layer.get_submodule("conv1").weight.shape[0] == 4 * growth
        assert layer.get_submodule("conv2").weight.shape[0] == growth


def test_a_layer_sees_all_before_it() -> None:
    block = small_network("densenet121").get_submodule("features.denseblock1").eval()
    images = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        features = block(images)
        torch.testing.assert_close(features[:, :8], images)
        for number, layer in enumerate(block.children()):
            before = features[:, : 8 + 8 * number]
            torch.testing.assert_close(features[:, 8 + 8 * number : 16 + 8 * number], layer([before]))


def test_dropout_follows_each_convolution_but_the_first() -> None:
    network = small_network("densenet121", dropout=0.5)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    calls: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _module, _inputs, _output, name=name: calls.append(name))
    network(torch.randn(2, 1, IMAGE_SIZE, IMAGE_SIZE))
    assert len(calls) == convolutions - 1
