"""What each layer bears: by shares that were really cut, and with no more than that suggested."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nets.datasets import Dataset
from nets.filters import Cutter, cutter
from nets.sensitivity import CHANNEL_SHARES, WEIGHT_SHARES, Layer, bearable_layers, of_channels, of_weights
from specs.pruning import FilterOptions
from tests.nets.conftest import small_network


def cutter_of(network: nn.Module, few: Dataset, **options: int) -> Cutter:
    return cutter(network, few, method="l1-filter", options=FilterOptions.model_validate(options), seed=0)


def test_shares_of_channels_are_those_that_went(few: Dataset) -> None:
    network = small_network("resnet18", width=0.25)
    rounded = cutter_of(network, few)
    layers = {layer.name: layer for layer in of_channels(rounded, few)}
    sizes = {layer.size: set(layer.accuracy) for layer in layers.values()}
    # In eights: of sixteen channels a half at most, of a hundred and twenty-eight what was tried.
    assert sizes == {16: {0.5}, 32: {0.25, 0.5, 0.75}, 64: set(CHANNEL_SHARES), 128: set(CHANNEL_SHARES)}
    free = {layer.name: layer for layer in of_channels(cutter_of(network, few, round_to=1), few)}
    assert all(set(layer.accuracy) == set(CHANNEL_SHARES) for layer in free.values())


def test_a_layer_that_nothing_was_cut_of_bears_nothing(few: Dataset) -> None:
    layers = list(of_channels(cutter_of(small_network("resnet18"), few), few))
    assert min(layer.size for layer in layers) == 8
    for layer in layers:
        assert (layer.bears(0.0) == 0.0) == (layer.size == 8), "any accuracy is enough here, if there is one"


def test_what_is_suggested_cuts_what_was_measured(few: Dataset) -> None:
    network = small_network("resnet18", width=0.25)
    layers = list(of_channels(cutter_of(network, few), few))
    shares = bearable_layers(layers, 0.0)
    options = FilterOptions(layers=shares)
    kept = cutter(network, few, method="l1-filter", options=options, seed=0).keep(0.5)
    for layer in layers:
        assert len(kept[layer.name]) == round((1 - max(layer.accuracy)) * layer.size)


def test_weights_are_left_as_they_were(few: Dataset) -> None:
    network = small_network("mlp")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    told: list[None] = []
    layers = list(of_weights(network, few, lambda: told.append(None)))
    assert all(set(layer.accuracy) == set(WEIGHT_SHARES) for layer in layers)
    assert len(told) == len(layers) * len(WEIGHT_SHARES)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("accuracy", "borne"),
    [({0.25: 0.80, 0.5: 0.79, 0.75: 0.5}, 0.5), ({0.25: 0.78, 0.5: 0.80}, 0.5), ({0.25: 0.7}, 0.0), ({}, 0.0)],
)
def test_a_layer_bears_what_costs_a_point(accuracy: dict[float, float], borne: float) -> None:
    assert Layer("x", 16, accuracy).bears(0.8) == borne
