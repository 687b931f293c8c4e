"""Why a queued job does not run yet."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from store import queue, workers
from store.database import Database

JOB = {"kind": "train", "dataset": "digits", "architecture": "mlp", "name": "first"}
BATTERY = {"reason": "on_battery", "message": "The machine runs on its battery."}


@pytest.fixture
def worker(database: Database) -> str:
    """A worker that lives: this process."""
    with database.write() as session:
        return workers.register(session, ["cpu"])


def ask(api: TestClient, **query: Any) -> str:
    job_id: str = api.post("/v1/jobs", json=JOB, params=query).json()["id"]
    return job_id


def waits_for(api: TestClient, job_id: str) -> dict[str, Any] | None:
    job = api.get(f"/v1/jobs/{job_id}").json()
    listed = {each["id"]: each for each in api.get("/v1/jobs").json()["items"]}
    assert listed[job_id]["waits_for"] == job["waits_for"]
    found: dict[str, Any] | None = job["waits_for"]
    return found


def reason(api: TestClient, job_id: str) -> str | None:
    return (waits_for(api, job_id) or {}).get("reason")


def test_a_job_waits_for_a_worker_that_is_free(api: TestClient, database: Database) -> None:
    first, second = ask(api), ask(api)
    assert (reason(api, first), reason(api, second)) == ("no_worker", "no_worker")
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
    assert (reason(api, first), reason(api, second)) == (None, "earlier_jobs")
    with database.write() as session:
        claim = queue.claim(session, worker)
    assert claim is not None
    assert waits_for(api, first) is None, "it runs"
    busy = {"reason": "busy", "message": 'The worker is at "first".', "eta_seconds": None}
    assert waits_for(api, second) == busy
    with database.write() as session:
        queue.report(session, claim, phase="training", step=1, progress={"fraction": 0.5, "eta_seconds": 40.0})
    assert waits_for(api, second) == {**busy, "eta_seconds": 40.0}
    with database.write() as session:
        other = workers.register(session, ["cpu"])
    assert waits_for(api, second) is None, "another worker is free"
    with database.write() as session:
        workers.set_hold(session, other, BATTERY)
    assert reason(api, second) == "on_battery", "one is busy, and the other one waits"


def test_a_job_waits_for_what_all_workers_wait_for(api: TestClient, database: Database, worker: str) -> None:
    training, quote = ask(api), ask(api, dry_run=True)
    with database.write() as session:
        workers.set_hold(session, worker, BATTERY)
    assert waits_for(api, training) == {**BATTERY, "eta_seconds": None}
    assert waits_for(api, quote) is None, "quotes do not wait"
    with database.write() as session:
        other = workers.register(session, ["cpu"])
    assert waits_for(api, training) is None, "the other one takes it"
    with database.write() as session:
        workers.sign_off(session, other)
        workers.set_hold(session, worker, None)
    assert waits_for(api, training) is None
