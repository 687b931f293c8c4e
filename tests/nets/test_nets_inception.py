from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from formats.graphs import GRAPH_NAME, filled_graph
from formats.manifest import GOLDEN_NAME
from formats.weights import read_weights
from nets import architectures
from nets.architectures import architecture_options, build, without_auxiliary
from nets.batches import normalised
from nets.datasets import Dataset
from nets.figures import figures
from nets.layers import layers_of
from nets.publishing import Publication, load_network, publish, state_arrays
from nets.training import train
from specs.architectures import ARCHITECTURES
from specs.networks.inception import INCEPTIONS
from tests.nets.conftest import IMAGE_SIZE, FolderObserver, GraphMemory, narrow, plan, small_network
from tests.nets.full_size import parameters_and_macs
from tests.nets.torchvision_peers import (
    assert_same_answers,
    ours,
    published_macs,
    shapes,
    share_random_state,
    theirs,
)

NAMES = [entry.name for entry in INCEPTIONS]
# By name: the side of the paper's images, parameters, the weight of an auxiliary loss, how many there are.
PAPERS = {"googlenet": (224, 6_624_904, 0.3, 2), "inception_v3": (299, 23_834_568, 0.4, 1)}
# With the paper's stem: GoogLeNet halves five times; Inception v3 loses what padding would have kept.
PAPER_CELLS = {("googlenet", 75): 4, ("inception_v3", 75): 1, ("googlenet", 128): 16, ("inception_v3", 128): 4}
LEAST = {"googlenet": 15, "inception_v3": 75}


def peer(name: str, *, auxiliary: bool = False) -> nn.Module:
    return theirs(name, aux_logits=auxiliary, init_weights=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("auxiliary", [False, True])
def test_is_torchvisions_network(name: str, auxiliary: bool) -> None:
    image_size, wanted, _, _ = PAPERS[name]
    parameters, macs = parameters_and_macs(name, image_size=image_size, auxiliary=auxiliary)
    assert (parameters == wanted) == (not auxiliary)
    assert round(macs / 1e9, 3) == published_macs(name)
    assert shapes(ours(name, auxiliary=auxiliary)) == shapes(peer(name, auxiliary=auxiliary))


# The least of torchvision's, and sizes that leave a rest at other halvings.
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("more", [0, 1, 18])
def test_gives_torchvisions_answers(name: str, more: int) -> None:
    assert_same_answers(ours(name), peer(name), image_size=LEAST[name] + more)


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_heads_give_torchvisions_answers(name: str) -> None:
    mine, other = ours(name, auxiliary=True), peer(name, auxiliary=True)
    share_random_state(mine, other)
    for module in (*mine.modules(), *other.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0
    images = torch.randn(2, 3, PAPERS[name][0], PAPERS[name][0])
    with torch.no_grad():
        logits, *auxiliary = mine.train()(images)
        wanted, *heads = other.train()(images)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    for head, wanted_head in zip(auxiliary, reversed(heads), strict=True):
        torch.testing.assert_close(head, wanted_head, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("stem", "image_size", "cells"),
    [("small", 8, 1), ("small", 32, 16), ("auto", 64, 64), ("auto", 75, None), ("auto", 128, None)],
)
def test_the_stem_decides_the_size_of_the_last_features(
    name: str, stem: str, image_size: int, cells: int | None
) -> None:
    options = ARCHITECTURES[name].options(stem=stem)
    seen: list[int] = []
    with torch.device("meta"):
        network = architectures.build(options, classes=10, channels=3, image_size=image_size)
        network.get_submodule("avgpool").register_forward_hook(
            lambda _module, inputs, _output: seen.append(inputs[0][0, 0].numel())
        )
        network.eval()(torch.zeros(1, 3, image_size, image_size))
    assert seen == [cells or PAPER_CELLS[name, image_size]]


def test_the_third_branch_can_be_the_papers() -> None:
    network = ours("googlenet", branch3_kernel=5)
    third = {name: module for name, module in network.named_modules() if name.endswith(".branch3.1.conv")}
    assert len(third) == 9
    assert {module.kernel_size for module in third.values()} == {(5, 5)}
    # Table 1 says 159K of 1024 for the first block.
    block = network.get_submodule("inception3a")
    weights = sum(module.weight.numel() for module in block.modules() if isinstance(module, nn.Conv2d))
    assert weights == 159.5 * 1024
    assert sum(parameter.numel() for parameter in network.parameters()) == 7_005_832
    assert small_network("googlenet", branch3_kernel=5)(torch.zeros(2, 1, 9, 9)).shape == (2, 10)


def with_heads(name: str, **options: Any) -> nn.Module:
    return small_network(name, auxiliary=True, **options)


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_heads_of_a_base_are_left_out_too(name: str) -> None:
    look = {"classes": 10, "channels": 1, "image_size": IMAGE_SIZE}
    base = {"name": name, "width": 0.0625}
    whole, lean = (
        architecture_options({"name": "fpnet", "base": {**base, "auxiliary": auxiliary}}) for auxiliary in (True, False)
    )
    network, options = without_auxiliary(build(whole, **look, seed=0), whole, **look)
    assert options == lean
    assert network.state_dict().keys() == build(lean, **look, seed=0).state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_logits_come_in_training_alone(name: str) -> None:
    _, _, weight, heads = PAPERS[name]
    network, images = with_heads(name), torch.randn(4, 1, IMAGE_SIZE, IMAGE_SIZE)
    assert network.auxiliary_weight == weight
    outputs = network.train()(images)
    assert [output.shape for output in outputs] == [(4, 10)] * (1 + heads)
    assert network.eval()(images).shape == (4, 10)
    without = small_network(name)
    assert not hasattr(without, "auxiliary_weight")
    assert without.train()(images).shape == (4, 10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image_size", [8, 64, 150])
def test_auxiliary_losses_reach_all_parameters(name: str, image_size: int) -> None:
    options = narrow(name, auxiliary=True)
    network = architectures.build(options, classes=10, channels=1, image_size=image_size, seed=0)
    outputs = network(torch.randn(4, 1, image_size, image_size))
    losses: list[Tensor] = [cross_entropy(output, torch.tensor([0, 1, 2, 3])) for output in outputs]
    sum(losses[1:], losses[0]).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_heads_are_no_part_of_a_prediction(name: str) -> None:
    counts, without = (
        figures(network, channels=1, image_size=IMAGE_SIZE) for network in (with_heads(name), small_network(name))
    )
    assert counts.macs == without.macs
    assert counts.parameters > without.parameters


@pytest.mark.parametrize("name", NAMES)
def test_auxiliary_heads_are_trained(tmp_path: Path, few: Dataset, name: str) -> None:
    network = with_heads(name)
    before = {key: array.copy() for key, array in state_arrays(network).items()}
    result = train(network, few, plan(epochs=1), FolderObserver(tmp_path))
    after = state_arrays(result.network)
    heads = [key for key in after if key.lower().startswith("aux")]
    assert heads
    assert not any(np.array_equal(before[key], after[key]) for key in heads)


def settle(network: nn.Module) -> None:
    """Lets batch normalisation know its features, as it does after a training."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1
    with torch.no_grad():
        network.train()(torch.randn(16, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0)))
    for layer in layers:
        layer.momentum = 0.1


# With the paper's stem an image of 8 pixels is down to one before the last poolings.
def test_a_network_with_auxiliary_heads_is_published_without_them_and_runs_elsewhere(
    tmp_path: Path, few: Dataset
) -> None:
    network = with_heads("googlenet", stem="paper")
    settle(network)
    options = narrow("googlenet", auxiliary=True, stem="paper").model_dump(mode="json")
    request = Publication(id="mdl_1", kind="trained", architecture=options, data=few, training={}, metrics={})
    manifest = publish(tmp_path, network, request=request, graphs=GraphMemory())
    again, _ = load_network(tmp_path)
    assert state_arrays(again).keys() == state_arrays(small_network("googlenet", stem="paper")).keys()
    assert manifest.parameters == sum(parameter.numel() for parameter in again.parameters())
    assert again.train()(torch.randn(2, 1, IMAGE_SIZE, IMAGE_SIZE)).shape == (2, 10)

    golden = load_file(tmp_path / GOLDEN_NAME)
    images = normalised(torch.from_numpy(golden["pixels"]), few, torch.device("cpu")).contiguous().numpy()
    assert np.ptp(golden["logits"], axis=0).min() > 1e-3
    whole = filled_graph((tmp_path / GRAPH_NAME).read_bytes(), read_weights(tmp_path / manifest.weights.file))
    session = onnxruntime.InferenceSession(whole, providers=["CPUExecutionProvider"])
    compiled = openvino.compile_model(openvino.Core().read_model(whole), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for logits in (session.run(["logits"], {"images": images})[0], compiled(images)[0]):
        np.testing.assert_allclose(logits, golden["logits"], rtol=1e-4, atol=1e-4)


def test_convolutions_with_as_many_channels_as_classes_are_no_heads() -> None:
    network = architectures.build(narrow("googlenet", auxiliary=True), classes=16, channels=1, image_size=8, seed=0)
    wide = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    assert any(module.out_channels == 16 for module in wide.values())
    assert not wide.keys() & set(layers_of(network).heads)
    assert len(layers_of(network).heads) == 3
