"""The watchdog of progress: a job that makes no step is stopped although its worker beats, and the worker goes on."""

from __future__ import annotations

import io
import sys
import threading
import zipfile

import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from specs.settings import Settings
from store import queue, workers
from store.artifacts import Artifacts
from store.database import Database
from tests.chaos.yard import running_consumer
from tests.conftest import LOOPBACK, png, wait_for
from workers.child import TITLE
from workers.consumer import Progress
from workers.run import Run


def test_a_job_stalls_by_its_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    progress = Progress(since=clock)
    found = []
    for step in (0, 1, 2, 2, 2, 0):  # slow, then not at all; then another attempt
        clock += 40
        found.append(progress.stalls(step, 60))
    assert found == [False, False, False, False, True, False]


def test_each_phase_has_its_own_time_to_make_a_step(settings: Settings, database: Database) -> None:
    with database.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")
        claim = queue.claim(session, workers.register(session, ["cpu"]))
    assert claim is not None
    run, steps = Run(settings, database, Artifacts(settings.home), claim, threading.Event()), []
    for phase in ("training", "exporting", "measuring"):
        run.enter(phase)
        with database.read() as session:
            steps.append(queue.find_job(session, claim.job_id).step)
    assert steps == sorted(set(steps))


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process by its name, and stops it")
def test_a_job_that_makes_no_step_is_stopped_and_its_worker_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        TestClient(create_app(settings), base_url=LOOPBACK) as api,
        running_consumer(settings, monkeypatch, stall_seconds=2.0),
    ):
        first, second = (read(api, name) for name in ("first", "second"))
        stopped: set[psutil.Process] = set()

        def look() -> bool:
            for process in psutil.Process().children(recursive=True):
                if process.name() == TITLE and not stopped:
                    process.suspend()
                    stopped.add(process)
            return api.get(f"/v1/jobs/{first}").json()["finished_at"] is not None

        wait_for(look, seconds=120)
        job = api.get(f"/v1/jobs/{first}").json()
        assert (job["status"], job["reason"], job["attempt"]) == ("failed", "stalled", 1), job
        assert "no step for 2 seconds" in job["message"]
        assert not any(process.is_running() for process in stopped)
        wait_for(lambda: api.get(f"/v1/jobs/{second}").json()["attempt"], seconds=60)
        assert "1 alive" in api.get("/readyz").json()["checks"]["workers"]
        api.post(f"/v1/jobs/{second}/cancel").raise_for_status()


def read(api: TestClient, name: str) -> str:
    """A job that reads a data set of one picture."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/1.png", png(np.zeros((8, 8))))
    dataset = api.post("/v1/datasets", json={"name": name}).json()["id"]
    job: str = api.put(f"/v1/datasets/{dataset}/content", content=file.getvalue()).json()["job"]
    return job
