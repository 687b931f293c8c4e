"""Jobs whose process is killed by SIGKILL in one phase after the other: they end as if nothing had happened.

The suite takes two phases of each kind of job, so that each phase has its turn; `make chaos` takes all of all kinds.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from specs.settings import Settings
from tests.conftest import LOOPBACK, ended, jobs_of, new_home, running_worker, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills as on POSIX")

TRAINING: dict[str, Any] = {
    "kind": "train",
    "name": "parent",
    "dataset": "digits",
    "architecture": {"name": "mlp", "hidden": [256, 128]},
    "epochs": 2,
}
RETRAINING = {"epochs": 3, "distill": True}
LIGHT = {"name": "fpnet", "base": {"name": "mlp", "hidden": [64]}}
ENDING = ("evaluating", "exporting", "measuring")
# Of each what is asked for, all its phases, and those that the suite takes.
JOBS: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "weights": (
        {"kind": "prune", "model": "parent", "sparsity": 0.8, "rounds": 2, "fine_tune": RETRAINING},
        ("loading", "pruning", "training", *ENDING),
        ("training", "exporting"),
    ),
    "channels": (
        {"kind": "prune", "model": "parent", "method": "l1-filter", "speedup": 1.05, "fine_tune": RETRAINING},
        ("loading", "pruning", "training", *ENDING),
        ("pruning", "evaluating"),
    ),
    "distilled": (
        {"kind": "distill", "teacher": "parent", "architecture": {"name": "mlp", "hidden": [64]}, "epochs": 3},
        ("loading", "training", *ENDING),
        ("loading", "measuring"),
    ),
    "integers": (
        {"kind": "quantize", "model": "parent", "max_drop": None},
        ("loading", "quantizing", *ENDING),
        ("quantizing", "exporting"),
    ),
    "cut while it trains": (
        {**TRAINING, "architecture": LIGHT, "epochs": 6},
        ("loading", "training", *ENDING),
        ("training", "measuring"),
    ),
}
ALL = os.environ.get("CHAOS_PHASES") == "all"
# A speed is found by a clock, and another one each time.
BY_THE_CLOCK = {"channels"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, TestClient, subprocess.Popen[bytes]]]:
    """A data folder with a trained model, a client of its API, and its worker."""
    settings = new_home(tmp_path_factory.mktemp("killed") / "home")
    worker = running_worker(settings, PRUNEYARD_CHECKPOINT_SECONDS="0.01")
    with worker as process, TestClient(create_app(settings), base_url=LOOPBACK) as client:
        assert ended(client, TRAINING)["status"] == "succeeded"
        yield settings, client, process


@pytest.mark.parametrize("name", JOBS)
def test_a_job_killed_in_each_phase_ends_as_an_undisturbed_one(
    home: tuple[Settings, TestClient, subprocess.Popen[bytes]], name: str
) -> None:
    settings, client, worker = home
    body, every, some = JOBS[name]
    phases = every if ALL else some
    for number in range(5):  # a phase may be over before it was seen twice, on a machine that does much else
        hunter = Hunter(settings, client, worker)
        job, killed = hunter.killed_in_each_phase({**body, "name": f"{name} {number}"}, phases)
        assert job["status"] == "succeeded", job
        assert job["attempt"] == len(killed) + 1
        if killed == list(phases):
            break
    assert killed == list(phases)
    epochs = [row["epoch"] for row in client.get(f"/v1/jobs/{job['id']}/metrics").json()["items"]]
    assert epochs == list(range(1, len(epochs) + 1)), "each epoch is told once"

    made = [model for model in client.get("/v1/models").json()["items"] if model["job"] == job["id"]]
    assert [model["id"] for model in made] == [job["result"]["model"]], "one model a job"
    known = {model["id"] for model in client.get("/v1/models").json()["items"]}
    on_disk = {path.name for path in Path(settings.home).glob("models/*")}
    assert on_disk == known, "nothing half written is left"
    report = client.get(f"/v1/models/{made[0]['id']}/report").json()
    assert report["verdict"] == job["result"]["verdict"]
    if name not in BY_THE_CLOCK:
        again = ended(client, {**body, "name": f"{name} undisturbed"})
        undisturbed = client.get(f"/v1/models/{again['result']['model']}").json()
        assert undisturbed["weights_sha256"] == made[0]["weights_sha256"], "the same to the last bit"


def test_a_training_killed_in_a_long_epoch_goes_on_from_the_middle_of_it(
    home: tuple[Settings, TestClient, subprocess.Popen[bytes]],
) -> None:
    _, client, worker = home
    body = {**TRAINING, "name": "one long epoch", "epochs": 1, "batch_size": 2}
    job_id = client.post("/v1/jobs", json=body).json()["id"]
    wait_for(lambda: checkpoints_of(client, job_id), pause=0.01)
    assert _kill_child(worker)
    wait_for(lambda: client.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded", seconds=60)
    events = client.get(f"/v1/jobs/{job_id}/events").json()["items"]
    notices = [event["data"]["message"] for event in events if event["type"] == "notice"]
    (found,) = re.findall(r"after step (\d+) of epoch 1", " ".join(notices))
    assert int(found) > 0

    again = ended(client, {**body, "name": "undisturbed"})
    models = {model["job"]: model["weights_sha256"] for model in client.get("/v1/models").json()["items"]}
    assert models[job_id] == models[again["id"]], "the same to the last bit"


def checkpoints_of(client: TestClient, job_id: str) -> list[dict[str, Any]]:
    with zipfile.ZipFile(io.BytesIO(client.get(f"/v1/jobs/{job_id}/bundle").content)) as bundle:
        found: list[dict[str, Any]] = json.loads(bundle.read("checkpoints.json"))
    return found


class Hunter:
    """Kills the processes of jobs when they are where they shall be killed."""

    def __init__(self, settings: Settings, client: TestClient, worker: subprocess.Popen[bytes]) -> None:
        self._log = settings.home / "pruneyard.db-wal"
        self._client, self._worker = client, worker

    def killed_in_each_phase(self, body: dict[str, Any], phases: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
        """The job at its end, and the phases in which its process was killed, each once, in order."""
        response = self._client.post("/v1/jobs", json=body)
        assert response.status_code == 202, response.text
        path = f"/v1/jobs/{response.json()['id']}"
        killed: list[str] = []
        end = time.monotonic() + 240

        def is_in_next_phase(job: dict[str, Any]) -> bool:
            return len(killed) < len(phases) and (job["status"], job["phase"]) == ("running", phases[len(killed)])

        def is_still_in_it() -> bool:
            return is_in_next_phase(self._client.get(path).json())

        while time.monotonic() < end:
            written = self._written()
            job: dict[str, Any] = self._client.get(path).json()
            if job["status"] == "failed" and job["reason"] == "crashed":  # it is given up after three times
                assert self._client.post(f"{path}/retry").status_code == 202
            elif job["status"] in {"succeeded", "failed", "cancelled"}:
                return job, killed
            elif is_in_next_phase(job) and _kill_child(self._worker, is_still_in_it):
                killed.append(phases[len(killed)])
            self._pause(written)
        raise AssertionError(f"never ended; killed in {killed}")

    def _written(self) -> int:
        """When the database was last written to."""
        return self._log.stat().st_mtime_ns if self._log.exists() else 0

    def _pause(self, written: int) -> None:
        """Until more is written: some phases are over in hundredths of a second, and each look takes time from them."""
        for _ in range(50):
            time.sleep(0.003)
            if self._written() != written:
                return


def _kill_child(worker: subprocess.Popen[bytes], sure: Callable[[], bool] = lambda: True) -> bool:
    """Kills the process of a job, if it is `sure` that it is to be killed where it was stopped."""
    for child in jobs_of(worker):
        try:
            child.suspend()
        except psutil.NoSuchProcess:
            return False
        if not sure():
            child.resume()
            return False
        child.kill()
        psutil.wait_procs([child], timeout=10)
        return True
    return False
