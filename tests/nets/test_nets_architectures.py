from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import conv2d, cross_entropy

from nets import architectures
from nets.activations import ACTIVATIONS
from nets.figures import figures
from nets.models.projection import SAFE_CHANNELS, StridedProjection
from specs.architectures import ARCHITECTURES
from specs.registry import UnknownName
from tests.nets.conftest import IMAGE_SIZE, narrow, small_network

PEERS: list[tuple[str, Any, int, int]] = [
    ("resnet18", torchvision.models.resnet18, 11_689_512, 1_814_073_344),
    ("mobilenet_v2", torchvision.models.mobilenet_v2, 3_504_872, 300_774_272),
]


@pytest.mark.parametrize(("name", "peer", "parameters", "macs"), PEERS)
def test_is_torchvisions_network_at_full_width(name: str, peer: Any, parameters: int, macs: int) -> None:
    options = ARCHITECTURES[name].options(stem="paper")
    ours = architectures.build(options, classes=1000, channels=3, image_size=224, seed=0)
    counts = figures(ours, channels=3, image_size=224)
    assert (counts.parameters, counts.macs) == (parameters, macs)
    theirs = peer(weights=None)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for statistic in theirs.buffers():
            statistic.add_(torch.rand(statistic.shape).to(statistic.dtype))
        ours.load_state_dict(theirs.state_dict(), strict=True)
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    theirs.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("image_size", [8, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_builds_runs_and_flows_back(name: str, image_size: int, channels: int) -> None:
    network = architectures.build(narrow(name), classes=4, channels=channels, image_size=image_size, seed=0)
    logits = network(torch.randn(3, channels, image_size, image_size))
    cross_entropy(logits, torch.tensor([0, 1, 3])).backward()
    assert logits.shape == (3, 4)
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_image_is_judged_alone_in_evaluation_mode(name: str) -> None:
    network = small_network(name).eval()
    images = torch.randn(5, 1, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize(("stem", "image_size", "cells"), [("small", 32, 16), ("paper", 32, 1), ("auto", 64, 64)])
def test_the_stem_decides_the_size_of_the_last_features(name: str, stem: str, image_size: int, cells: int) -> None:
    network = architectures.build(narrow(name, stem=stem), classes=2, channels=1, image_size=image_size, seed=0)
    seen: list[int] = []
    network.get_submodule("avgpool").register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].shape[2] * inputs[0].shape[3])
    )
    network.eval()(torch.zeros(1, 1, image_size, image_size))
    assert seen == [cells]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["mlp", "resnet18", "mobilenet_v2"])
def test_every_activation_of_the_options_is_built(name: str, activation: str) -> None:
    network = small_network(name, activation=activation)
    network(torch.randn(2, 1, IMAGE_SIZE, IMAGE_SIZE)).sum().backward()
    assert any(isinstance(module, type(ACTIVATIONS[activation].make())) for module in network.modules())


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
