from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from formats.files import DamagedFiles
from formats.graphs import GRAPH_NAME, filled_graph
from formats.heads import with_activation_maps
from formats.manifest import GOLDEN_NAME, MANIFEST_NAME, ModelManifest, read_manifest
from formats.weights import read_weights
from inference.models import QUANTIZED_TOLERANCE, load_model
from inference.telemetry import forbid_telemetry
from nets.activations import ACTIVATIONS
from nets.answers import Ask
from nets.batches import normalised
from nets.datasets import Dataset
from nets.export import graph, graph_key, onnx_model
from nets.figures import Figures
from nets.layers import Layer
from nets.models import densenet, mobilenet_v1, mobilenet_v2, shufflenet_v1, shufflenet_v2
from nets.pruning import select
from nets.publishing import Publication, load_network, publish, publish_quantized, state_arrays, weights_sha256
from nets.source import program, source
from specs.jobs import QuantizeSpec
from specs.pruning import PRUNING_METHODS
from tests.nets.conftest import IMAGE_SIZE, GraphMemory, narrow, one_of_each_file, small_network

forbid_telemetry()
from nets.quantization import Quantized, integer_layers, quantize  # noqa: E402 - NNCF asks for telemetry as it loads

# An export takes a second for each ten convolutions, and a network of the same file differs in how often it repeats its
# blocks: the exporter, the weights by name and the runtime meet nothing new in it.
EXPORTED = one_of_each_file()


@pytest.fixture(scope="module", autouse=True)
def _shallow() -> Iterator[None]:
    """Tables of papers that repeat each block as often as it takes to meet itself, and no oftener."""
    with pytest.MonkeyPatch.context() as tables:
        tables.setitem(densenet.LAYOUTS, "densenet121", densenet.Layout((2, 2, 2, 2)))
        tables.setattr(mobilenet_v1, "BLOCKS", ((64, 1), (128, 2), (256, 2), (256, 1), (512, 2), (1024, 2)))
        tables.setattr(mobilenet_v2, "STAGES", tuple((t, c, min(n, 2), s) for t, c, n, s in mobilenet_v2.STAGES[:4]))
        for shufflenet in (shufflenet_v1, shufflenet_v2):
            tables.setattr(shufflenet, "REPETITIONS", (2, 2, 2))
        yield


@pytest.fixture(scope="module")
def graphs(_shallow: None) -> GraphMemory:
    """The graphs of these networks, each exported once for all tests."""
    memory = GraphMemory()
    for name in EXPORTED:
        graph(small_network(name), narrow(name), channels=1, image_size=IMAGE_SIZE, cache=memory)
    return memory


def trained(name: str) -> nn.Module:
    """A network whose batch normalisation has seen something."""
    network = small_network(name)
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(16, 1, IMAGE_SIZE, IMAGE_SIZE))
    return network


def published(directory: Path, network: nn.Module, name: str, *, data: Dataset, graphs: GraphMemory) -> ModelManifest:
    request = Publication(
        id="mdl_1",
        kind="trained",
        architecture=narrow(name).model_dump(mode="json"),
        data=data,
        training={"epochs": 1},
        metrics={"test_accuracy": 0.5},
        dataset={"id": "ds_digits"},
        lineage={"parent": None},
    )
    directory.mkdir(exist_ok=True)
    return publish(directory, network, request=request, graphs=graphs)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", EXPORTED)
def test_a_published_network_comes_back_and_runs_elsewhere(
    tmp_path: Path, few: Dataset, graphs: GraphMemory, name: str, sparse: bool
) -> None:
    network = trained(name)
    if sparse:
        select(network, method="magnitude", options=PRUNING_METHODS["magnitude"].options(sparsity=0.9)).apply(network)
    exported = graphs.puts
    manifest = published(tmp_path, network, name, data=few, graphs=graphs)
    assert graphs.puts == exported
    assert manifest.weights.coding == "sparse-3" or not sparse

    again, read = load_network(tmp_path)
    assert read == manifest == read_manifest(tmp_path)
    assert not again.training
    wanted = state_arrays(network)
    got = state_arrays(again)
    assert {key: value.tobytes() for key, value in got.items()} == {k: v.tobytes() for k, v in wanted.items()}

    golden = load_file(tmp_path / GOLDEN_NAME)
    assert golden["pixels"].shape == (8, IMAGE_SIZE, IMAGE_SIZE, 1)
    images = normalised(torch.from_numpy(golden["pixels"]), few, torch.device("cpu")).contiguous().numpy()
    weights = read_weights(tmp_path / manifest.weights.file)
    whole = filled_graph((tmp_path / GRAPH_NAME).read_bytes(), weights)
    for part in (slice(None), slice(3, 4)):
        for logits in answers_of_both(whole, images[part]):
            np.testing.assert_allclose(logits, golden["logits"][part], rtol=1e-4, atol=1e-4)


def answers_of_both(graph: bytes, images: Any) -> list[Any]:
    """The logits of a whole graph in ONNX Runtime and in OpenVINO."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [session.run(["logits"], {"images": images})[0], compiled([images])[0]]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_exported_as_it_is(activation: str) -> None:
    network = small_network("mlp", activation=activation).eval()
    images = 3 * torch.randn(4, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = network(images).numpy()
    graph = onnx_model(network, channels=1, image_size=IMAGE_SIZE).SerializeToString()
    for logits in answers_of_both(graph, images.numpy()):
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


def test_weights_that_are_not_recorded_are_not_read(tmp_path: Path, few: Dataset, graphs: GraphMemory) -> None:
    published(tmp_path / "mlp", trained("mlp"), "mlp", data=few, graphs=graphs)
    manifest = json.loads((tmp_path / "mlp" / MANIFEST_NAME).read_text())
    (tmp_path / "elsewhere").write_bytes((tmp_path / "mlp" / manifest["weights"]["file"]).read_bytes())
    for name in ("../elsewhere", "not_there"):
        manifest["weights"]["file"] = name
        (tmp_path / "mlp" / MANIFEST_NAME).write_text(json.dumps(manifest))
        with pytest.raises(DamagedFiles, match="does not record"):
            load_network(tmp_path / "mlp")


@pytest.mark.parametrize("name", EXPORTED)
def test_every_network_answers_alike_in_integers(tmp_path: Path, few: Dataset, graphs: GraphMemory, name: str) -> None:
    network = trained(name)
    manifest = published(tmp_path / "float", network, name, data=few, graphs=graphs)
    quantized = in_integers(tmp_path / "float", few, manifest)
    layers = {key for key, module in load_network(tmp_path / "float")[0].named_modules() if isinstance(module, Layer)}
    assert set(integer_layers(network, quantized.model)) == layers

    whole = quantized.model.SerializeToString()
    request = Publication(
        id="mdl_2",
        kind="quantized",
        architecture=manifest.architecture,
        data=few,
        training={},
        metrics={},
    )
    counts = Figures(manifest.parameters, manifest.nonzero_parameters, manifest.macs)
    (tmp_path / "integers").mkdir()
    publish_quantized(tmp_path / "integers", quantized.model, request=request, ask=onnx_ask(whole), counts=counts)
    pixels = few.validation.images(torch.arange(len(few.validation))).numpy()
    before, after = (
        load_model(tmp_path / kind, runtime="onnxruntime", threads=1).predict(pixels) for kind in ("float", "integers")
    )
    # Networks that have learnt nothing lose most: their answers hang on the largest values, which are clipped.
    assert 0 < np.std(after - before) < 0.35 * np.std(before)
    found = maps_and_logits(whole, normalised(torch.from_numpy(pixels), few, torch.device("cpu")), classes=10)
    if found is not None:
        maps, logits = found
        # The bias is the same for all images; the means are rounded, and the maps are not.
        assert np.ptp(logits - maps.mean(axis=-1), axis=0).max() < 2 * QUANTIZED_TOLERANCE * np.abs(logits).max()
    stored = read_weights(tmp_path / "integers" / read_manifest(tmp_path / "integers").weights.file)
    integers = sum(array.size for array in stored.values() if array.dtype == np.int8)
    assert integers > 0.5 * manifest.parameters, "weights are kept as integers"


def maps_and_logits(graph: bytes, images: torch.Tensor, *, classes: int) -> tuple[Any, Any] | None:
    """A graph's class activation maps (N, classes, places) and logits; None if it has no maps."""
    whole = with_activation_maps(graph)
    if whole is None:
        return None
    rows = onnx_ask(resized(whole, images.shape[-1]))(images)
    return rows[:, classes:].reshape(len(rows), classes, -1).numpy(), rows[:, :classes].numpy()


def resized(graph: bytes, size: int) -> bytes:
    """The graph for images of another size, for which an export would take seconds; not of those that shuffle."""
    model = onnx.ModelProto.FromString(graph)
    del model.graph.value_info[:]
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = size
    return model.SerializeToString()


@pytest.mark.parametrize("name", EXPORTED)
def test_the_mean_of_a_map_and_a_bias_is_the_logit_of_its_class(graphs: GraphMemory, name: str) -> None:
    network = trained(name).eval()
    size = IMAGE_SIZE if name.startswith("shufflenet") else 4 * IMAGE_SIZE
    state = state_arrays(network)
    whole = filled_graph(graphs.kept[graph_key(network, narrow(name), channels=1, image_size=IMAGE_SIZE)], state)
    images = torch.randn(3, 1, size, size)
    found = maps_and_logits(whole, images, classes=10)
    # Whatever is pooled in PyTorch has maps, and nothing else has.
    assert (found is not None) == any(isinstance(module, nn.AdaptiveAvgPool2d) for module in network.modules())
    if found is None:
        return
    maps, logits = found
    assert maps.shape[-1] > 1 or size == IMAGE_SIZE
    assert np.ptp(maps, axis=-1).max() > 0 or size == IMAGE_SIZE
    with torch.inference_mode():
        wanted = network(images).numpy()
    bias = list(state.values())[-1]
    for got in (logits, maps.mean(axis=-1) + bias):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", EXPORTED)
def test_every_network_is_a_program_of_plain_pytorch(name: str) -> None:
    network = trained(name).eval()
    text = source(network, title=name, channels=1, image_size=IMAGE_SIZE)
    assert "import torch\n" in text
    assert text.count("import ") == 1
    images = torch.randn(3, 1, IMAGE_SIZE, IMAGE_SIZE)
    with torch.inference_mode():
        found = program(text)(dict(network.state_dict()), images.clone())
        assert torch.allclose(found, network(images), atol=1e-5)


def in_integers(directory: Path, data: Dataset, manifest: ModelManifest) -> Quantized:
    graph = filled_graph((directory / GRAPH_NAME).read_bytes(), read_weights(directory / manifest.weights.file))
    spec = QuantizeSpec(model="any", calibration_images=32, max_drop=None)
    return quantize(graph, data, spec, compile_graph=onnx_ask, told=lambda _: None)


def onnx_ask(graph: bytes) -> Ask:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.contiguous().numpy()})[0])


@pytest.mark.parametrize("name", EXPORTED)
def test_the_graph_holds_no_weights(few: Dataset, graphs: GraphMemory, name: str) -> None:
    network = small_network(name)
    bare = graphs.kept[graph_key(network, narrow(name), channels=1, image_size=IMAGE_SIZE)]
    weights = {key: value for key, value in state_arrays(network).items() if not key.endswith("num_batches_tracked")}
    assert len(bare) < 64 * 1024
    for missing in weights:
        with pytest.raises(DamagedFiles, match="have no"):
            filled_graph(bare, {key: value for key, value in weights.items() if key != missing})


def test_the_manifest_says_what_was_published(tmp_path: Path, few: Dataset, graphs: GraphMemory) -> None:
    manifest = published(tmp_path, small_network("mlp"), "mlp", data=few, graphs=graphs)
    assert manifest.parameters == 64 * 24 + 24 + 24 * 16 + 16 + 16 * 10 + 10
    assert manifest.macs == 64 * 24 + 24 * 16 + 16 * 10
    assert manifest.classes == few.classes
    assert manifest.preprocessing.mean == few.mean
    assert manifest.dataset == {"fingerprint": "sha256:few", "id": "ds_digits"}
    assert set(manifest.environment) == {"python", "torch", "platform", "threads"}
    assert manifest.shapes["hidden.0.weight"] == (24, 64)


def test_the_hash_of_the_weights_does_not_depend_on_their_coding(
    tmp_path: Path, few: Dataset, graphs: GraphMemory
) -> None:
    network = small_network("mlp")
    manifest = published(tmp_path / "a", network, "mlp", data=few, graphs=graphs)
    assert published(tmp_path / "b", network, "mlp", data=few, graphs=graphs).weights.sha256 == manifest.weights.sha256
    with torch.no_grad():
        next(network.parameters())[0, 0] += 1
    other = published(tmp_path / "c", network, "mlp", data=few, graphs=graphs)
    assert other.weights.sha256 != manifest.weights.sha256


def test_channels_that_nobody_makes_are_damage(tmp_path: Path, few: Dataset, graphs: GraphMemory) -> None:
    network = small_network("mlp")
    manifest = published(tmp_path, network, "mlp", data=few, graphs=graphs)
    tensors = {key: value.copy() for key, value in state_arrays(network).items()}
    tensors["hidden.0.weight"] = tensors["hidden.0.weight"][:20]
    tensors["hidden.0.bias"] = tensors["hidden.0.bias"][:20]
    save_file(tensors, tmp_path / manifest.weights.file)
    text = json.loads((tmp_path / MANIFEST_NAME).read_text())
    text["weights"]["sha256"] = weights_sha256(tensors)
    record = text["files"][manifest.weights.file]
    data = (tmp_path / manifest.weights.file).read_bytes()
    record.update({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(text))
    with pytest.raises(DamagedFiles, match="do not fit"):
        load_network(tmp_path)


def test_weights_of_another_architecture_are_damage(tmp_path: Path, few: Dataset, graphs: GraphMemory) -> None:
    published(tmp_path, small_network("mlp"), "mlp", data=few, graphs=graphs)
    path = tmp_path / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    manifest["architecture"]["hidden"] = [24, 15]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedFiles, match="do not fit"):
        load_network(tmp_path)


def test_an_export_leaves_the_network_alone_and_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    network = small_network("mlp").train()
    before = {key: value.tobytes() for key, value in state_arrays(network).items()}
    onnx_model(network, channels=1, image_size=IMAGE_SIZE)
    assert network.training
    assert all(module.inplace for module in network.modules() if isinstance(module, nn.ReLU))
    assert {key: value.tobytes() for key, value in state_arrays(network).items()} == before
    assert capfd.readouterr() == ("", "")


def test_graphs_are_told_apart_by_what_they_depend_on() -> None:
    network, options = small_network("mlp"), narrow("mlp")
    keys = {
        graph_key(network, options, channels=1, image_size=8),
        graph_key(network, options, channels=1, image_size=9),
        graph_key(network, narrow("mlp", activation="tanh"), channels=1, image_size=8),
        graph_key(small_network("mlp", hidden=(24, 17)), options, channels=1, image_size=8),
    }
    assert len(keys) == 4


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9])
def test_the_smaller_coding_is_the_one_that_is_kept(
    tmp_path: Path, few: Dataset, graphs: GraphMemory, share: float
) -> None:
    network = small_network("mlp")
    dense = published(tmp_path / "dense", network, "mlp", data=few, graphs=graphs)
    options = PRUNING_METHODS["magnitude"].options.model_validate({"sparsity": share})
    select(network, method="magnitude", options=options).apply(network)
    pruned = published(tmp_path / "pruned", network, "mlp", data=few, graphs=graphs)
    weights = [record.bytes for name, record in pruned.files.items() if "weights" in name]
    assert len(weights) == 1
    assert weights[0] <= dense.files[dense.weights.file].bytes
    found, _ = load_network(tmp_path / "pruned")
    assert {name: array.tobytes() for name, array in state_arrays(found).items()} == {
        name: array.tobytes() for name, array in state_arrays(network).items()
    }
