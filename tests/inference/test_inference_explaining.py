"""Maps of synthetic networks whose answers are known place by place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from formats.graphs import GRAPH_NAME, bare_graph
from formats.heads import with_activation_maps
from inference.answers import NonFiniteLogits, probabilities
from inference.explaining import (
    BATCH,
    FEWEST_PLACES,
    MOST_PLACES,
    CannotExplain,
    explain_by_occlusion,
    load_activation_maps,
)
from inference.models import LoadedModel, load_model
from inference.preprocessing import normaliser
from inference.runtimes import RUNTIMES
from tests.inference.conftest import CLASSES, HIDDEN, SIZE, Published, graph_of, random_pixels

Change = Callable[[onnx.ModelProto], None]


def rewrite(published: Published, change: Change) -> None:
    """The same network, its graph written otherwise."""
    model = graph_of(published.weights, len(published.rule.mean))
    change(model)
    onnx.checker.check_model(model, full_check=True)
    (published.directory / GRAPH_NAME).write_bytes(bare_graph(model, published.weights))
    published.record()


def exchange(model: onnx.ModelProto, kind: str, *nodes: onnx.NodeProto, **constants: Any) -> None:
    """Puts other nodes where the one of this kind was."""
    place = next(number for number, node in enumerate(model.graph.node) if node.op_type == kind)
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*kept[:place], *nodes, *kept[place + 1 :]])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )


def mean_over(*axes: int) -> Change:
    return lambda model: exchange(
        model,
        "GlobalAveragePool",
        helper.make_node("ReduceMean", ["features", "axes"], ["means"], keepdims=1),
        axes=np.array(axes),
    )


def reshaped(model: onnx.ModelProto) -> None:
    node = helper.make_node("Reshape", ["means", "flat shape"], ["flat"])
    exchange(model, "Flatten", node, **{"flat shape": np.array([-1, HIDDEN])})


def product_and_sum(model: onnx.ModelProto) -> None:
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    across = np.ascontiguousarray(numpy_helper.to_array(weights).T)
    product = helper.make_node("MatMul", ["flat", "across"], ["product"])
    exchange(model, "Gemm", product, helper.make_node("Add", ["head.bias", "product"], ["logits"]), across=across)


def rounded(scale: float) -> Change:
    """The means as 8-bit integers, steps of `scale` apart, between pooling and the linear layer."""
    return lambda model: exchange(
        model,
        "Flatten",
        helper.make_node("QuantizeLinear", ["means", "scale", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["again"]),
        helper.make_node("Flatten", ["again"], ["flat"]),
        scale=np.float32(scale),
        zero=np.uint8(0),
    )


WAYS: dict[str, Change] = {
    "global pooling": lambda _: None,
    "mean from the front": mean_over(2, 3),
    "mean from the back": mean_over(-1, -2),
    "reshaped": reshaped,
    "product and sum": product_and_sum,
    "rounded": rounded(1 / 16),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("way", WAYS)
def test_a_map_adds_up_to_its_logit(
    publish: Callable[..., Published], pixels: Callable[..., Any], way: str, runtime: str
) -> None:
    published = publish()
    rewrite(published, WAYS[way])
    kind = "quantized" if way == "rounded" else "trained"
    published.record(kind=kind)
    maps = load_activation_maps(published.directory, runtime=runtime, threads=1)
    images = pixels(5, 3, seed=1)
    logits, found = maps(images)
    assert found.shape == (5, len(CLASSES), SIZE, SIZE) == (5, len(CLASSES), maps.side, maps.side)
    wanted = published.expected(images)
    allowed = (0.02 if way == "rounded" else 1e-5) * float(np.abs(wanted).max())
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=allowed)
    sums = found.mean(axis=(2, 3)) + published.weights["head.bias"]
    np.testing.assert_allclose(sums, wanted, rtol=0, atol=allowed)


def test_an_explanation_is_of_the_class_that_was_asked_for(
    publish: Callable[..., Published], pixels: Callable[..., Any]
) -> None:
    published = publish()
    maps = load_activation_maps(published.directory, runtime="onnxruntime", threads=1)
    (image,) = pixels(1, 3, seed=2)
    logits, found = maps(image[None])
    shares = probabilities(logits[0])
    for index in range(len(CLASSES)):
        explanation = maps.explain(image, index)
        assert (explanation.index, explanation.method) == (index, "cam")
        assert explanation.probability == pytest.approx(shares[index])
        np.testing.assert_array_equal(explanation.heat, found[0, index])
    assert maps.explain(image).index == int(np.argmax(shares))


def flattened(model: onnx.ModelProto) -> None:
    """All places go into the linear layer, each with weights of its own."""
    exchange(model, "GlobalAveragePool", helper.make_node("Identity", ["features"], ["means"]))


def through_a_rectifier(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Flatten", ["means"], ["unbent"]), helper.make_node("Relu", ["unbent"], ["flat"])]
    exchange(model, "Flatten", *nodes)


def doubled(model: onnx.ModelProto) -> None:
    node = helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], transB=1, alpha=2.0)
    exchange(model, "Gemm", node)


def bent_in_the_end(model: onnx.ModelProto) -> None:
    exchange(
        model,
        "Gemm",
        helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["unbent"], transB=1),
        helper.make_node("Tanh", ["unbent"], ["logits"]),
    )


def largest(model: onnx.ModelProto) -> None:
    exchange(model, "GlobalAveragePool", helper.make_node("GlobalMaxPool", ["features"], ["means"]))


@pytest.mark.parametrize("change", [flattened, through_a_rectifier, doubled, bent_in_the_end, largest, mean_over(1, 2)])
def test_a_network_with_another_head_has_no_maps(publish: Callable[..., Published], change: Change) -> None:
    model = graph_of(publish().weights, 3)
    change(model)
    assert with_activation_maps(model.SerializeToString()) is None


def strides(down: int, right: int) -> Change:
    return lambda model: exchange(
        model,
        "Conv",
        helper.make_node("Conv", ["images", "conv.weight", "conv.bias"], ["maps"], strides=[down, right], pads=[1] * 4),
    )


def answer_as_it_does(published: Published, change: Change) -> None:
    """A network whose golden answers are those that it gives when changed so."""
    rewrite(published, change)
    model = graph_of(published.weights, len(published.rule.mean))
    change(model)
    images = random_pixels(3, len(published.rule.mean))
    network = RUNTIMES["onnxruntime"].compile(model.SerializeToString(), threads=1)
    published.write_golden(images, network(normaliser(published.rule)(images)))
    assert load_model(published.directory, threads=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (largest, "global average pooling"),
        (strides(8, 8), "single place"),
        (strides(2, 1), "square"),
        # Integers that hold no mean above 255 / 4096 cut off what the maps still have.
        (rounded(1 / 4096), "add up"),
    ],
)
def test_why_a_network_has_no_maps_is_said(publish: Callable[..., Published], change: Change, reason: str) -> None:
    published = publish()
    answer_as_it_does(published, change)
    with pytest.raises(CannotExplain, match=reason):
        load_activation_maps(published.directory, runtime="onnxruntime", threads=1)


def test_a_network_that_misses_its_golden_answers_has_no_maps(
    publish: Callable[..., Published], pixels: Callable[..., Any]
) -> None:
    published, images = publish(), pixels(3, 3)
    published.write_golden(images, published.expected(images) + 1)
    with pytest.raises(CannotExplain, match="golden"):
        load_activation_maps(published.directory, runtime="onnxruntime", threads=1)


def watching(published: Published, size: int, rows: slice, columns: slice) -> tuple[LoadedModel, list[int]]:
    """A model that says `bee` the surer the brighter one patch is, and the sizes of the batches that it was given."""
    batches: list[int] = []

    def network(images: NDArray[np.float32]) -> NDArray[np.float32]:
        batches.append(len(images))
        logits = np.zeros((len(images), len(CLASSES)), dtype=np.float32)
        logits[:, 1] = images[:, :, rows, columns].mean(axis=(1, 2, 3))
        return logits

    rule = published.rule.model_copy(update={"image_size": size})
    manifest = published.record(preprocessing=rule)
    return LoadedModel(manifest, "numpy", 0, normaliser(rule), network), batches


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 32, 100])
def test_covering_finds_the_one_patch_that_matters(publish: Callable[..., Published], size: int) -> None:
    side = max(1, size // 4)
    rows, columns = slice(size - side, size), slice(size // 2, size // 2 + side)
    model, batches = watching(publish(), size, rows, columns)
    image = np.random.default_rng(0).integers(200, 256, (size, size, 3), dtype=np.uint8)
    explanation = explain_by_occlusion(model, image)
    assert (explanation.index, explanation.method) == (1, "occlusion")
    assert explanation.probability == pytest.approx(probabilities(model.predict(image[None]))[0, 1])
    heat = explanation.heat
    assert heat.shape == (size, size)
    inside = heat[rows, columns]
    assert inside.min() > 0
    if size > 3:
        assert heat[: size // 3].max() == pytest.approx(0, abs=1e-6), "the cover does not reach the patch from here"
        assert heat[rows].max() == heat.max()
        assert inside.mean() > 5 * heat.mean()
    assert sum(batches) <= 2 + MOST_PLACES**2, "asked once by the test itself"
    assert max(batches) <= BATCH


def test_what_speaks_against_a_class_is_not_shown_as_speaking_for_it(publish: Callable[..., Published]) -> None:
    model, _ = watching(publish(), 8, slice(0, 2), slice(0, 2))
    image = np.full((8, 8, 3), 255, dtype=np.uint8)
    explanation = explain_by_occlusion(model, image, 2)
    assert explanation.index == 2
    assert not explanation.heat.any()


def test_a_certain_answer_is_still_explained(publish: Callable[..., Published]) -> None:
    """Probabilities that round to one would all be alike."""
    model, _ = watching(publish(), 8, slice(0, 2), slice(0, 2))
    sure = replace(model, network=lambda images: 1000 * model.network(images))
    explanation = explain_by_occlusion(sure, np.full((8, 8, 3), 255, dtype=np.uint8))
    assert explanation.probability == 1.0
    assert explanation.heat[0, 0] == explanation.heat.max() > 100
    assert not explanation.heat[4:, 4:].any()


def test_a_heavy_network_is_asked_less(publish: Callable[..., Published]) -> None:
    model, batches = watching(publish(), 32, slice(0, 8), slice(0, 8))
    heavy = replace(model, manifest=model.manifest.model_copy(update={"macs": 15_000_000_000}))
    explain_by_occlusion(heavy, np.zeros((32, 32, 3), dtype=np.uint8))
    assert sum(batches) == 1 + FEWEST_PLACES**2


def test_logits_that_are_no_numbers_explain_nothing(publish: Callable[..., Published]) -> None:
    model, _ = watching(publish(), 8, slice(0, 2), slice(0, 2))
    broken = replace(model, network=lambda images: np.nan * model.network(images))
    with pytest.raises(NonFiniteLogits):
        explain_by_occlusion(broken, np.zeros((8, 8, 3), dtype=np.uint8))
