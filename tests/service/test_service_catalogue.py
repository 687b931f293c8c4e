"""The catalogue, the data sets, the limits, health and the docs page over HTTP."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from specs.architectures import ARCHITECTURES
from specs.augmentations import AUGMENTATIONS
from specs.datasets import BUILTIN_DATASETS
from specs.devices import Finding
from specs.optimizers import OPTIMIZERS
from specs.pruning import PRUNING_METHODS
from specs.recipes import RECIPES
from specs.schedules import SCHEDULES
from store import workers
from store.database import Database
from store.devices import enter_findings
from tests.problems import problem_of

REGISTRIES: dict[str, Any] = {
    "architectures": ARCHITECTURES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "augmentations": AUGMENTATIONS,
    "pruning-methods": PRUNING_METHODS,
}


@pytest.mark.parametrize("name", list(REGISTRIES))
def test_the_catalogue_lists_each_name_with_its_options(api: TestClient, name: str) -> None:
    items = api.get(f"/v1/{name}").json()["items"]
    assert [item["name"] for item in items] == list(REGISTRIES[name])
    for item in items:
        assert item["title"]
        assert item["description"]
        assert set(item["defaults"]) == set(item["options"]), "every option has a default"
        assert all("description" in option for option in item["options"].values())


def test_each_recipe_is_listed_with_settings_that_a_job_may_have(api: TestClient) -> None:
    items = api.get("/v1/recipes").json()["items"]
    assert [item["name"] for item in items] == list(RECIPES)
    for item in items:
        body = {"kind": "train", "dataset": "digits", "architecture": "mlp", "recipe": item["name"]}
        spec = api.post("/v1/jobs", json=body).raise_for_status().json()["spec"]
        said = api.post("/v1/jobs", json={**body, "recipe": "plain", **item["settings"]}).raise_for_status().json()
        assert spec == {**said["spec"], "recipe": item["name"]}
        assert item["title"] and item["description"]


def test_an_unknown_architecture_is_answered_with_the_nearest(api: TestClient) -> None:
    assert "'resnet18'" in problem_of(api.get("/v1/architectures/resnet81"), 404)["detail"]


def test_the_data_set_is_described(api: TestClient) -> None:
    found = api.get("/v1/datasets/digits").json()
    assert found == api.get("/v1/datasets/ds_digits").json()
    assert api.get("/v1/datasets").json()["items"] == [found]
    assert sum(found["splits"].values()) == found["images"] == sum(found["class_images"].values()) == 1797
    problem_of(api.get("/v1/datasets/digit"), 404)


def test_images_of_a_data_set_come_with_their_labels(api: TestClient) -> None:
    parts = {}
    for split in ("train", "test"):
        items, cursor = [], None
        while True:
            query = {"split": split, "limit": 500} | ({"cursor": cursor} if cursor else {})
            page = api.get("/v1/datasets/digits/images", params=query).json()
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        parts[split] = items
    assert len(parts["test"]) == api.get("/v1/datasets/digits").json()["splits"]["test"]
    indices = [item["index"] for item in parts["train"] + parts["test"]]
    assert sorted(indices) == list(range(BUILTIN_DATASETS["digits"].images))
    image = Image.open(io.BytesIO(base64.b64decode(parts["test"][0]["png"])))
    assert (image.size, image.mode) == ((8, 8), "L")
    assert np.asarray(image).max() > 200
    problem_of(api.get("/v1/datasets/digits/images?split=all"), 422, "query:split")
    problem_of(api.get("/v1/datasets/digit/images"), 404)


def test_limits_and_devices(api: TestClient) -> None:
    limits = api.get("/v1/limits").json()
    assert limits["max_body_bytes"] > 0
    assert "PNG" in limits["image_formats"]
    devices = api.get("/v1/devices").json()
    assert any(device["name"] == "CPU" for device in devices["inference"])
    assert devices["training"] == devices["devices"] == []


def test_devices_are_those_of_the_workers_that_live(api: TestClient, database: Database) -> None:
    moment = "2026-01-02T03:04:05Z"
    cpu = Finding(name="cpu", usable=True, chosen_by_auto=True, reason="It is always there.")
    slow = Finding(name="xpu", usable=True, reason="It works.", ratio=0.5, probed_at=moment, versions={"driver": "1"})
    with database.write() as session:
        for _ in range(2):
            incarnation = workers.register(session, ["cpu"])
            session.flush()
            workers.set_devices(session, incarnation, ["cpu", "xpu"])
            enter_findings(session, incarnation, [cpu, slow])
        workers.register(session, ["cpu"])
    devices = api.get("/v1/devices").json()
    assert devices["training"] == ["cpu", "xpu"]
    assert [device["name"] for device in devices["devices"]] == ["cpu", "xpu"]
    assert devices["devices"][1] == {
        "name": "xpu",
        "usable": True,
        "chosen_by_auto": False,
        "reason": "It works.",
        "ratio": 0.5,
        "probed_at": "2026-01-02T03:04:05.000Z",
        "versions": {"driver": "1"},
    }
    with database.write() as session:
        for worker in workers.list_workers(session):
            workers.sign_off(session, worker.incarnation)
    assert api.get("/v1/devices").json()["devices"] == []


def test_health_says_when_no_worker_is_there(api: TestClient) -> None:
    assert api.get("/healthz").json() == {"status": "alive"}
    ready = api.get("/readyz")
    assert ready.status_code == 200
    assert "none" in ready.json()["checks"]["workers"]


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/jobs/", "/static-offline-docs/../../pyproject.toml"])
def test_nothing_at_an_address_is_a_problem_too(api: TestClient, path: str) -> None:
    problem_of(api.get(path, follow_redirects=True) if path != "/v1/jobs/" else api.get("/v1/jobs/x/y/"), 404)


def test_a_method_that_is_not_taken_is_a_problem_too(api: TestClient) -> None:
    for path, allowed in (
        ("/v1/jobs", "GET, HEAD, POST"),
        ("/v1/models/x", "DELETE, GET, HEAD, PATCH"),
        ("/v1/aliases/x", "DELETE, GET, HEAD, PUT"),
        ("/v1/models/x/predict", "POST"),
    ):
        response = api.request("TRACE", path)
        problem_of(response, 405)
        assert response.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/jobs", "/docs", "/v1/datasets/digits"])
def test_head_is_answered_wherever_get_is(api: TestClient, path: str) -> None:
    assert api.head(path).status_code == api.get(path).status_code == 200


def test_the_docs_page_loads_nothing_from_elsewhere(api: TestClient) -> None:
    page = api.get("/docs").text
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page) + re.findall(r"""url: ["']([^"']+)""", page)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/"), link
        assert api.get(link).status_code == 200, link
    assert api.get("/").url.path == "/docs"


def test_every_body_has_an_example(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    bodies = [
        (path, content)
        for path, methods in document["paths"].items()
        for operation in methods.values()
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        if kind == "application/json"
    ]
    assert {path for path, _ in bodies} >= {"/v1/jobs", "/v1/aliases/{alias}", "/v1/models/{reference}/predict"}
    for path, content in bodies:
        assert content.get("examples") or content.get("example"), path
    assert all(operation.get("summary") for methods in document["paths"].values() for operation in methods.values())
