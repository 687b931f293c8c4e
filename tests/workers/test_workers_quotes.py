"""What a training would take, told by a real worker from its first steps, and held against what it took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from specs.settings import Settings
from tests.conftest import LOOPBACK, TINY_TRAINING, ended, new_home, running_worker, wait_for
from workers.quotes import ENOUGH

QUICK: dict[str, Any] = {**TINY_TRAINING, "epochs": 3}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, TestClient]]:
    """A data folder with a worker, and a client of its API."""
    settings = new_home(tmp_path_factory.mktemp("quotes") / "home")
    with running_worker(settings), TestClient(create_app(settings), base_url=LOOPBACK) as client:
        yield settings, client


def quote_of(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    job = ended(client, body, dry_run=True)
    assert (job["status"], job["kind"]) == ("succeeded", "quote"), job
    found: dict[str, Any] = job["result"]
    return {**found, "job": job["id"]}


def test_a_training_is_quoted_and_the_quote_held_against_it(home: tuple[Settings, TestClient]) -> None:
    settings, client = home
    quote = quote_of(client, QUICK)
    assert client.get("/v1/models").json()["items"] == [], "nothing is made"
    assert not list((settings.home / "checkpoints").glob("*"))
    assert not list((settings.home / "scratch").glob("*"))
    assert 0 < quote["seconds_low"] < quote["seconds"] < quote["seconds_high"]
    assert quote["seconds"] == pytest.approx(3 * quote["seconds_per_epoch"], rel=1)
    weights = 4 * (64 * 128 + 128 * 10)
    assert 9 * weights < quote["disk_bytes"] < 18 * weights, "three checkpoints of weights and two moments each"
    assert 2**26 < quote["peak_memory_bytes"] < quote["available_memory_bytes"]
    assert (quote["fits"], quote["jobs_beside"], quote["corrected_by"]) == (True, 0, 0)

    job = ended(client, {**QUICK, "name": "of another name"})
    told = job["result"]["quote"]
    rows = client.get(f"/v1/jobs/{job['id']}/metrics").json()["items"]
    taken = sum(row["seconds"] for row in rows) / len(rows)
    assert told == {"job": quote["job"], "error": pytest.approx(taken / quote["measured_seconds_per_epoch"], rel=0.01)}
    assert "quote" not in ended(client, {**QUICK, "seed": 9})["result"], "another training was not quoted"


def test_earlier_errors_correct_a_quote(home: tuple[Settings, TestClient]) -> None:
    _, client = home
    quote_of(client, QUICK)
    errors = [ended(client, QUICK)["result"]["quote"]["error"] for _ in range(ENOUGH)]
    quote = quote_of(client, QUICK)
    assert quote["corrected_by"] >= ENOUGH
    factor = quote["seconds_per_epoch"] / quote["measured_seconds_per_epoch"]
    assert min(errors) * 0.5 < factor < max(errors) * 2
    assert quote["seconds_low"] <= quote["seconds"] <= quote["seconds_high"]


def test_a_quote_is_given_beside_a_training(home: tuple[Settings, TestClient]) -> None:
    _, client = home
    long = client.post("/v1/jobs", json={**TINY_TRAINING, "epochs": 10_000}).json()["id"]
    wait_for(lambda: client.get(f"/v1/jobs/{long}").json()["phase"] == "training", seconds=60)
    body = {"kind": "distill", "teacher": "tiny", "architecture": {"name": "mlp", "hidden": [16]}, "epochs": 2}
    quote = quote_of(client, body)
    assert (quote["jobs_beside"], quote["epochs"]) == (1, 2)
    assert client.get(f"/v1/jobs/{long}").json()["status"] == "running"
    client.post(f"/v1/jobs/{long}/cancel").raise_for_status()


def test_what_cannot_be_trained_cannot_be_quoted(home: tuple[Settings, TestClient]) -> None:
    _, client = home
    large = {**QUICK, "architecture": {"name": "mlp", "hidden": [16384] * 16}}
    assert ended(client, large, dry_run=True)["reason"] == "out_of_memory"
