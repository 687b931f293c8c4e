"""Quantizing by a real worker, over HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any
from zipfile import ZipFile

import numpy as np
import onnxruntime
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from tests.conftest import LOOPBACK, ended, new_home, png, running_worker
from tests.problems import problem_of

TRAINING: dict[str, Any] = {
    "kind": "train",
    "name": "float",
    "dataset": "digits",
    "architecture": {"name": "vgg11_bn", "width": 0.25},
    "epochs": 3,
}
PRUNING = {"kind": "prune", "name": "sparse", "model": "float", "sparsity": 0.9, "fine_tune": {"epochs": 1}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of an API whose worker has made the models `float`, `sparse` and `integers`."""
    settings = new_home(tmp_path_factory.mktemp("quantizing") / "home")
    with running_worker(settings), TestClient(create_app(settings), base_url=LOOPBACK) as client:
        for body in (TRAINING, PRUNING, {"kind": "quantize", "name": "integers", "model": "sparse", "max_drop": 0.02}):
            job = ended(client, body)
            assert job["status"] == "succeeded", job
        yield client


def test_a_model_of_integers_is_served_and_tells_the_truth(home: TestClient) -> None:
    parent, child = (home.get(f"/v1/models/{name}").json() for name in ("sparse", "integers"))
    assert (child["kind"], child["parent"], child["family"]) == ("quantized", parent["id"], parent["family"])
    assert child["metrics"]["validation_accuracy"] >= parent["metrics"]["validation_accuracy"] - 0.02
    assert child["metrics"]["test_accuracy"] >= parent["metrics"]["test_accuracy"] - 0.04
    assert (child["parameters"], child["macs"]) == (parent["parameters"], parent["macs"])
    assert child["nonzero_parameters"] <= parent["nonzero_parameters"], "what was cut stays cut"
    assert child["bytes"] < 0.5 * parent["bytes"]
    image = png(np.full((8, 8), 90, dtype=np.uint8))
    answer = home.post("/v1/models/integers/predict", content=image, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text

    evaluation = home.get("/v1/models/integers/evaluation").json()
    assert evaluation["accuracy"] == pytest.approx(child["metrics"]["test_accuracy"])
    report = home.get("/v1/models/integers/report").json()
    assert report["verdict"] in {"faster", "smaller_only"}
    for who, model in (("before", parent), ("after", child)):
        assert report["calibration"]["temperature"][who] == model["calibration"]["temperature"]
        for number, row in enumerate(report["calibration"]["coverage"]):
            assert row["measured"][who] == model["calibration"]["test"]["coverage"][number]["measured"]
    assert {layer["bits"] for layer in report["layers"]} == {8}
    assert sum(layer["zeros"] > 0.5 for layer in report["layers"]) > 3, "zeros of the pruning are still there"
    page = home.get("/v1/models/integers/report", headers={"accept": "text/html"})
    assert "8 bits" in page.text
    names = [entry["name"] for entry in home.get(f"/v1/families/{child['family']}/pareto").json()["items"]]
    assert names == ["float", "sparse", "integers"]


def test_integers_can_be_taken_away(home: TestClient) -> None:
    archive = ZipFile(io.BytesIO(home.get("/v1/models/integers/export?format=onnx").content))
    size = home.get("/v1/models/integers").json()["image_size"]
    session = onnxruntime.InferenceSession(archive.read("model.onnx"), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"images": np.zeros((2, 1, size, size), dtype=np.float32)})[0]
    assert logits.shape == (2, len(json.loads(archive.read("labels.json"))))
    assert home.get("/v1/models/integers/export?format=openvino").status_code == 200
    problem_of(home.get("/v1/models/integers/export?format=safetensors"), 422)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "quantize", "model": "integers"}, "#/model"),
        ({"kind": "prune", "model": "integers"}, "#/model"),
        ({"kind": "distill", "teacher": "integers", "architecture": "mlp"}, "#/teacher"),
    ],
)
def test_integers_are_for_good(home: TestClient, body: dict[str, Any], pointer: str) -> None:
    [error] = problem_of(home.post("/v1/jobs", json=body), 422)["errors"]
    assert error["pointer"] == pointer
    assert "quantized" in error["message"]
    assert home.get("/v1/models/integers").json()["parent"] in error["hint"]


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"calibration_images": 15}, "#/calibration_images"),
        ({"calibration_images": 2000}, "#/calibration_images"),
        ({"max_drop": -0.1}, "#/max_drop"),
        ({"max_drop": "NaN"}, "#/max_drop"),
        ({"model": "nobody"}, "#/model"),
    ],
)
def test_a_bad_quantizing_is_refused(home: TestClient, options: dict[str, Any], pointer: str) -> None:
    problem = problem_of(home.post("/v1/jobs", json={"kind": "quantize", "model": "float", **options}), 422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
