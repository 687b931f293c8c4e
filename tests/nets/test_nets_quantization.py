from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import Tensor, nn

from inference.telemetry import forbid_telemetry
from nets.answers import Answers, Ask, answers
from nets.datasets import Dataset
from nets.errors import AccuracyLost
from nets.export import onnx_model
from nets.sensitivity import Layer
from nets.training import train
from specs.jobs import QuantizeSpec
from tests.nets.conftest import IMAGE_SIZE, FolderObserver, plan, small_network

forbid_telemetry()
from nets.quantization import WAYS, Quantized, integer_layers, quantize  # noqa: E402 - NNCF asks for telemetry as it loads


def compiled(graph: bytes) -> Ask:
    core = openvino.Core()
    model = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_NUM_THREADS": 1})

    def ask(images: Tensor) -> Tensor:
        return torch.from_numpy(np.array(model(np.ascontiguousarray(images.numpy()))[0]))

    return ask


def graph_of(network: nn.Module) -> bytes:
    whole: bytes = onnx_model(network, channels=1, image_size=IMAGE_SIZE).SerializeToString()
    return whole


def quantized(network: nn.Module, data: Dataset, **options: object) -> Quantized:
    spec = QuantizeSpec.model_validate({"model": "any", "calibration_images": 32, **options})
    return quantize(graph_of(network), data, spec, compile_graph=compiled, told=lambda _: None)


def outlier(data: Dataset, folder: Path) -> nn.Module:
    """A network that is good, but for one hidden unit whose values dwarf all others and count for nothing."""
    network = small_network("mlp", hidden=[32, 32])
    train(network, data, plan(epochs=4, batch_size=32), FolderObserver(folder))
    first, second = [module for module in network.modules() if isinstance(module, nn.Linear)][:2]
    with torch.no_grad():
        first.weight[0], first.bias[0], second.weight[:, 0] = 0.0, 1e5, 0.0
    return network.eval()


def test_layers_that_cost_too_much_stay_in_float(tmp_path: Path, digits: Dataset) -> None:
    network = outlier(digits, tmp_path)
    free = quantized(network, digits, max_drop=None)
    assert free.drop > 0.2
    bound = quantized(network, digits, max_drop=0.01)
    assert bound.drop <= 0.01
    assert set(integer_layers(network, bound.model)) < set(integer_layers(network, free.model))
    assert answers(network, digits.validation, digits).accuracy > 0.5
    onnx.checker.check_model(bound.model)


@pytest.mark.parametrize("right", range(1, 200))
def test_a_point_is_a_point_however_it_is_rounded(right: int) -> None:
    labels = torch.zeros(200, dtype=torch.int64)
    predicted = (torch.arange(200) >= right - 1).long()
    after = Answers(labels, predicted, torch.ones(200))
    found = Quantized(onnx.ModelProto(), WAYS[0], after, before=right / 200)
    assert found.drop <= 1 / 200
    assert Layer("conv1", 8, {0.5: after.accuracy - 0.005}).bears(right / 200) == 0.5


def test_a_bound_that_no_layers_hold_is_told(tmp_path: Path, digits: Dataset) -> None:
    network = outlier(digits, tmp_path)

    def worse(graph: bytes) -> Ask:
        """A runtime that gets integers wrong, whichever layers have them."""
        ask = compiled(graph)
        return (lambda images: ask(images).roll(1, 1)) if b"QuantizeLinear" in graph else ask

    spec = QuantizeSpec(model="any", calibration_images=32, max_drop=0.01)
    with pytest.raises(AccuracyLost, match=r"max_drop 0\.01"):
        quantize(graph_of(network), digits, spec, compile_graph=worse, told=lambda _: None)
