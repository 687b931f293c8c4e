from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from nets.models.shufflenet_v2 import first_stage_channels
from nets.models.shuffling import JoinAndShuffle
from specs.architectures import ARCHITECTURES
from specs.jobs import JOB_SPEC
from specs.problems import field_problems
from tests.nets.conftest import small_network
from tests.nets.full_size import parameters_and_macs
from tests.nets.torchvision_peers import assert_same_answers, ours, published_macs, shapes, theirs

GROUPS = (1, 2, 3, 4, 8)

# Torchvision lacks ShuffleNetV1. Parameters by groups and width at 1000 classes, as osmr/imgclsmob publishes them.
FIRST_VERSION = {
    (1, 1.0): 1_531_936,
    (2, 1.0): 1_733_848,
    (3, 1.0): 1_865_728,
    (4, 1.0): 1_968_344,
    (8, 1.0): 2_434_768,
    (1, 0.75): 975_214,
    (3, 0.75): 1_238_266,
    (1, 0.5): 534_484,
    (3, 0.5): 718_324,
    (1, 0.25): 209_746,
    (3, 0.25): 305_902,
}
# Millions of multiply-accumulates: table 1 of the paper, then the authors' code (megvii-model/ShuffleNet-Series).
FIRST_VERSION_MACS = {
    (1, 1.0): 143,
    (2, 1.0): 140,
    (3, 1.0): 137,
    (4, 1.0): 133,
    (8, 1.0): 137,
    (3, 0.5): 38,
    (8, 0.5): 40,
    (3, 2.0): 524,
    (8, 2.0): 522,
}
# By width: parameters and multiply-accumulates, and the millions of the latter in table 5 of the paper.
SECOND_VERSION = {
    0.5: (1_366_792, 40_476_448, 41),
    1.0: (2_278_604, 144_907_992, 146),
    1.5: (3_503_624, 295_759_392, 299),
    2.0: (7_393_996, 583_253_464, 591),
}


@pytest.mark.parametrize(("groups", "width"), FIRST_VERSION)
def test_the_first_version_has_the_published_parameters(groups: int, width: float) -> None:
    assert parameters_and_macs("shufflenet_v1", groups=groups, width=width)[0] == FIRST_VERSION[groups, width]


@pytest.mark.parametrize(("groups", "width"), FIRST_VERSION_MACS)
def test_the_first_version_costs_what_its_authors_say(groups: int, width: float) -> None:
    _, macs = parameters_and_macs("shufflenet_v1", groups=groups, width=width)
    assert macs / 1e6 == pytest.approx(FIRST_VERSION_MACS[groups, width], rel=0.015)


@pytest.mark.parametrize("width", SECOND_VERSION)
def test_the_second_version_is_torchvisions(width: float) -> None:
    peer_name = f"shufflenet_v2_x{width:.1f}".replace(".", "_")
    parameters, macs, paper = SECOND_VERSION[width]
    assert parameters_and_macs("shufflenet_v2", width=width) == (parameters, macs)
    assert round(macs / 1e9, 3) == published_macs(peer_name)
    assert macs / 1e6 == pytest.approx(paper, rel=0.015)
    mine, peer = ours("shufflenet_v2", width=width), theirs(peer_name)
    assert shapes(mine) == shapes(peer)
    assert_same_answers(mine, peer, image_size=64)


def test_widths_between_the_published_ones_have_channels_between_theirs() -> None:
    assert [first_stage_channels(width) for width in SECOND_VERSION] == [48, 116, 176, 244]
    widths = [number / 64 for number in range(4, 513)]
    channels = [first_stage_channels(width) for width in widths]
    assert channels == sorted(channels)
    assert all(count >= 2 and count % 2 == 0 for count in channels)
    assert first_stage_channels(4.0) == pytest.approx(2 * 244, rel=0.1)


@pytest.mark.parametrize("width", [0.0625, 0.1, 0.37, 1.9])
@pytest.mark.parametrize("groups", GROUPS)
def test_groups_divide_the_channels_of_every_width(groups: int, width: float) -> None:
    network = small_network("shufflenet_v1", groups=groups, width=width)
    logits = network(torch.randn(2, 1, 8, 8))
    assert logits.shape == (2, 10)
    # One grouped convolution before the head is left ungrouped: the first.
    pointwise = [m.groups for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert pointwise == [1, *[groups] * 31]


@pytest.mark.parametrize(("option", "hint"), [(5, "1, 2, 3, 4, 8"), (0, "at least 1"), (9, "at most 8"), (True, "")])
def test_only_the_papers_groups_are_taken(option: int, hint: str) -> None:
    job = {"kind": "train", "dataset": "digits", "architecture": {"name": "shufflenet_v1", "groups": option}}
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python(job)
    (problem,) = field_problems(caught.value.errors(), job)
    assert problem["pointer"] == "#/architecture/groups"
    assert hint in problem["hint"]


def test_a_shuffle_gives_each_group_channels_of_all() -> None:
    unit = small_network("shufflenet_v1", groups=3, width=1.0).get_submodule("stage2.1")
    shuffled = unit.get_submodule("shuffle")(torch.arange(60.0).reshape(1, 60, 1, 1)).flatten().tolist()
    assert shuffled[:6] == [0, 20, 40, 1, 21, 41]
    assert sorted(shuffled) == list(range(60))


def test_every_group_of_a_unit_hears_of_all_groups() -> None:
    unit = small_network("shufflenet_v1", groups=4, width=1.0).get_submodule("stage2.1").eval()
    images = torch.rand(2, 272, 4, 4, requires_grad=True)
    branch = unit(images) - images
    for group in branch.chunk(4, dim=1):
        (gradient,) = torch.autograd.grad(group.sum(), images, retain_graph=True)
        assert all(part.any() for part in gradient.chunk(4, dim=1))


@pytest.mark.parametrize("strided", [True, False])
def test_a_unit_of_the_first_version_adds_or_appends_to_its_input(strided: bool) -> None:
    unit = small_network("shufflenet_v1", groups=2, width=1.0).get_submodule(f"stage3.{0 if strided else 1}").eval()
    inputs = 200 if strided else 400
    images = torch.rand(2, inputs, 4, 4)
    with torch.no_grad():
        unit.get_parameter("expand.weight").zero_()
        outputs = unit(images)
    assert outputs.shape[1] == 400
    wanted = nn.functional.avg_pool2d(images, 3, stride=2, padding=1) if strided else images
    torch.testing.assert_close(outputs[:, :inputs], wanted)
    assert not outputs[:, inputs:].any()


def test_half_of_the_channels_pass_a_unit_of_the_second_version() -> None:
    unit = small_network("shufflenet_v2", width=1.0).get_submodule("stage2.1").eval()
    images = torch.randn(2, 116, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(unit(images)[:, ::2], images[:, :58], rtol=0, atol=0)


def test_the_last_convolution_is_wide_from_width_two_on() -> None:
    for width, last in ((0.25, 1024), (1.9, 1024), (2.0, 2048), (3.0, 3072)):
        network = small_network("shufflenet_v2", width=width)
        assert network.get_parameter("fc.weight").shape == (10, last)
    assert ARCHITECTURES["shufflenet_v2"].options().width == 1.0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3, 58])
def test_joined_and_shuffled_is_what_torch_makes_of_it(channels: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    wider = torch.randn(2, 2 * channels, 3, 5).to(memory_format=layout)
    for left in (torch.randn(2, channels, 3, 5).to(memory_format=layout), wider.chunk(2, 1)[0]):
        halves = [
            half.detach().requires_grad_() for half in (left, torch.randn_like(wider).chunk(2, 1)[1].contiguous())
        ]
        gradient = torch.randn_like(wider)
        ours = JoinAndShuffle()(*halves)
        theirs = nn.functional.channel_shuffle(torch.cat(halves, 1), 2)
        assert torch.equal(ours, theirs)
        found, wanted = (torch.autograd.grad(made, halves, gradient) for made in (ours, theirs))
        assert all(torch.equal(mine, other) for mine, other in zip(found, wanted, strict=True))
