"""Channels cut out of every network of the registry, by every method that cuts channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nets import architectures
from nets.activations import ACTIVATIONS
from nets.coupling import Coupled, coupled_channels
from nets.criteria import Evidence, lots
from nets.datasets import Dataset, Split
from nets.errors import CannotCut, TargetNotReached, UnknownLayer
from nets.figures import multiply_accumulates, parameter_count
from nets.filters import Cutter, cutter, measures, share_for
from nets.narrowing import fit_shapes, narrowed
from nets.pixels import Pixels
from specs.architectures import ARCHITECTURES
from specs.pruning import PRUNING_METHODS, FilterOptions
from tests.nets.conftest import IMAGE_SIZE, narrow, one_of_each_file, small_network

METHODS = [name for name, method in PRUNING_METHODS.items() if method.cuts == "channels"]
FREE = FilterOptions(round_to=1)
# Those of one file are made of the same blocks, but for bottlenecks.
NAMES = [*one_of_each_file(), "resnet50"]


def images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)


def network_of(name: str) -> nn.Module:
    """A network whose normalisations have something to say, in double precision."""
    network = small_network(name).double()
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)
    return network.eval()


def groups_of(network: nn.Module) -> list[Coupled]:
    return coupled_channels(network, channels=1, image_size=IMAGE_SIZE)


def by_lot(network: nn.Module, few: Dataset, **options: Any) -> Cutter:
    groups = groups_of(network)
    scores = lots(groups, Evidence(network, few, seed=3))
    return Cutter(network, groups, scores, FilterOptions.model_validate({"round_to": 1, **options}))


def silence(network: nn.Module, groups: list[Coupled], kept: dict[str, Tensor]) -> None:
    """Nobody reads the channels that are cut any more."""
    for group in groups:
        cut = ~torch.isin(torch.arange(group.size), kept[group.name])
        for slices in group.read:
            channels = group.before_shuffle(slices.channels) if group.groups > 1 else slices.channels
            places = slices.places[cut[channels]]
            layer = network.get_submodule(slices.layer)
            parts = layer.groups if isinstance(layer, nn.Conv2d) else 1
            weight = layer.weight.data.unflatten(0, (parts, -1))
            for place in places.tolist():
                weight[place // weight.shape[2], :, place % weight.shape[2]] = 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_cut_network_answers_as_one_whose_cut_channels_nobody_reads(name: str, share: float, few: Dataset) -> None:
    network = network_of(name)
    cut = by_lot(network, few)
    kept = dict(cut.keep(share))
    lean = cut.at(share)
    silence(network, list(cut.groups), kept)
    torch.testing.assert_close(lean(images()), network(images()))
    assert parameter_count(lean) < parameter_count(network)
    assert all(len(kept[group.name]) >= 1 for group in cut.groups)


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_is_an_ordinary_one(name: str, few: Dataset) -> None:
    network = network_of(name)
    lean = by_lot(network, few).at(0.4)
    again = architectures.build(narrow(name), classes=10, channels=1, image_size=IMAGE_SIZE, seed=9).double().eval()
    fit_shapes(again, {key: value.shape for key, value in lean.state_dict().items()})
    again.load_state_dict(lean.state_dict())
    assert torch.equal(again(images()), lean(images()))
    again.train()
    cross_entropy(again(images()), torch.tensor([0, 1, 2])).backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
    twice = by_lot(again.eval(), few).at(0.4)
    assert twice(images()).shape == (3, 10)
    assert parameter_count(twice) < parameter_count(again)


LEARNT = [name for name, entry in ACTIVATIONS.items() if [*entry.make().parameters()]]


@pytest.mark.parametrize("activation", LEARNT)
@pytest.mark.parametrize("name", [name for name in NAMES if "activation" in ARCHITECTURES[name].options.model_fields])
def test_what_an_activation_learns_binds_no_channels(name: str, activation: str) -> None:
    bound, free = (groups_of(small_network(name, activation=each)) for each in (activation, "relu"))
    assert [(group.name, group.size) for group in bound] == [(group.name, group.size) for group in free]


@pytest.mark.parametrize("activation", LEARNT)
def test_what_an_activation_learns_stays(activation: str, few: Dataset) -> None:
    network = small_network("resnet18", activation=activation)
    lean = by_lot(network, few).at(0.4)
    slopes = {key: value for key, value in network.state_dict().items() if ".relu." in key}
    assert slopes
    assert all(torch.equal(lean.state_dict()[key], value) for key, value in slopes.items())
    assert parameter_count(lean) < parameter_count(network)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v1", "mlp"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_cuts(method: str, name: str, few: Dataset) -> None:
    network = small_network(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    if method == "bn-scale" and name == "mlp":
        with pytest.raises(CannotCut, match="no batch normalisation"):
            cutter(network, few, method=method, options=FREE, seed=0)
        return
    cuts = [cutter(network, few, method=method, options=FREE, seed=0).at(0.5) for _ in range(2)]
    assert parameter_count(cuts[0]) < parameter_count(network)
    for key, value in cuts[0].state_dict().items():
        assert torch.equal(value, cuts[1].state_dict()[key])
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random-filter"])
def test_what_does_nothing_goes_first(method: str, few: Dataset) -> None:
    network = small_network("resnet18")
    block = network.get_submodule("layer3.0")
    idle = torch.arange(0, block.conv1.out_channels, 3)
    block.conv1.weight.data[idle] *= 1e-4
    block.bn1.weight.data[idle] *= 1e-4
    kept = cutter(network, few, method=method, options=FREE, seed=0).keep(0.5)["layer3.0.conv1"]
    assert not torch.isin(idle, kept).any()


def test_a_layer_gives_its_share_where_each_is_asked(few: Dataset) -> None:
    cut = by_lot(small_network("resnet18"), few, scope="layer")
    kept = cut.keep(0.5)
    assert {len(kept[group.name]) / group.size for group in cut.groups} == {0.5}


def test_layers_give_what_is_asked_of_each_and_the_others_the_rest(few: Dataset) -> None:
    whole = by_lot(small_network("resnet18"), few)
    one, other = (group.name for group in whole.groups[:2])
    for scope in ("global", "layer"):
        cut = by_lot(small_network("resnet18"), few, scope=scope, layers={one: 0.0, other: 0.75})
        kept = cut.keep(0.5)
        sizes = {group.name: group.size for group in cut.groups}
        assert (len(kept[one]), len(kept[other])) == (sizes[one], sizes[other] // 4)
        rest = [name for name in sizes if name not in {one, other}]
        left = sum(len(kept[name]) for name in rest) / sum(sizes[name] for name in rest)
        assert left == pytest.approx(0.5, abs=0.05), "layers that keep a channel at least"
        assert cut.gone(kept) == 1 - sum(map(len, kept.values())) / sum(sizes.values())
    every = by_lot(small_network("resnet18"), few, layers=dict.fromkeys(sizes, 0.5))
    assert every.gone(every.keep(0.9)) == 0.5


def test_a_layer_that_is_not_there_is_named_with_the_nearest(few: Dataset) -> None:
    options = FilterOptions(layers={"layer3.0.conv": 0.5})
    with pytest.raises(UnknownLayer, match=r"layer3\.0\.conv1"):
        cutter(small_network("resnet18"), few, method="l1-filter", options=options, seed=0)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v1", "shufflenet_v2", "densenet121"])
@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_what_is_left_is_a_multiple_or_all(round_to: int, name: str, few: Dataset) -> None:
    cut = by_lot(small_network(name, width=0.25), few, round_to=round_to)
    sizes = {group.name: group.size for group in cut.groups}
    for share in (0.2, 0.7, 1.0):
        kept = {group: len(channels) for group, channels in cut.keep(share).items()}
        assert all(count % round_to == 0 or count == sizes[group] for group, count in kept.items())
    assert sum(kept.values()) < sum(sizes.values())


@pytest.mark.parametrize(("image_size", "looks"), [(8, 1), (128, 4), (512, 50)])
def test_of_large_images_few_are_looked_at_at_a_time(image_size: int, looks: int, few: Dataset) -> None:
    pixels = Pixels(np.zeros((50, image_size, image_size, 1), dtype=np.uint8))
    data = replace(few, train=Split(pixels, torch.arange(50), few.train.labels))
    network = architectures.build(narrow("mlp"), classes=10, channels=1, image_size=image_size, seed=0)
    told: list[None] = []
    options = FilterOptions(round_to=1)
    cutter(network, data, method="taylor", options=options, seed=0, told=lambda: told.append(None))
    assert len(told) == looks


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_shuffled_groups_stay_of_one_size(groups: int, few: Dataset) -> None:
    options = narrow("shufflenet_v1", groups=groups, width=1.0)
    network = architectures.build(options, classes=10, channels=1, image_size=IMAGE_SIZE, seed=0).double().eval()
    cut = by_lot(network, few)
    for share in (0.1, 0.5, 0.77, 1.0):
        kept = dict(cut.keep(share))
        lean = narrowed(network, cut.groups, kept)
        silent = narrowed(network, cut.groups, {group.name: torch.arange(group.size) for group in cut.groups})
        silence(silent, list(cut.groups), kept)
        torch.testing.assert_close(lean(images()), silent(images()))


@pytest.mark.parametrize("name", ["macs", "parameters"])
def test_a_target_is_reached_with_the_least_cut(name: str, few: Dataset) -> None:
    network = small_network("mobilenet_v2")
    cut = by_lot(network, few)
    measure = measures(cut, few)[name]
    share = share_for(cut, measure, 0.4, name=name)
    assert measure(cut.at(share)) <= 0.4 < measure(cut.at(share - 0.01)) + 0.02
    count = {
        "parameters": parameter_count,
        "macs": lambda n: multiply_accumulates(n, channels=1, image_size=IMAGE_SIZE),
    }
    assert measure(cut.at(share)) == pytest.approx(count[name](cut.at(share)) / count[name](network))


def test_a_target_out_of_reach_tells_how_near_it_comes(few: Dataset) -> None:
    cut = by_lot(small_network("mobilenet_v2"), few)
    with pytest.raises(TargetNotReached, match=r"macs 0.0001 cannot be reached") as caught:
        share_for(cut, measures(cut, few)["macs"], 0.0001, name="macs")
    assert 0.0001 < caught.value.best < 0.2


def test_a_shuffle_that_is_not_known_is_not_guessed_at() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(512, 10)
    )
    with pytest.raises(CannotCut, match="shuffled"):
        groups_of(network)


def test_a_network_that_has_taught_can_be_cut() -> None:
    network = network_of("vgg11")
    free = groups_of(network)
    assert free
    assert [group.name for group in groups_of(network.requires_grad_(False))] == [group.name for group in free]
    assert not any(parameter.requires_grad for parameter in network.parameters()), "it is left as it was"


def test_shapes_of_another_kind_are_left_for_the_weights_to_fail_on() -> None:
    network = small_network("mlp")
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    fit_shapes(network, dict.fromkeys(shapes, (3, 3, 3)))
    fit_shapes(network, dict.fromkeys(shapes, (0, 0)))
    assert shapes == {name: tuple(value.shape) for name, value in network.state_dict().items()}
