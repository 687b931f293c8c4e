from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from specs.networks.resnet import RESNETS
from tests.nets.conftest import small_network
from tests.nets.full_size import parameters_and_macs
from tests.nets.torchvision_peers import assert_same_answers, ours, published_macs, shapes, theirs

# Table 1 of the paper has 1.8, 3.6, 3.8, 7.6 and 11.3 thousand million multiply-accumulates: those of bottlenecks are
# fewer than torchvision's, since their stride is in the first convolution.
FIGURES = {
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "wide_resnet50_2": (68_883_240, 11_398_021_120),
    "wide_resnet101_2": (126_886_696, 22_753_050_624),
}


def test_torchvision_has_all_but_one() -> None:
    names = [entry.name for entry in RESNETS]
    assert names == [*FIGURES, "wide_resnet"]
    assert set(FIGURES) <= set(torchvision.models.list_models())


@pytest.mark.parametrize("name", FIGURES)
def test_has_the_published_figures(name: str) -> None:
    parameters, macs = parameters_and_macs(name)
    assert (parameters, macs) == FIGURES[name]
    assert round(macs / 1e9, 3) == published_macs(name)


@pytest.mark.parametrize("name", FIGURES)
def test_gives_torchvisions_answers(name: str) -> None:
    mine, peer = ours(name), theirs(name)
    assert shapes(mine) == shapes(peer)
    assert_same_answers(mine, peer, image_size=33)


@pytest.mark.parametrize("name", ["resnet50", "wide_resnet50_2"])
def test_a_bottleneck_takes_its_stride_in_the_middle(name: str) -> None:
    first = small_network(name).get_submodule("layer2.0")
    strides = {key: module.stride for key, module in first.named_modules() if isinstance(module, nn.Conv2d)}
    assert strides == {"conv1": (1, 1), "conv2": (2, 2), "conv3": (1, 1), "downsample.0": (2, 2)}


def test_width_scales_all_channels_alike() -> None:
    network = small_network("wide_resnet50_2", width=0.5)
    block = network.get_submodule("layer4.0")
    outputs = [module.out_channels for module in block.modules() if isinstance(module, nn.Conv2d)]
    assert outputs == [512, 512, 1024, 1024]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
