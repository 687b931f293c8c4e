from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from nets import architectures
from nets.activations import ACTIVATIONS, initialise
from nets.figures import figures
from nets.models.projection import SAFE_CHANNELS, StridedProjection
from specs.architectures import ARCHITECTURES
from specs.networks.base import LEAST_IMAGE_SIZE
from specs.options import Options
from specs.registry import UnknownName
from tests.nets.conftest import IMAGE_SIZE, narrow, one_of_each_file, small_network

LARGEST_IMAGE_SIZE = 512


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def having(option: str) -> list[str]:
    """The names of the networks that have this option."""
    return [name for name, entry in ARCHITECTURES.items() if option in entry.options.model_fields]


def on_meta(options: Options, *, channels: int = 3, image_size: int = 32) -> nn.Module:
    """A network of 10 classes that has shapes and no values."""
    with torch.device("meta"):
        return architectures.build(options, classes=10, channels=channels, image_size=image_size).eval()


def meta_logits(network: nn.Module, *, channels: int = 3, image_size: int = 32) -> Tensor:
    logits: Tensor = network(torch.zeros(2, channels, image_size, image_size, device="meta"))
    return logits


def flow_back(network: nn.Module, *, channels: int, image_size: int) -> Tensor:
    """Logits of three images in training, after a step back that reaches all parameters."""
    logits: Tensor = network(torch.randn(3, channels, image_size, image_size))
    cross_entropy(logits, torch.tensor([0, 1, 3])).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    return logits


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("image_size", "channels"), [(8, 3), (33, 1)])
def test_builds_runs_and_flows_back(name: str, image_size: int, channels: int) -> None:
    network = architectures.build(narrow(name), classes=4, channels=channels, image_size=image_size, seed=0)
    assert flow_back(network, channels=channels, image_size=image_size).shape == (3, 4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_whole_network_takes_the_smallest_and_the_largest_images(name: str) -> None:
    options = ARCHITECTURES[name].options()
    assert options.least_image_size() == LEAST_IMAGE_SIZE
    # 65 is the first for which `auto` takes the paper's stem.
    for image_size, channels in ((LEAST_IMAGE_SIZE, 1), (65, 3), (LARGEST_IMAGE_SIZE, 1)):
        network = on_meta(options, channels=channels, image_size=image_size)
        assert meta_logits(network, channels=channels, image_size=image_size).shape == (2, 10)


@pytest.mark.parametrize("name", [*one_of_each_file(), "resnet50"])
def test_the_largest_images_reach_all_parameters(name: str) -> None:
    network = on_meta(ARCHITECTURES[name].options(), channels=3, image_size=LARGEST_IMAGE_SIZE).train()
    meta_logits(network, channels=3, image_size=LARGEST_IMAGE_SIZE).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


# With `auto` every network takes the smallest images there are: the two tests above hold it to that.
@pytest.mark.parametrize("stem", ["paper", "small"])
@pytest.mark.parametrize("name", having("stem"))
def test_the_least_image_size_is_the_least(name: str, stem: str) -> None:
    options = narrow(name, stem=stem)
    least = options.least_image_size()
    network = architectures.build(options, classes=4, channels=1, image_size=least, seed=0)
    flow_back(network, channels=1, image_size=least)
    if least > LEAST_IMAGE_SIZE:
        with pytest.raises((RuntimeError, ValueError)):
            smaller = architectures.build(options, classes=4, channels=1, image_size=least - 1, seed=0)
            flow_back(smaller, channels=1, image_size=least - 1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_multiply_accumulates_are_half_of_torchs_operations(name: str) -> None:
    for image_size in (IMAGE_SIZE, 40):
        network = architectures.build(narrow(name), classes=10, channels=3, image_size=image_size, seed=0)
        counts = figures(network, channels=3, image_size=image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.zeros(1, 3, image_size, image_size))
        assert 2 * counts.macs == counter.get_total_flops() > 0


@pytest.mark.parametrize("name", having("width"))
def test_every_width_fits_together(name: str) -> None:
    counts = []
    for width in (0.0625, 0.3, 8.0):
        network = on_meta(ARCHITECTURES[name].options(width=width))
        assert meta_logits(network).shape == (2, 10)
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
    assert 2 * counts[0] < counts[1] < counts[2] / 10


@pytest.mark.parametrize("name", having("dropout"))
def test_dropout_is_asked_for(name: str) -> None:
    network = on_meta(narrow(name, dropout=0.25))
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.25}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_image_is_judged_alone_in_evaluation_mode(name: str) -> None:
    network = small_network(name).double().eval()
    images = torch.randn(5, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float64)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_learns(name: str) -> None:
    network = small_network(name).to(memory_format=torch.channels_last)
    images = torch.randn(24, 1, IMAGE_SIZE, IMAGE_SIZE).to(memory_format=torch.channels_last)
    labels = torch.arange(24) % 10
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    before = torch.get_rng_state()
    first, second = small_network(name), small_network(name)
    other = architectures.build(narrow(name), classes=10, channels=1, image_size=IMAGE_SIZE, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert any(not torch.equal(one, two) for one, two in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_options_survive_being_written_down(name: str) -> None:
    options = narrow(name)
    assert architectures.architecture_options(options.model_dump(mode="json")) == options


def test_an_unknown_architecture_is_an_error() -> None:
    with pytest.raises(UnknownName, match="resnet18"):
        architectures.architecture_options({"name": "resnet19"})


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "wide_resnet50_2", "mobilenet_v1", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2"],
)
@pytest.mark.parametrize(
    ("stem", "image_size", "cells"), [("small", 32, 16), ("paper", 32, 1), ("auto", 64, 64), ("auto", 65, 9)]
)
def test_the_stem_decides_the_size_of_the_last_features(name: str, stem: str, image_size: int, cells: int) -> None:
    assert last_cells(narrow(name, stem=stem), image_size) == cells


def last_cells(options: Options, image_size: int) -> int:
    """Pixels of the features that are averaged in the end."""
    network = on_meta(options, channels=1, image_size=image_size)
    seen: list[int] = []
    network.get_submodule("avgpool").register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].shape[2] * inputs[0].shape[3])
    )
    meta_logits(network, channels=1, image_size=image_size)
    (cells,) = seen
    return cells


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_works(activation: str) -> None:
    # Networks of one file are made of the same blocks.
    for name in set(one_of_each_file()) & set(having("activation")):
        flow_back(small_network(name, activation=activation), channels=1, image_size=IMAGE_SIZE)


@pytest.mark.parametrize("name", having("activation"))
def test_the_activation_that_is_asked_for_is_the_only_one(name: str) -> None:
    kinds = {key: type(entry.make()) for key, entry in ACTIVATIONS.items()}
    for chosen in ("tanh", "relu6"):
        found = {type(module) for module in on_meta(narrow(name, activation=chosen)).modules()}
        assert {key for key, kind in kinds.items() if kind in found} - {"linear"} == {chosen}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_gain_keeps_the_second_moment(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(400, 5000)
    with torch.no_grad():
        initialise(layer, name)
        before = torch.randn(50, 400, generator=generator)
        activations = ACTIVATIONS[name].make()(before)
        after = layer(activations)
    assert after.square().mean().sqrt() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("groups", [1, 32])
def test_convolutions_begin_with_weights_that_keep_gradients(groups: int) -> None:
    layer = nn.Conv2d(32, 64, 3, groups=groups)
    initialise(layer, "relu")
    assert layer.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)
    assert layer.bias is not None
    assert not layer.bias.any()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_narrow_strided_pointwise_convolution_is_left_to_onednn(name: str) -> None:
    def endangered(module: nn.Module) -> bool:
        return (
            isinstance(module, nn.Conv2d)
            and not isinstance(module, StridedProjection)
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
        )

    assert not [module for module in small_network(name).modules() if endangered(module)]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("inputs", [3, 8, SAFE_CHANNELS, 24])
def test_a_strided_projection_has_the_gradients_of_the_convolution(inputs: int) -> None:
    layer = StridedProjection(inputs, 16, 2).to(memory_format=torch.channels_last)
    images = torch.randn(29, inputs, 9, 9).to(memory_format=torch.channels_last)
    outputs = layer(images)
    upstream = torch.randn_like(outputs)
    outputs.backward(upstream)
    weight = layer.weight.detach().double().contiguous().requires_grad_()
    wanted = conv2d(images.double().contiguous(), weight, stride=2)
    wanted.backward(upstream.double())
    torch.testing.assert_close(outputs.double(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad.double(), weight.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(layer.eval()(images), outputs, rtol=1e-4, atol=1e-5)
