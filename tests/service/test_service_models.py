"""Models and aliases over HTTP."""

from __future__ import annotations

import base64
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from specs.settings import Settings
from tests.conftest import spoil_golden
from tests.problems import problem_of

PNG = {"content-type": "image/png"}


def test_a_model_tells_what_it_is_and_where_it_comes_from(trained_api: TestClient) -> None:
    models = trained_api.get("/v1/models").json()["items"]
    assert [model["name"] for model in models] == ["tiny pruned", "tiny"]
    pruned, trained = models
    assert (trained["kind"], pruned["kind"]) == ("trained", "pruned")
    assert (trained["parent"], pruned["parent"]) == (None, trained["id"])
    assert pruned["family"] == trained["family"]
    assert trained["classes"] == list("0123456789")
    assert (trained["image_size"], trained["channels"]) == (8, 1)
    assert trained["parameters"] == 64 * 128 + 128 + 128 * 10 + 10
    assert trained["macs"] == 64 * 128 + 128 * 10
    assert pruned["nonzero_parameters"] <= 0.1 * trained["macs"] + 128 + 10 + 1
    assert pruned["bytes"] < trained["bytes"]
    assert trained["dataset"] == "ds_digits"
    for model in models:
        assert model["status"] == "ready"
        assert model["latency_ms"]["batch_1_p50"] > 0
        assert set(model["metrics"]) == {"validation_accuracy", "validation_loss", "test_accuracy", "test_loss"}
        job = trained_api.get(f"/v1/jobs/{model['job']}").json()
        assert job["result"]["model"] == model["id"]
        for reference in (model["id"], model["name"]):
            assert trained_api.get(f"/v1/models/{reference}").json() == model


def test_a_model_that_does_not_repeat_its_golden_answers_is_not_ready_and_says_so(
    trained_api: TestClient, trained_settings: Settings, test_digits: list[tuple[bytes, str]]
) -> None:
    def ask() -> list[Response]:
        image = test_digits[0][0]
        tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(image).decode()]}
        return [
            trained_api.post("/v1/models/tiny/predict", content=image, headers=PNG),
            trained_api.post("/v1/models/tiny/explain", content=image, headers=PNG),
            trained_api.post("/v1/models/tiny/load"),
            trained_api.get("/v2/models/tiny/ready"),
            trained_api.get("/v2/models/tiny"),
            trained_api.post("/v2/models/tiny/infer", json={"inputs": [tensor]}),
            trained_api.post("/v2/repository/models/tiny/load"),
        ]

    def shown() -> list[dict[str, Any]]:
        return [trained_api.get("/v1/models/tiny").json(), trained_api.get("/v1/models").json()["items"][1]]

    def listed() -> dict[str, str]:
        entries = trained_api.post("/v2/repository/index").json()
        return {entry["name"]: entry for entry in entries}["tiny"]

    model_id = shown()[0]["id"]
    spoil_golden(trained_settings, model_id)
    for answer in ask():
        assert answer.status_code == 503, answer.request.url
        assert "off the golden logits" in answer.text, answer.request.url
    for view in shown():
        assert view["status"] == "broken"
        assert "off the golden logits" in view["problem"]
    assert (listed()["state"], "golden" in listed()["reason"]) == ("UNAVAILABLE", True)
    assert trained_api.get("/v1/models/tiny pruned").json()["status"] == "ready"

    spoil_golden(trained_settings, model_id, by=-3.0)
    assert [answer.status_code for answer in ask()] == [200] * 7
    assert [(view["status"], view["problem"]) for view in shown()] == [("ready", None)] * 2
    assert listed()["state"] == "READY"


def test_the_bytes_of_a_model_are_all_that_is_stored(trained_api: TestClient, trained_settings: Settings) -> None:
    for model in trained_api.get("/v1/models").json()["items"]:
        directory = trained_settings.home / "models" / model["id"]
        assert model["bytes"] == sum(path.stat().st_size for path in directory.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_what_processes_write_is_for_their_user_only(trained_home: Path) -> None:
    for path in trained_home.rglob("*"):
        if path.name.partition(".")[0] != "pruneyard":  # made by the tests' own process
            assert path.stat().st_mode & 0o077 == 0, path


def test_models_are_paged(trained_api: TestClient) -> None:
    first = trained_api.get("/v1/models?limit=1").json()
    second = trained_api.get(f"/v1/models?limit=1&cursor={first['next_cursor']}").json()
    assert [first["items"][0]["name"], second["items"][0]["name"]] == ["tiny pruned", "tiny"]


def test_a_deleted_model_is_gone_with_its_files(
    trained_api: TestClient, trained_settings: Settings, test_digits: list[tuple[bytes, str]]
) -> None:
    model = trained_api.get("/v1/models/tiny").json()
    image = test_digits[0][0]
    assert trained_api.post("/v1/models/tiny/predict", content=image, headers=PNG).status_code == 200
    assert trained_api.delete("/v1/models/tiny").status_code == 204
    assert not (trained_settings.home / "models" / model["id"]).exists()
    for reference in ("tiny", model["id"]):
        problem_of(trained_api.post(f"/v1/models/{reference}/predict", content=image, headers=PNG), 404)
        problem_of(trained_api.get(f"/v1/models/{reference}"), 404)
        problem_of(trained_api.delete(f"/v1/models/{reference}"), 404)
    assert trained_api.post("/v1/models/tiny pruned/predict", content=image, headers=PNG).status_code == 200


def test_a_model_in_use_is_not_deleted(trained_api: TestClient) -> None:
    trained_api.put("/v1/aliases/prod", json={"model": "tiny"}).raise_for_status()
    assert "prod" in problem_of(trained_api.delete("/v1/models/tiny"), 409)["detail"]
    trained_api.delete("/v1/aliases/prod").raise_for_status()
    job = trained_api.post("/v1/jobs", json={"kind": "prune", "model": "tiny"}).json()
    assert job["id"] in problem_of(trained_api.delete("/v1/models/tiny"), 409)["detail"]
    trained_api.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    assert trained_api.delete("/v1/models/tiny").status_code == 204


def test_a_job_that_only_bears_the_name_of_a_model_does_not_hold_it(trained_api: TestClient) -> None:
    model = trained_api.get("/v1/models/tiny").json()["id"]
    body = {"kind": "train", "dataset": "digits", "architecture": "mlp", "name": model}
    assert trained_api.post("/v1/jobs", json=body).status_code == 202
    assert trained_api.delete(f"/v1/models/{model}").status_code == 204


def test_an_alias_moves_at_once(trained_api: TestClient, test_digits: list[tuple[bytes, str]]) -> None:
    image = test_digits[0][0]
    ids = {name: trained_api.get(f"/v1/models/{name}").json()["id"] for name in ("tiny", "tiny pruned")}
    for name in ("tiny", "tiny pruned", "tiny"):
        alias = trained_api.put("/v1/aliases/prod", json={"model": name}).json()
        assert alias["model"] == ids[name]
        answer = trained_api.post("/v1/models/prod/predict", content=image, headers=PNG).json()
        assert answer["model"] == ids[name]
        assert trained_api.get("/v1/models/prod").json()["aliases"] == ["prod"]
    assert [item["alias"] for item in trained_api.get("/v1/aliases").json()["items"]] == ["prod"]
    assert trained_api.delete("/v1/aliases/prod").status_code == 204
    problem_of(trained_api.delete("/v1/aliases/prod"), 404)
    problem_of(trained_api.post("/v1/models/prod/predict", content=image, headers=PNG), 404)


@pytest.mark.parametrize("alias", ["..", ".hidden", "a%00b", "a%0ab", "x" * 101, "%20"])
def test_a_bad_alias_is_refused(trained_api: TestClient, alias: str) -> None:
    response = trained_api.put(f"/v1/aliases/{alias}", json={"model": "tiny"})
    assert response.status_code in {404, 405, 422}
    problem_of(response, response.status_code)
    assert trained_api.get("/v1/aliases").json()["items"] == []


def test_an_alias_cannot_pose_as_a_model_nor_point_at_nothing(trained_api: TestClient) -> None:
    model = trained_api.get("/v1/models/tiny").json()["id"]
    problem_of(trained_api.put(f"/v1/aliases/{model}", json={"model": "tiny pruned"}), 422)
    problem_of(trained_api.put("/v1/aliases/prod", json={"model": "nobody"}), 422, "#/model")
    problem_of(trained_api.put("/v1/aliases/prod", json={"modle": "tiny"}), 422, "#/modle")
    assert trained_api.get("/v1/aliases").json()["items"] == []


@pytest.mark.parametrize("victim", ["weights.safetensors", "graph.onnx.zst", "golden.safetensors", "model.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_model_does_not_answer_and_others_do(
    trained_api: TestClient,
    trained_settings: Settings,
    test_digits: list[tuple[bytes, str]],
    victim: str,
    damage: str,
) -> None:
    model = trained_api.get("/v1/models/tiny").json()["id"]
    _damage(trained_settings.home / "models" / model / victim, damage)
    image = test_digits[0][0]
    problem_of(trained_api.post("/v1/models/tiny/predict", content=image, headers=PNG), 503)
    assert trained_api.post("/v1/models/tiny pruned/predict", content=image, headers=PNG).status_code == 200


def _damage(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)


def test_answers_do_not_cross(trained_api: TestClient, test_digits: list[tuple[bytes, str]]) -> None:
    images = [data for data, _ in test_digits[::15]]
    alone = [trained_api.post("/v1/models/tiny/predict", content=data, headers=PNG).json() for data in images]
    together: list[object] = [None] * len(images)

    def ask(number: int) -> None:
        together[number] = trained_api.post("/v1/models/tiny/predict", content=images[number], headers=PNG).json()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tops = [
        [(answer["label"], pytest.approx(answer["probability"], abs=1e-5)) for answer in given["predictions"][0]["top"]]
        for given in alone
    ]
    assert [
        [(answer["label"], answer["probability"]) for answer in given["predictions"][0]["top"]]  # type: ignore[index]
        for given in together
    ] == tops
