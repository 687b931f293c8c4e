"""Triton's own HTTP client, unchanged, against a running service."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from PIL import Image
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from inference.statistics import STAGES
from specs.settings import Settings
from tests.conftest import ONE_THREAD
from tests.service.server import Server

Digits = list[tuple[bytes, str]]


@pytest.fixture(scope="module")
def server(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over a copy of the trained folder."""
    home = shutil.copytree(trained_home, tmp_path_factory.mktemp("protocol") / "home")
    with Server(Settings(home=Path(home)), environment=ONE_THREAD) as server:
        yield server


@pytest.fixture
def address(server: Server) -> str:
    """Its host and port."""
    return f"127.0.0.1:{server.port}"


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    """Triton's client, with as many connections as the tests use at once."""
    with triton.InferenceServerClient(address, concurrency=8) as client:
        yield client


@pytest.fixture
def pixels(test_digits: Digits) -> NDArray[np.uint8]:
    """A hundred and twenty digits, uint8 (N, 8, 8, 1)."""
    return np.stack([np.asarray(Image.open(io.BytesIO(data)))[..., None] for data, _ in test_digits[:120]])


def images_tensor(values: NDArray[Any], datatype: str, *, binary: bool = True) -> Any:
    """The input `images` with these values."""
    tensor = triton.InferInput("images", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def prepared(client: Any, name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels as the model's configuration says that the network reads them."""
    rule = {key: entry["string_value"] for key, entry in client.get_model_config(name)["parameters"].items()}
    assert rule["image_size"] == "8"
    mean, std = np.array(json.loads(rule["mean"])), np.array(json.loads(rule["std"]))
    return np.ascontiguousarray(((pixels / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2))


def logits_of(client: Any, tensor: Any, **options: Any) -> NDArray[np.float32]:
    """The logits of `tiny` for an input."""
    values: NDArray[np.float32] = client.infer("tiny", [tensor], **options).as_numpy("logits")
    return values


def refused(client: Any, words: str, *inputs: Any, name: str = "tiny", **options: Any) -> None:
    """Checks that a request is refused with a sentence, and that the next one is answered."""
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.infer(name, list(inputs), **options)
    assert caught.value.status().startswith("4")
    assert logits_of(client, images_tensor(np.zeros((1, 8, 8, 1), np.uint8), "UINT8")).shape == (1, 10)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live(query_params={"test_1": 1, "test_2": 2})
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny pruned", "1")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("tiny", "2")
    server = client.get_server_metadata()
    assert server["name"] == "pruneyard"
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(server["extensions"])
    metadata = client.get_model_metadata("tiny")
    assert metadata["name"] == "tiny"
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.get_model_metadata("nobody")


def test_a_configuration_is_what_the_image_examples_ask_for(client: Any) -> None:
    config = client.get_model_config("tiny", "1")
    (entry,), (output,) = config["input"], config["output"]
    assert entry == {"name": "images", "data_type": "TYPE_FP32", "format": "FORMAT_NCHW", "dims": [1, 8, 8]}
    assert output == {"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}
    assert config["max_batch_size"] >= 32
    assert config["platform"] in {"onnxruntime_onnx", "openvino"}


def test_models_are_loaded_and_unloaded(client: Any) -> None:
    def states() -> dict[str, str]:
        return {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}

    assert set(states()) == {"tiny", "tiny pruned"}
    client.load_model("tiny pruned")
    assert client.is_model_ready("tiny pruned")
    assert states()["tiny pruned"] == "READY"
    for config in ('"parameters": {"config": {{"max_batch_size": "16"}}}', '{"max_batch_size": 7}', "[]"):
        with pytest.raises(InferenceServerException, match="failed to load"):
            client.load_model("tiny pruned", config=config)
    with pytest.raises(InferenceServerException, match="failed to load"):
        client.load_model("tiny pruned", config="{}", files={"file:1/model.onnx": b"x"})
    client.load_model("tiny pruned", config=json.dumps(client.get_model_config("tiny pruned")))
    client.unload_model("tiny pruned")
    assert not client.is_model_ready("tiny pruned")
    assert states()["tiny pruned"] == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="failed to load"):
        client.load_model("nobody")
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.unload_model("nobody")
    client.load_model("tiny pruned")
    assert client.is_model_ready("tiny pruned")


def test_a_prediction_brings_an_unloaded_model_back(client: Any, server: Server, test_digits: Digits) -> None:
    client.unload_model("tiny")
    assert not client.is_model_ready("tiny")
    server.api.post("/v1/models/tiny/predict", content=test_digits[0][0], headers={"content-type": "image/png"})
    assert client.is_model_ready("tiny")


def test_the_three_datatypes_give_the_same_logits(client: Any, pixels: NDArray[np.uint8], test_digits: Digits) -> None:
    files = np.array([data for data, _ in test_digits[: len(pixels)]], dtype=np.object_)
    expected = logits_of(client, images_tensor(pixels, "UINT8"))
    assert expected.shape == (120, 10)
    assert expected.dtype == np.float32
    labels = [int(label) for _, label in test_digits[:120]]
    assert np.mean(expected.argmax(axis=1) == labels) > 0.9
    network_input = prepared(client, "tiny", pixels)
    tensors = [
        images_tensor(files, "BYTES"),
        images_tensor(files[:, None], "BYTES"),
        images_tensor(network_input, "FP32"),
        images_tensor(network_input, "FP32", binary=False),
        images_tensor(pixels, "UINT8", binary=False),
    ]
    for tensor in tensors:
        np.testing.assert_allclose(logits_of(client, tensor), expected, rtol=1e-3, atol=1e-4)


def test_outputs_come_as_they_are_asked_for(client: Any, pixels: NDArray[np.uint8]) -> None:
    tensor = images_tensor(pixels, "UINT8")
    temperature = float(client.get_model_config("tiny")["parameters"]["temperature"]["string_value"])
    for binary in (True, False):
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "logits")]
        result = client.infer("tiny", [tensor], model_version="1", outputs=outputs, request_id="Zürich-7")
        probabilities, logits = result.as_numpy("probabilities"), result.as_numpy("logits")
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
        np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), probabilities, rtol=1e-4, atol=1e-6)
        answer = result.get_response()
        assert answer["id"] == "Zürich-7"
        assert (answer["model_name"], answer["model_version"]) == ("tiny", "1")
        assert answer["parameters"]["model"].startswith("mdl_")


def test_classes_are_named_most_probable_first(client: Any, pixels: NDArray[np.uint8]) -> None:
    expected = client.infer(
        "tiny", [images_tensor(pixels, "UINT8")], outputs=[triton.InferRequestedOutput("probabilities")]
    ).as_numpy("probabilities")
    for name, binary, count in (("logits", True, 3), ("probabilities", False, 1), ("logits", True, 99)):
        output = triton.InferRequestedOutput(name, binary_data=binary, class_count=count)
        named = client.infer("tiny", [images_tensor(pixels, "UINT8")], outputs=[output]).as_numpy(name)
        assert named.shape == (120, min(count, 10))
        for row, shares in zip(named, expected, strict=True):
            texts = [text.decode() if isinstance(text, bytes) else text for text in row]
            parts = [text.split(":") for text in texts]
            assert [int(index) for _, index, _ in parts] == np.argsort(-shares, kind="stable")[: len(parts)].tolist()
            assert all(label == index for _, index, label in parts)
            assert [float(value) for value, *_ in parts] == pytest.approx(sorted(shares)[::-1][: len(parts)], abs=1e-5)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_are_compressed_both_ways(client: Any, pixels: NDArray[np.uint8], algorithm: str) -> None:
    expected = logits_of(client, images_tensor(pixels, "UINT8"))
    options = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    for binary in (True, False):
        tensor = images_tensor(pixels, "UINT8", binary=binary)
        assert np.array_equal(logits_of(client, tensor, **options), expected)
        outputs = [triton.InferRequestedOutput("logits", binary_data=binary)]
        assert np.array_equal(logits_of(client, tensor, outputs=outputs, **options), expected)


def test_requests_at_the_same_time_get_their_own_answers(client: Any, pixels: NDArray[np.uint8]) -> None:
    expected = logits_of(client, images_tensor(pixels, "UINT8"))
    tensors = [images_tensor(pixels[number : number + 1], "UINT8") for number in range(len(pixels))]
    waiting = [client.async_infer("tiny", [tensor], request_id=str(n)) for n, tensor in enumerate(tensors)]
    for number, request in enumerate(waiting):
        result = request.get_result()
        assert result.get_response()["id"] == str(number)
        np.testing.assert_allclose(result.as_numpy("logits")[0], expected[number], rtol=1e-4, atol=1e-5)


def test_the_asyncio_client_is_served_too(address: str, client: Any, pixels: NDArray[np.uint8]) -> None:
    expected = logits_of(client, images_tensor(pixels, "UINT8"))

    async def ask() -> Any:
        async with aio.InferenceServerClient(address) as other:
            assert await other.is_model_ready("tiny")
            results = [await other.infer("tiny", [images_tensor(pixels, "UINT8")])]
            gzip = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
            results.append(await other.infer("tiny", [images_tensor(pixels, "UINT8")], **gzip))
            return [result.as_numpy("logits") for result in results]

    for found in asyncio.run(ask()):
        assert np.array_equal(found, expected)


def test_statistics_count_what_was_done(client: Any, pixels: NDArray[np.uint8]) -> None:
    def now() -> dict[str, Any]:
        (found,) = client.get_inference_statistics("tiny", "1")["model_stats"]
        return dict(found)

    before = now()
    logits_of(client, images_tensor(pixels[:5], "UINT8"))
    after = now()
    assert after["name"] == "tiny"
    assert after["inference_count"] == before["inference_count"] + 5
    assert after["execution_count"] > before["execution_count"]
    assert after["last_inference"] >= before["last_inference"]
    for stage in ("success", "compute_infer"):
        assert after["inference_stats"][stage]["count"] > before["inference_stats"][stage]["count"]
        assert after["inference_stats"][stage]["ns"] > before["inference_stats"][stage]["ns"]
    spent = {
        stage: after["inference_stats"][stage]["ns"] - before["inference_stats"][stage]["ns"]
        for stage in ("success", *STAGES)
    }
    assert spent["success"] >= spent["compute_input"] + spent["compute_infer"] + spent["compute_output"]
    refused(client, "finite", images_tensor(np.full((1, 1, 8, 8), 3e38, np.float32), "FP32"))
    ended = now()["inference_stats"]
    assert ended["fail"]["count"] == after["inference_stats"]["fail"]["count"] + 1
    assert ended["success"]["count"] == after["inference_stats"]["success"]["count"] + 1, "the good one after it"
    assert sum(entry["compute_infer"]["count"] for entry in after["batch_stats"]) == after["execution_count"]
    assert {entry["name"] for entry in client.get_inference_statistics()["model_stats"]} == {"tiny", "tiny pruned"}


def test_what_cannot_be_is_refused(client: Any, pixels: NDArray[np.uint8]) -> None:
    good = images_tensor(pixels[:1], "UINT8")
    refused(client, "Request for unknown model", good, name="nobody")
    refused(client, "Request for unknown model", good, model_version="2")
    refused(client, "shape", images_tensor(np.zeros((1, 1, 9, 8), np.float32), "FP32"))
    refused(client, "shape", images_tensor(np.zeros((1, 64), np.float32), "FP32"))
    refused(client, "shape", images_tensor(np.zeros((1, 8, 8, 2), np.uint8), "UINT8"))
    refused(client, "at most", images_tensor(np.zeros((10_000, 1, 8, 8), np.float32), "FP32"))
    refused(client, "datatype", images_tensor(np.zeros((1, 1, 8, 8), np.float64), "FP64"))
    refused(client, "NaN", images_tensor(np.full((1, 1, 8, 8), np.nan, np.float32), "FP32"))
    refused(client, "one input", good, good)
    refused(client, "name", good, outputs=[triton.InferRequestedOutput("softmax")])
    shared = triton.InferInput("images", [1, 1, 8, 8], "FP32")
    shared.set_shared_memory("region", 256)
    refused(client, "[Ss]hared memory", shared)
    wrong_name = triton.InferInput("data", [1, 1, 8, 8], "FP32")
    wrong_name.set_data_from_numpy(np.zeros((1, 1, 8, 8), np.float32))
    refused(client, "images", wrong_name)
    lying = triton.InferInput("images", [2, 1, 8, 8], "FP32")
    lying.set_data_from_numpy(np.zeros((2, 1, 8, 8), np.float32))
    lying.set_shape([3, 1, 8, 8])
    refused(client, "bytes", lying)
    refused(client, "not an image", images_tensor(np.array([b"no image"], dtype=np.object_), "BYTES"))


def test_what_is_not_offered_is_said_in_a_sentence(client: Any) -> None:
    for ask in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException, match="nothing at this address"):
            ask()
