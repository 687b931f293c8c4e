from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.nets.conftest import small_network
from tests.nets.full_size import parameters_and_macs
from tests.nets.torchvision_peers import assert_same_answers, ours, published_macs, shapes, theirs

# Torchvision lacks MobileNetV1. Parameters by width at 1000 classes, as osmr/imgclsmob publishes them, and millions of
# multiply-accumulates and of parameters as tables 6 and 7 of the paper round them.
FIRST_VERSION = {
    0.25: (470_072, 41, 0.5),
    0.5: (1_331_592, 149, 1.3),
    0.75: (2_585_560, 325, 2.6),
    1.0: (4_231_976, 569, 4.2),
}
# Table 7 again: multiply-accumulates of width 1 by side of the images.
RESOLUTIONS = {224: 569, 192: 418, 160: 290, 128: 186}


@pytest.mark.parametrize("width", FIRST_VERSION)
def test_the_first_version_has_the_published_figures(width: float) -> None:
    parameters, macs = parameters_and_macs("mobilenet_v1", width=width)
    exact, million_macs, millions = FIRST_VERSION[width]
    assert parameters == exact
    assert round(parameters / 1e6, 1) == millions
    # The paper cuts off one and rounds another.
    assert macs / 1e6 == pytest.approx(million_macs, abs=0.6)


@pytest.mark.parametrize("image_size", RESOLUTIONS)
def test_the_first_version_costs_what_the_paper_says_of_each_resolution(image_size: int) -> None:
    _, macs = parameters_and_macs("mobilenet_v1", image_size=image_size)
    assert macs / 1e6 == pytest.approx(RESOLUTIONS[image_size], rel=0.005)


def test_the_second_version_is_torchvisions() -> None:
    parameters, macs = parameters_and_macs("mobilenet_v2")
    assert (parameters, macs) == (3_504_872, 300_774_272)
    assert round(macs / 1e9, 3) == published_macs("mobilenet_v2")
    mine, peer = ours("mobilenet_v2"), theirs("mobilenet_v2")
    assert shapes(mine) == shapes(peer)
    assert_same_answers(mine, peer, image_size=64)


def test_a_separable_convolution_filters_each_channel_and_then_mixes_them() -> None:
    unit = small_network("mobilenet_v1").get_submodule("features.2")
    convolutions = [module for module in unit.modules() if isinstance(module, nn.Conv2d)]
    assert [(layer.kernel_size, layer.groups) for layer in convolutions] == [((3, 3), 16), ((1, 1), 1)]
    images = torch.zeros(1, 16, 8, 8)
    images[:, 3] = 1
    filtered = convolutions[0](images)
    assert filtered[:, 3].any()
    assert not filtered[:, :3].any()
    assert not filtered[:, 4:].any()
