from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nets import architectures
from specs.architectures import ARCHITECTURES
from specs.networks.vgg import VGGS
from tests.nets.conftest import IMAGE_SIZE, small_network
from tests.nets.full_size import parameters_and_macs
from tests.nets.torchvision_peers import assert_same_answers, ours, published_macs, shapes, theirs

# Table 2 of the paper has 133, 133, 138 and 144 million parameters.
PARAMETERS = {
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
}
NAMES = [entry.name for entry in VGGS]


def test_all_names_have_figures() -> None:
    assert set(PARAMETERS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_is_torchvisions_network(name: str) -> None:
    parameters, macs = parameters_and_macs(name)
    assert parameters == PARAMETERS[name]
    assert round(macs / 1e9, 3) == published_macs(name)
    assert shapes(ours(name)) == shapes(theirs(name))


# One without and one with batch normalisation: each takes half a gigabyte, and the names tell of the depth.
@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_gives_torchvisions_answers(name: str) -> None:
    assert_same_answers(ours(name, classes=10), theirs(name, num_classes=10), image_size=64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("stem", "image_size", "side"),
    [
        ("auto", 8, 2),
        ("auto", 15, 3),
        ("auto", 16, 2),
        ("auto", 32, 2),
        ("auto", 64, 4),
        ("auto", 65, 2),
        ("small", 224, 14),
        ("paper", 32, 1),
        ("paper", 224, 7),
    ],
)
def test_poolings_leave_something_of_every_image(name: str, stem: str, image_size: int, side: int) -> None:
    options = ARCHITECTURES[name].options(stem=stem)
    with torch.device("meta"):
        network = architectures.build(options, classes=10, channels=1, image_size=image_size)
        features = network.get_submodule("features").eval()(torch.zeros(2, 1, image_size, image_size))
    assert features.shape == (2, 512, side, side)


@pytest.mark.parametrize(
    ("stem", "head", "linears"),
    [
        ("paper", "auto", [(25088, 4096), (4096, 4096), (4096, 10)]),
        ("small", "paper", [(25088, 4096), (4096, 4096), (4096, 10)]),
        ("small", "auto", [(512, 10)]),
        ("paper", "small", [(512, 10)]),
    ],
)
def test_the_head_goes_with_the_stem_unless_it_is_chosen(stem: str, head: str, linears: list[tuple[int, int]]) -> None:
    options = ARCHITECTURES["vgg11_bn"].options(stem=stem, head=head)
    with torch.device("meta"):
        network = architectures.build(options, classes=10, channels=3, image_size=32)
        logits = network(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == linears


@pytest.mark.parametrize("head", ["paper", "small"])
def test_both_heads_take_the_options(head: str) -> None:
    network = small_network("vgg11", head=head, dropout=0.25, activation="tanh")
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.25}
    assert sum(isinstance(module, nn.Tanh) for module in network.modules()) == {"small": 8, "paper": 10}[head]
    assert network(torch.zeros(2, 1, IMAGE_SIZE, IMAGE_SIZE)).shape == (2, 10)


@pytest.mark.parametrize("image_size", [8, 32, 65])
def test_images_keep_their_size_on_the_way_through_fresh_layers(image_size: int) -> None:
    # VGG-19 is 16 convolutions without normalisation: what each loses, the last has lost 16 times.
    options = ARCHITECTURES["vgg19"].options(width=0.25)
    network = architectures.build(options, classes=10, channels=3, image_size=image_size, seed=0)
    sizes: list[float] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.std().item()))
    network.eval()(torch.randn(8, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)))
    assert len(sizes) == 16
    assert all(0.5 < size < 8 for size in sizes)
    # Of an image of variance 1 the first layer makes the square of its gain: 2.
    assert sizes[0] == pytest.approx(2**0.5, rel=0.3)


@pytest.mark.parametrize("image_size", [8, 32])
@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_deep_ones_without_normalisation_start_to_learn(name: str, image_size: int) -> None:
    options = ARCHITECTURES[name].options(width=0.125, dropout=0.0)
    network = architectures.build(options, classes=10, channels=1, image_size=image_size, seed=0)
    images = torch.randn(20, 1, image_size, image_size, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
    for _ in range(25):
        optimizer.zero_grad()
        loss = cross_entropy(network(images), torch.arange(20) % 10)
        loss.backward()
        optimizer.step()
    assert loss.item() < 1
