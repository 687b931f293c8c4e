from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from nets import architectures
from specs.architectures import ARCHITECTURES
from specs.jobs import JOB_SPEC
from specs.problems import field_problems
from tests.nets.conftest import small_network
from tests.nets.full_size import parameters_and_macs

BLOCKS = ["pre_activation", "post_activation"]

# Torchvision lacks these. Millions of parameters at 10 classes by depth and widening, as the paper's tables round them.
MILLIONS = {
    (40, 1): 0.6,
    (40, 2): 2.2,
    (40, 4): 8.9,
    (40, 8): 35.7,
    (28, 10): 36.5,
    (28, 12): 52.5,
    (22, 8): 17.2,
    (22, 10): 26.8,
    (16, 8): 11.0,
    (16, 10): 17.1,
}


@pytest.mark.parametrize(("depth", "widening"), MILLIONS)
def test_has_the_parameters_of_the_papers_tables(depth: int, widening: int) -> None:
    parameters, _ = parameters_and_macs("wide_resnet", classes=10, image_size=32, depth=depth, widening=widening)
    assert round(parameters / 1e6, 1) == MILLIONS[depth, widening]


# As osmr/imgclsmob publishes its trained ones for CIFAR-10; its counts have normalisation and activations in them.
PUBLISHED = {
    (16, 10): (17_116_634, 2_414.04e6),
    (28, 10): (36_479_194, 5_246.98e6),
    (40, 8): (35_748_314, 5_176.90e6),
}


@pytest.mark.parametrize(("depth", "widening"), PUBLISHED)
def test_has_the_published_figures(depth: int, widening: int) -> None:
    found = parameters_and_macs("wide_resnet", classes=10, image_size=32, depth=depth, widening=widening)
    parameters, counted = PUBLISHED[depth, widening]
    assert found[0] == parameters
    assert 0.999 * counted < found[1] < counted


def test_has_the_figures_of_the_usual_one() -> None:
    assert parameters_and_macs("wide_resnet", classes=10, image_size=32) == (36_479_194, 5_243_328_768)


def test_counts_its_layers_in_its_depth() -> None:
    for depth in (10, 16, 28, 40):
        network = small_network("wide_resnet", depth=depth)
        layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        # 6n + 4: at widening 1 the first stage has no projection, and the head is a layer.
        assert len(layers) + 1 == depth


@pytest.mark.parametrize(("depth", "near"), [(11, "10 and 16"), (20, "22 and 16"), (27, "28 and 22"), (99, "100 and")])
def test_a_depth_that_cannot_be_is_answered_with_the_nearest(depth: int, near: str) -> None:
    job = {"kind": "train", "dataset": "digits", "architecture": {"name": "wide_resnet", "depth": depth}}
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python(job)
    (problem,) = field_problems(caught.value.errors(), job)
    assert problem["pointer"] == "#/architecture/depth"
    assert "6n + 4" in problem["message"]
    assert near in problem["hint"]


@pytest.mark.parametrize("option", [{"depth": 4}, {"depth": 106}, {"widening": 0}, {"widening": 17}, {"depth": 28.0}])
def test_bounds_of_depth_and_widening(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ARCHITECTURES["wide_resnet"].options(**option)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("stem", "image_size", "side"), [("auto", 64, 16), ("paper", 65, 17), ("small", 224, 56), ("auto", 224, 14)]
)
def test_large_images_are_reduced_unless_the_papers_stem_is_asked_for(
    block: str, stem: str, image_size: int, side: int
) -> None:
    options = ARCHITECTURES["wide_resnet"].options(stem=stem, block=block, depth=10)
    seen: list[torch.Size] = []
    with torch.device("meta"):
        network = architectures.build(options, classes=10, channels=3, image_size=image_size).eval()
        network.get_submodule("avgpool").register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].shape))
        network(torch.zeros(1, 3, image_size, image_size))
    assert seen == [(1, 640, side, side)]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_whose_branch_is_silent_passes_its_input(block: str) -> None:
    unit = small_network("wide_resnet", depth=16, block=block).get_submodule("layer2.1").eval()
    images = torch.randn(3, 32, 4, 4).abs()
    with torch.no_grad():
        unit.get_parameter("conv2.weight").zero_()
        torch.testing.assert_close(unit(images), images, rtol=0, atol=0)


def test_a_pre_activation_block_that_changes_the_shape_activates_its_shortcut() -> None:
    unit = small_network("wide_resnet", depth=10).get_submodule("layer2.0").eval()
    images = torch.randn(3, 16, 4, 4)
    with torch.no_grad():
        unit.get_parameter("conv2.weight").zero_()
        active = unit.get_submodule("bn1")(images).relu()
        torch.testing.assert_close(unit(images), unit.get_submodule("shortcut")(active))


@pytest.mark.parametrize(("block", "dropouts"), [("pre_activation", 1), ("post_activation", 2)])
def test_dropout_is_within_the_blocks(block: str, dropouts: int) -> None:
    network = small_network("wide_resnet", depth=16, block=block, dropout=0.3)
    for stage in ("layer1", "layer2", "layer3"):
        for unit in network.get_submodule(stage).children():
            shares = [module.p for module in unit.modules() if isinstance(module, nn.Dropout)]
            assert shares == [0.3] * dropouts
    assert sum(isinstance(module, nn.Dropout) for module in network.modules()) == 6 * dropouts


ORDER = {
    "pre_activation": "bn1 relu1 conv1 bn2 relu2 dropout conv2",
    "post_activation": "conv1 bn1 relu1 dropout1 conv2 bn2 relu2 dropout2",
}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_goes_through_its_layers_in_the_papers_order(block: str) -> None:
    unit = small_network("wide_resnet", depth=16, block=block).get_submodule("layer2.1")
    seen: list[str] = []
    for name, module in unit.named_children():
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: seen.append(name))
    unit(torch.randn(4, 32, 4, 4))
    assert " ".join(seen) == ORDER[block]
