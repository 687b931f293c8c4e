from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from formats.weights import read_weights, write_dense, write_sparse
from nets import architectures
from nets.errors import UnknownLayer
from nets.figures import figures
from nets.pruning import Gradually, Masks, prunable_weights, select, sparsity
from nets.publishing import state_arrays, weights_sha256
from specs.architectures import ARCHITECTURES
from specs.pruning import PRUNING_METHODS
from tests.nets.conftest import IMAGE_SIZE, small_network

METHODS = [name for name, method in PRUNING_METHODS.items() if method.cuts == "weights"]


def cut_of(network: nn.Module, method: str = "magnitude", **options: object) -> Masks:
    return select(network, method=method, options=PRUNING_METHODS[method].options(**options))


def count(masks: Masks) -> int:
    return sum(int(cut.sum()) for cut in masks.cut.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_cuts_exactly_the_asked_share(method: str, name: str, share: float) -> None:
    network = small_network(name)
    total = sum(weight.numel() for weight in prunable_weights(network).values())
    masks = cut_of(network, method, sparsity=share)
    masks.apply(network)
    assert count(masks) == int(total * share + 0.5)
    assert sparsity(network).prunable == pytest.approx(share, abs=1 / total)
    assert figures(network, channels=1, image_size=IMAGE_SIZE).nonzero_parameters < total


# Of the networks that are to be small; wide enough that what is never cut is little. Weights as they are drawn.
SMALL = [
    ("resnet18", {"width": 0.5}, 0.10),
    ("vgg11_bn", {"width": 0.5}, 0.10),
    ("densenet121", {"width": 0.5}, 0.13),
    ("mobilenet_v2", {}, 0.13),
    ("shufflenet_v2", {}, 0.13),
    ("mlp", {}, 0.13),
]


@pytest.mark.parametrize(("name", "options", "share"), SMALL, ids=[name for name, _, _ in SMALL])
def test_of_nine_weights_cut_of_ten_the_file_is_a_tenth_or_little_more(
    name: str, options: dict[str, Any], share: float, tmp_path: Path
) -> None:
    chosen = ARCHITECTURES[name].options(**options)
    network = architectures.build(chosen, classes=10, channels=3, image_size=32, seed=0)
    write_dense(tmp_path / "dense", state_arrays(network))
    cut_of(network, sparsity=0.9).apply(network)
    write_sparse(tmp_path / "sparse", state_arrays(network))
    assert (tmp_path / "sparse").stat().st_size <= share * (tmp_path / "dense").stat().st_size
    again = read_weights(tmp_path / "sparse")
    assert weights_sha256(again) == weights_sha256(state_arrays(network))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_cuts_the_smallest_weights_of_a_layer_first(scope: str) -> None:
    network = small_network("mlp")
    cut = cut_of(network, sparsity=0.5, scope=scope).cut
    for name, weight in prunable_weights(network).items():
        assert weight[cut[name]].abs().max() <= weight[~cut[name]].abs().min()


def test_the_scale_of_a_layer_does_not_decide_how_much_it_loses() -> None:
    network = small_network("mlp")
    before = {name: int(cut.sum()) for name, cut in cut_of(network, sparsity=0.9).cut.items()}
    with torch.no_grad():
        list(prunable_weights(network).values())[-1].mul_(0.01)
    assert {name: int(cut.sum()) for name, cut in cut_of(network, sparsity=0.9).cut.items()} == before


def test_layers_are_compared_by_lamp() -> None:
    """Lee et al., arXiv 2010.07611, equation 5, written out weight by weight."""
    network = small_network("mlp")
    scores = []
    for weight in prunable_weights(network).values():
        squares = weight.double().flatten() ** 2
        scores.append(torch.stack([square / squares[squares >= square].sum() for square in squares]))
    cut = torch.cat([cut.flatten() for cut in cut_of(network, sparsity=0.7).cut.values()])
    found = torch.cat(scores)
    assert found[cut].max() <= found[~cut].min() * (1 + 1e-9)


def test_layers_are_cut_alike_in_layer_scope() -> None:
    network = small_network("resnet18")
    for name, cut in cut_of(network, sparsity=0.75, scope="layer").cut.items():
        assert int(cut.sum()) == int(cut.numel() * 0.75 + 0.5), name


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_keeps_a_weight(name: str, scope: str) -> None:
    network = small_network(name)
    with torch.no_grad():
        next(iter(prunable_weights(network).values())).mul_(1e-9)
    assert not any(cut.all() for cut in cut_of(network, sparsity=0.999, scope=scope).cut.values())


def test_equal_weights_are_cut_in_their_order() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)
    for cut in cut_of(network, sparsity=0.25).cut.values():
        # Each layer keeps its first weight as its largest; four more go from the front.
        assert cut.flatten().tolist() == [False, *[True] * 4, *[False] * 11]


def test_zeros_of_a_pruned_network_count() -> None:
    network = small_network("mlp")
    first = cut_of(network, sparsity=0.5)
    first.apply(network)
    second = cut_of(network, sparsity=0.6)
    total = sum(weight.numel() for weight in prunable_weights(network).values())
    assert count(second) == int(total * 0.6 + 0.5)
    assert all((second.cut[name] | ~cut).all() for name, cut in first.cut.items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_weights_of_layers_are_cut(name: str) -> None:
    network = small_network(name)
    for key in cut_of(network, sparsity=0.5).cut:
        layer = network.get_submodule(key.removesuffix(".weight"))
        assert isinstance(layer, nn.Conv2d | nn.Linear)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_cut_before_stays_cut(method: str) -> None:
    network = small_network("mlp")
    cut_of(network, method, sparsity=0.9).apply(network)
    zeros = {name: weight == 0 for name, weight in prunable_weights(network).items()}
    again = cut_of(network, method, sparsity=0.5)
    assert all((again.cut[name] | ~zeros[name]).all() for name in zeros)
    assert count(again) == sum(int(zero.sum()) for zero in zeros.values())


@pytest.mark.parametrize("name", ["mlp", "resnet18", "mobilenet_v2"])
def test_a_threshold_is_of_absolute_values(name: str) -> None:
    network = small_network(name)
    for key, cut in cut_of(network, threshold=0.05).cut.items():
        weight = prunable_weights(network)[key].abs()
        wanted = weight <= 0.05
        wanted.view(-1)[weight.argmax()] = False  # something has to pass
        assert torch.equal(cut, wanted)
    everything = cut_of(network, threshold=1e6).cut
    for key, cut in everything.items():
        weight = prunable_weights(network)[key].abs()
        assert not cut.view(-1)[weight.argmax()]
        assert int((~cut).sum()) == 1


@pytest.mark.parametrize(("kept", "size"), [(2, 4), (1, 4), (1, 2), (4, 8)])
def test_a_pattern_keeps_the_largest_of_each_block(kept: int, size: int) -> None:
    network = small_network("resnet18")
    for name, cut in cut_of(network, pattern=f"{kept}:{size}").cut.items():
        weight = prunable_weights(network)[name].flatten(1).abs()
        whole = weight.shape[1] // size * size
        mask = cut.flatten(1)
        assert not mask[:, whole:].any()
        blocks, gone = weight[:, :whole].reshape(-1, size), mask[:, :whole].reshape(-1, size)
        assert (gone.sum(1) == size - kept).all()
        for block, out in zip(blocks[:50], gone[:50], strict=True):
            assert block[out].max() <= block[~out].min()


def test_layers_that_are_named_have_their_own_share() -> None:
    network = small_network("resnet18")
    shares = {"layer1.0.conv1": 0.5, "fc": 0.0}
    found = cut_of(network, sparsity=0.9, layers=shares).cut
    assert int(found["layer1.0.conv1.weight"].sum()) == found["layer1.0.conv1.weight"].numel() // 2
    assert not found["fc.weight"].any()
    others = [cut for name, cut in found.items() if name.removesuffix(".weight") not in shares]
    total = sum(cut.numel() for cut in others)
    assert sum(int(cut.sum()) for cut in others) == int(total * 0.9 + 0.5)
    with pytest.raises(UnknownLayer, match=r"layer1\.0\.conv1"):
        cut_of(network, layers={"layer1.0.conf1": 0.5})


def test_rounds_cut_most_at_first_and_end_at_what_was_asked() -> None:
    network = small_network("mlp")
    gradually = Gradually("magnitude", PRUNING_METHODS["magnitude"].options(sparsity=0.8, rounds=4), epochs=10)
    assert gradually.beginnings == [0, 2, 5, 7]
    shares = []
    for epoch in range(10):
        masks = gradually.masks(network, epoch)
        assert (masks is None) == (epoch not in gradually.beginnings)
        if masks is not None:
            masks.apply(network)
            shares.append(sparsity(network).prunable)
    wanted = [0.8 * (1 - (1 - k / 4) ** 3) for k in (1, 2, 3, 4)]
    assert shares == pytest.approx(wanted, abs=1e-3)
