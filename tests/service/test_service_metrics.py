"""The figures for Prometheus, read by Prometheus' own parser."""

from __future__ import annotations

import base64
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from inference.statistics import STAGES
from service.app import create_app
from specs.settings import Settings
from store.tables import JOB_STATUSES
from tests.conftest import LOOPBACK
from tests.problems import problem_of

PNG = {"content-type": "image/png"}
KEY = "correct-horse-battery-staple"
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(client: TestClient) -> Series:
    """All samples of a scrape, by name and labels; checks that none comes twice, and that histograms rise."""
    response = client.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: Series = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    check_histograms(found)
    return found


def check_histograms(series: Series) -> None:
    """Each bucket holds those before it, and the last one holds all."""
    buckets: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = {}
    for (name, labels), value in series.items():
        bound = dict(labels).get("le")
        if bound is not None:
            rest = frozenset(label for label in labels if label[0] != "le")
            buckets.setdefault((name.removesuffix("_bucket"), rest), []).append((float(bound), value))
    for (name, labels), counts in buckets.items():
        values = [value for _, value in sorted(counts)]
        assert values == sorted(values), name
        assert values[-1] == series[f"{name}_count", labels], name
        assert series[f"{name}_sum", labels] >= 0, name


def value_of(series: Series, name: str, **labels: str) -> float:
    """One sample; 0 if it is not there."""
    return series.get((name, frozenset(labels.items())), 0.0)


def labels_of(series: Series, label: str) -> set[str]:
    """All values that a label has."""
    return {value for _, labels in series for name, value in labels if name == label}


@pytest.fixture
def seven(test_digits: list[tuple[bytes, str]]) -> bytes:
    """A PNG of a handwritten seven."""
    return next(data for data, label in test_digits if label == "7")


def test_requests_are_counted_by_method_route_and_status(api: TestClient) -> None:
    asked = [
        ("GET", "/v1/jobs", "/v1/jobs", 200),
        ("HEAD", "/v1/jobs", "/v1/jobs", 200),
        ("GET", "/v1/jobs/job_x", "/v1/jobs/{job_id}", 404),
        ("GET", "/v1/jobs/job_y", "/v1/jobs/{job_id}", 404),
        ("POST", "/v1/jobs", "/v1/jobs", 422),
        ("POST", "/v1/models/x/predict", "/v1/models/{reference}/predict", 415),
        ("GET", "/v1/models/x/predict", "/v1/models/{reference}/predict", 405),
        ("POST", "/v2/models/x/infer", "/v2/models/{model}/infer", 404),
        ("POST", "/v2/models/x/versions/1/infer", "/v2/models/{model}/versions/{version}/infer", 404),
        ("GET", "/healthz", "/healthz", 200),
        ("GET", "/nowhere", "other", 404),
    ]
    for method, path, _, _ in asked:
        api.request(method, path)
    series = scraped(api)
    for method, _, route, status in asked:
        count = sum((method, route, status) == (known[0], *known[2:]) for known in asked)
        labels = {"method": method, "route": route}
        assert value_of(series, "pruneyard_http_requests_total", **labels, status=str(status)) == count, labels
        assert value_of(series, "pruneyard_http_request_duration_seconds_count", **labels) == count, labels
    assert value_of(series, "pruneyard_http_requests_in_progress") == 1  # the scrape itself
    assert value_of(scraped(api), "pruneyard_http_requests_total", method="GET", route="/metrics", status="200") == 1


def test_what_the_guards_refuse_is_counted(api: TestClient, settings: Settings) -> None:
    api.get("/v1/jobs", headers={"host": "evil.example"})
    api.post("/v1/jobs", content=b"{}", headers={"content-length": str(settings.max_body_bytes + 1)})
    series = scraped(api)
    assert value_of(series, "pruneyard_http_requests_total", method="GET", route="other", status="403") == 1
    assert value_of(series, "pruneyard_http_requests_total", method="POST", route="other", status="413") == 1


def test_labels_do_not_grow_with_what_is_asked_for(api: TestClient) -> None:
    def ask(name: str) -> Series:
        for path in (f"/{name}", f"/v1/jobs/{name}", f"/v1/models/{name}", f"/docs/{name}", f"/v1/jobs?x={name}"):
            for method in ("GET", "POST", "DELETE", name.upper()):
                api.request(method, path)
        api.post(f"/v1/models/{name}/predict", content=b"x", headers=PNG)
        return scraped(api)

    def shape(series: Series) -> set[Any]:
        return {key for key in series if dict(key[1]).get("route") != "/metrics"}

    first = shape(ask("first"))
    for name in ("second", "third-x", 'x"}', "%C3%A9"):
        series = ask(name)
        assert shape(series) == first
        assert not [value for _, labels in series for _, value in labels if name.lower() in value.lower()]


def test_a_model_shows_what_its_predictions_took(trained_api: TestClient, seven: bytes) -> None:
    model = trained_api.get("/v1/models/tiny").json()["id"]
    assert model not in labels_of(scraped(trained_api), "model")
    for _ in range(3):
        assert trained_api.post("/v1/models/tiny/predict", content=seven, headers=PNG).status_code == 200
    many = trained_api.post("/v1/models/tiny/predict", files=[("image", seven)] * 40)
    assert many.status_code == 200
    series = scraped(trained_api)
    assert labels_of(series, "model") == {model}
    assert labels_of(series, "stage") == set(STAGES)
    assert value_of(series, "pruneyard_model_requests_total", model=model, outcome="success") == 4
    assert value_of(series, "pruneyard_model_requests_total", model=model, outcome="failure") == 0
    assert value_of(series, "pruneyard_model_images_total", model=model) == 43
    runs = value_of(series, "pruneyard_model_executions_total", model=model)
    assert 4 < runs < 43
    assert value_of(series, "pruneyard_model_batch_size_count", model=model) == runs
    assert value_of(series, "pruneyard_model_batch_size_sum", model=model) == 43
    assert value_of(series, "pruneyard_model_queue_length", model=model) == 0
    counts = {"queue": 43, "compute_input": 4, "compute_infer": runs, "compute_output": 4}
    for stage in STAGES:
        name = "pruneyard_model_stage_duration_seconds"
        assert value_of(series, f"{name}_count", model=model, stage=stage) == counts[stage]
        assert value_of(series, f"{name}_sum", model=model, stage=stage) > 0


@pytest.mark.parametrize("form", ["bytes", "pixels", "floats", "raw", "odd raw"])
def test_all_forms_of_images_show_in_the_same_stages(trained_api: TestClient, seven: bytes, form: str) -> None:
    model = trained_api.get("/v1/models/tiny").json()["id"]
    tensors: dict[str, dict[str, Any]] = {
        "bytes": {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(seven).decode()]},
        "pixels": {"datatype": "UINT8", "shape": [1, 8, 8, 1], "data": [0] * 64},
        "floats": {"datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.0] * 64},
    }
    if form in tensors:
        given = trained_api.post("/v2/models/tiny/infer", json={"inputs": [{"name": "images", **tensors[form]}]})
    else:
        side = 8 if form == "raw" else 9
        headers = {"content-type": "application/octet-stream", "x-shape": f"1,{side},{side},1"}
        given = trained_api.post("/v1/models/tiny/predict", content=bytes(side * side), headers=headers)
    assert given.status_code == 200, given.text
    series = scraped(trained_api)
    for stage in STAGES:
        name = "pruneyard_model_stage_duration_seconds_count"
        assert value_of(series, name, model=model, stage=stage) == 1, stage
    (counted,) = trained_api.get("/v2/models/tiny/stats").json()["model_stats"]
    assert {counted["inference_stats"][stage]["count"] for stage in STAGES} == {1}


def test_what_is_no_image_is_a_failure_of_the_model_it_was_sent_to(trained_api: TestClient, seven: bytes) -> None:
    model = trained_api.get("/v1/models/tiny").json()["id"]
    tensors: list[dict[str, Any]] = [
        {"datatype": "BYTES", "shape": [1], "data": ["Tm8gaW1hZ2U="]},
        {"datatype": "UINT8", "shape": [2, 32], "data": [0] * 64},
        {"datatype": "FP32", "shape": [1, 1, 9, 9], "data": [0.0] * 81},
    ]
    for tensor in tensors:
        refused = trained_api.post("/v2/models/tiny/infer", json={"inputs": [{"name": "images", **tensor}]})
        assert 400 <= refused.status_code < 500
    for files in ([("image", b"no image")], [("image", seven), ("image", seven[:40])]):
        assert trained_api.post("/v1/models/tiny/predict", files=files).status_code in {415, 422}
    series = scraped(trained_api)
    assert value_of(series, "pruneyard_model_requests_total", model=model, outcome="failure") == 5
    assert value_of(series, "pruneyard_model_requests_total", model=model, outcome="success") == 0


def test_a_deleted_model_leaves_the_series(trained_api: TestClient, seven: bytes) -> None:
    ids = {name: trained_api.get(f"/v1/models/{name}").json()["id"] for name in ("tiny", "tiny pruned")}
    for name in ids:
        trained_api.post(f"/v1/models/{name}/predict", content=seven, headers=PNG)
    trained_api.post("/v1/models/nobody/predict", content=seven, headers=PNG)
    assert labels_of(scraped(trained_api), "model") == set(ids.values())
    assert trained_api.delete("/v1/models/tiny pruned").status_code in {200, 204}
    assert labels_of(scraped(trained_api), "model") == {ids["tiny"]}


def test_the_cache_shows_what_it_holds_and_did(trained_settings: Settings, seven: bytes) -> None:
    small = trained_settings.model_copy(update={"model_cache_bytes": 1})
    with TestClient(create_app(small), base_url=LOOPBACK) as client:
        before = scraped(client)
        assert value_of(before, "pruneyard_model_cache_capacity_bytes") == 1
        assert value_of(before, "pruneyard_model_cache_models") == 0
        for name in ("tiny", "tiny", "tiny pruned"):
            client.post(f"/v1/models/{name}/predict", content=seven, headers=PNG)
        damage(small.home, client.get("/v1/models/tiny").json()["id"])
        client.post("/v1/models/tiny/predict", content=seven, headers=PNG)
        after = scraped(client)
    figures = {name: value_of(after, f"pruneyard_model_cache_{name}") for name in ("models", "loading", "bytes")}
    assert figures == {"models": 1, "loading": 0, "bytes": figures["bytes"]}
    assert figures["bytes"] > 1
    counts = {name: value_of(after, f"pruneyard_model_cache_{name}_total") for name in ("misses", "failures")}
    assert counts["misses"] >= 3
    assert counts["failures"] == 1
    assert value_of(after, "pruneyard_model_cache_evictions_total") == 1
    assert value_of(after, "pruneyard_model_cache_hits_total") >= 1


def damage(home: Path, model_id: str) -> None:
    """Removes the files of a model."""
    (folder,) = [path for path in home.rglob(model_id) if path.is_dir()]
    shutil.rmtree(folder)


def test_jobs_and_workers_are_told(api: TestClient) -> None:
    body = {"kind": "train", "dataset": "digits", "architecture": "mlp"}
    first, *_ = [api.post("/v1/jobs", json=body).json()["id"] for _ in range(3)]
    api.post(f"/v1/jobs/{first}/cancel")
    series = scraped(api)
    jobs = {status: value_of(series, "pruneyard_jobs", status=status) for status in JOB_STATUSES}
    assert labels_of(series, "status") >= set(JOB_STATUSES)
    assert {status: count for status, count in jobs.items() if count} == {"queued": 2, "cancelled": 1}
    assert ("pruneyard_workers_alive", frozenset()) in series
    assert value_of(series, "pruneyard_scrape_errors_total") == 0


def test_a_broken_database_costs_its_own_series_only(api: TestClient, settings: Settings) -> None:
    with closing(sqlite3.connect(settings.home / "pruneyard.db")) as connection:
        connection.execute("ALTER TABLE jobs RENAME TO gone")
        series = scraped(api)
        assert not [name for name, _ in series if name in {"pruneyard_jobs", "pruneyard_workers_alive"}]
        assert value_of(series, "pruneyard_scrape_errors_total") == 1
        assert ("pruneyard_model_cache_models", frozenset()) in series
        assert value_of(scraped(api), "pruneyard_scrape_errors_total") == 2
        connection.execute("ALTER TABLE gone RENAME TO jobs")
    series = scraped(api)
    assert labels_of(series, "status") >= set(JOB_STATUSES)
    assert value_of(series, "pruneyard_scrape_errors_total") == 2


def test_two_apps_in_one_process_count_apart(api: TestClient, tmp_path: Path, settings: Settings) -> None:
    other_settings = Settings(home=Path(shutil.copytree(settings.home, tmp_path / "other")))
    with TestClient(create_app(other_settings), base_url=LOOPBACK) as other:
        api.get("/healthz")
        labels = {"method": "GET", "route": "/healthz", "status": "200"}
        assert value_of(scraped(api), "pruneyard_http_requests_total", **labels) == 1
        assert value_of(scraped(other), "pruneyard_http_requests_total", **labels) == 0


def test_a_key_guards_the_figures(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_key": SecretStr(KEY)}))
    with TestClient(app, base_url="http://pruneyard.example") as client:
        problem_of(client.get("/metrics"), 401)
        response = client.get("/metrics", headers={"authorization": f"Bearer {KEY}"})
        assert response.status_code == 200
        assert KEY not in response.text


def test_heads_and_the_process(api: TestClient) -> None:
    head = api.head("/metrics")
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/plain; version=0.0.4")
    series = scraped(api)
    if Path("/proc/self/stat").exists():
        assert value_of(series, "process_resident_memory_bytes") > 1024 * 1024
        assert value_of(series, "process_cpu_seconds_total") > 0
    for accept in ("", "*/*", "application/openmetrics-text;version=x", "text/plain;version=1;escaping=\u00fc"):
        response = api.get("/metrics", headers={"accept": accept.encode()})
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
