"""Workers: real processes on real jobs, stopped, cancelled and killed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from specs.settings import Settings
from store.artifacts import Artifacts
from store.backup import back_up, restore
from store.database import Database
from tests.conftest import LOOPBACK, TINY_TRAINING, jobs_of, new_home, running_worker, wait_for
from workers.child import job_environment
from workers.consumer import Consumer
from workers.manners import Manners

LONG: dict[str, Any] = {**TINY_TRAINING, "name": "long", "epochs": 10_000}
# One of those for real-time programs, where there are any.
NAMELESS = getattr(signal, "SIGRTMIN", 8) + 1
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@dataclass(frozen=True)
class Served:
    """A data folder, a client of its API, and the one worker that it has."""

    settings: Settings
    api: TestClient
    worker: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """For tests after which the worker is as before: to start one with PyTorch takes five seconds."""
    settings = new_home(tmp_path_factory.mktemp("served") / "home")
    with TestClient(create_app(settings), base_url=LOOPBACK) as client, running_worker(settings) as worker:
        yield Served(settings, client, worker)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data folder for tests that start workers of their own."""
    return new_home(tmp_path_factory.mktemp("workers") / "home")


@pytest.fixture
def shared_api(shared: Settings) -> Iterator[TestClient]:
    """A client of the API over it."""
    with TestClient(create_app(shared), base_url=LOOPBACK) as client:
        yield client


def submit(api: TestClient, body: dict[str, Any]) -> str:
    response = api.post("/v1/jobs", json=body)
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


def job_of(api: TestClient, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = api.get(f"/v1/jobs/{job_id}").json()
    return job


def wait_until(api: TestClient, job_id: str, *statuses: str, seconds: float = 120) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = job_of(api, job_id)
        return job if job["status"] in statuses else None

    found: dict[str, Any] = wait_for(look, seconds=seconds)
    return found


def wait_for_epoch(api: TestClient, job_id: str, epoch: int) -> None:
    # Some jobs are over in a second or two from there.
    wait_for(lambda: len(api.get(f"/v1/jobs/{job_id}/metrics").json()["items"]) >= epoch, seconds=120, pause=0.05)


def end(api: TestClient, job_id: str) -> None:
    """Cancels a job that no worker runs any more."""
    api.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()


def test_a_running_job_is_cancelled_with_all_its_processes(served: Served) -> None:
    job_id = submit(served.api, LONG)
    wait_for_epoch(served.api, job_id, 2)
    children = jobs_of(served.worker)
    assert len(children) == 1
    # Without it, what each step takes and gives back is filled with zeros by the system every time.
    assert any("glibc.malloc.mmap_max=0" in child.environ().get("GLIBC_TUNABLES", "") for child in children)
    served.api.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    job = wait_until(served.api, job_id, "cancelled")
    assert job["reason"] == "user"
    assert not any(child.is_running() for child in children)
    again = served.api.post(f"/v1/jobs/{job_id}/cancel")
    assert again.json()["status"] == "cancelled"
    assert served.worker.poll() is None


@POSIX
def test_a_job_outlives_a_worker_that_is_stopped_and_one_that_is_killed(
    shared: Settings, shared_api: TestClient
) -> None:
    job_id = submit(shared_api, LONG)
    with running_worker(shared) as worker:
        wait_for_epoch(shared_api, job_id, 3)
        # As a system does that shuts down, or systemd that stops a service: to every process of it, and the last first.
        for process in reversed([psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]):
            process.terminate()
        assert worker.wait(60) == 0
    job = job_of(shared_api, job_id)
    assert (job["status"], job["attempt"]) == ("queued", 1)
    assert job["message"].startswith("The worker was shut down"), job
    done = len(shared_api.get(f"/v1/jobs/{job_id}/metrics").json()["items"])
    with running_worker(shared) as worker:
        wait_for_epoch(shared_api, job_id, done + 2)
        rows = shared_api.get(f"/v1/jobs/{job_id}/metrics").json()["items"]
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
        assert job_of(shared_api, job_id)["attempt"] == 2
        children = psutil.Process(worker.pid).children(recursive=True)
        assert children
        worker.kill()
        worker.wait()
    # The API takes the job back although no worker is left to do so.
    wait_until(shared_api, job_id, "queued", seconds=30)
    assert not psutil.wait_procs(children, timeout=30)[1]
    end(shared_api, job_id)
    wait_for(lambda: "none" in shared_api.get("/readyz").json()["checks"]["workers"])
    assert _health(shared) == 1


def test_a_paused_job_leaves_its_worker_to_others_and_goes_on_as_if_nothing_had_been(served: Served) -> None:
    job_id = submit(served.api, {**TINY_TRAINING, "epochs": 60, "seed": 11})
    wait_for_epoch(served.api, job_id, 2)
    assert served.api.post(f"/v1/jobs/{job_id}/pause").status_code == 202
    job = wait_until(served.api, job_id, "paused", "succeeded")
    assert (job["status"], job["phase"], job["pause_requested"]) == ("paused", None, False)
    done = len(served.api.get(f"/v1/jobs/{job_id}/metrics").json()["items"])
    quick = submit(served.api, {**TINY_TRAINING, "epochs": 1})
    assert wait_until(served.api, quick, "succeeded", "failed")["status"] == "succeeded"
    served.api.post(f"/v1/jobs/{job_id}/resume").raise_for_status()
    job = wait_until(served.api, job_id, "succeeded", "failed")
    rows = served.api.get(f"/v1/jobs/{job_id}/metrics").json()["items"]
    assert (job["status"], job["attempt"], len(rows)) == ("succeeded", 2, 60)
    assert 2 <= done < 60
    again = served.api.post(f"/v1/jobs/{job_id}/clone", json={}).json()["id"]
    undisturbed = wait_until(served.api, again, "succeeded", "failed")
    models = [served.api.get(f"/v1/models/{end['result']['model']}").json() for end in (job, undisturbed)]
    assert models[0]["weights_sha256"] == models[1]["weights_sha256"]


def test_a_training_steps_aside_on_battery_and_goes_on_at_the_mains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = new_home(tmp_path / "home").model_copy(update={"training_on_battery": False, "keep_loaded_seconds": 0.0})
    for name, value in {**job_environment(settings), "OMP_NUM_THREADS": "1", "PRUNEYARD_DEVICE_PROBE": "0"}.items():
        monkeypatch.setenv(name, value)
    battery, stop, database = SimpleNamespace(percent=80, power_plugged=True), threading.Event(), Database.of(settings)
    manners = Manners(settings, battery=lambda: battery)
    consumer = Consumer(settings, database, Artifacts(settings.home), stop, manners)
    thread = threading.Thread(target=consumer.run, daemon=True)
    thread.start()
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        job_id = submit(api, LONG)
        wait_for_epoch(api, job_id, 2)
        battery.power_plugged = False
        job = wait_until(api, job_id, "queued")
        assert job["message"] == "The machine runs on its battery, at 80 percent; the job goes on from its checkpoint."
        assert wait_for(lambda: job_of(api, job_id)["waits_for"])["reason"] == "on_battery"
        epochs = len(api.get(f"/v1/jobs/{job_id}/metrics").json()["items"])
        battery.power_plugged = True
        wait_for_epoch(api, job_id, epochs + 1)
        job = job_of(api, job_id)
        assert (job["status"], job["attempt"], job["waits_for"]) == ("running", 2, None)
        events = api.get(f"/v1/jobs/{job_id}/events?limit=500").json()["items"]
        notices = [event["data"] for event in events if event["type"] == "notice"]
        assert any(notice["message"].startswith("Goes on from a checkpoint") for notice in notices)
        stop.set()
        thread.join()
    database.close()


def test_a_copy_taken_beside_a_training_goes_on_elsewhere(served: Served, tmp_path: Path) -> None:
    job_id = submit(served.api, {**TINY_TRAINING, "epochs": 60, "seed": 12})
    wait_for_epoch(served.api, job_id, 3)
    database = Database.of(served.settings)
    back_up(served.settings, database, tmp_path / "copy")
    database.close()
    ended = wait_until(served.api, job_id, "succeeded", "failed")
    there = Settings(home=tmp_path / "elsewhere")
    restore(there, tmp_path / "copy")
    with running_worker(there), TestClient(create_app(there), base_url=LOOPBACK) as api:
        job = wait_until(api, job_id, "succeeded", "failed")
        assert (job["status"], job["attempt"]) == ("succeeded", 2), job
        rows = api.get(f"/v1/jobs/{job_id}/metrics").json()["items"]
        assert [row["epoch"] for row in rows] == list(range(1, 61))
        found, wanted = (
            each.get(f"/v1/models/{end['result']['model']}").json()["weights_sha256"]
            for each, end in ((api, job), (served.api, ended))
        )
        assert found == wanted


@POSIX
def test_a_child_that_is_killed_is_run_again_and_given_up_after_three_times(served: Served) -> None:
    job_id = submit(served.api, LONG)
    for attempt, sent in enumerate((signal.SIGKILL, NAMELESS, signal.SIGKILL), 1):
        wait_for(lambda attempt=attempt: _runs_at(served.api, job_id, attempt), seconds=60)
        child = wait_for(lambda: jobs_of(served.worker))[0]
        child.send_signal(sent)
    job = wait_until(served.api, job_id, "failed")
    assert (job["reason"], job["attempt"]) == ("crashed", 3)
    assert "SIGKILL" in job["message"]
    quick = submit(served.api, {**TINY_TRAINING, "epochs": 1})
    assert wait_until(served.api, quick, "succeeded", "failed")["status"] == "succeeded"


def _runs_at(api: TestClient, job_id: str, attempt: int) -> bool:
    job = job_of(api, job_id)
    return job["status"] == "running" and job["attempt"] == attempt and job["phase"] == "training"


def suspended(processes: list[psutil.Process], database: Path) -> bool:
    """Stops them, unless one of them is just writing: stopped there it would hold the lock, and nobody could write."""
    for process in processes:
        process.suspend()
    with closing(sqlite3.connect(database, timeout=0.5)) as connection, suppress(sqlite3.OperationalError):
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
        return True
    for process in processes:
        process.resume()
    return False


@POSIX
def test_a_worker_that_slept_past_its_time_writes_nothing_and_works_on_as_another(tmp_path: Path) -> None:
    settings = new_home(tmp_path / "home").model_copy(update={"worker_ttl_seconds": 4.0})
    with (
        running_worker(settings, PRUNEYARD_WORKER_TTL_SECONDS="4") as worker,
        TestClient(create_app(settings), base_url=LOOPBACK) as api,
    ):
        job_id = submit(api, LONG)
        wait_for_epoch(api, job_id, 2)
        asleep = [psutil.Process(worker.pid), *jobs_of(worker)]
        wait_for(lambda: suspended(asleep, settings.home / "pruneyard.db"))
        wait_until(api, job_id, "queued")
        api.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
        seen = api.get(f"/v1/jobs/{job_id}/events").json()
        rows = api.get(f"/v1/jobs/{job_id}/metrics").json()
        for process in asleep:
            process.resume()
        quick = submit(api, {**TINY_TRAINING, "epochs": 1})
        assert wait_until(api, quick, "succeeded", "failed", seconds=90)["status"] == "succeeded"
        assert not asleep[1].is_running()
        assert worker.poll() is None
        assert job_of(api, job_id)["status"] == "cancelled"
        assert api.get(f"/v1/jobs/{job_id}/events").json() == seen
        assert api.get(f"/v1/jobs/{job_id}/metrics").json() == rows


def test_a_training_that_diverges_fails_and_all_that_is_said_of_it_is_json(served: Served) -> None:
    job_id = submit(
        served.api,
        # Each step makes the weights minus three times as large.
        {**TINY_TRAINING, "name": "wild", "optimizer": {"name": "sgd", "lr": 1.0, "weight_decay": 4.0}, "epochs": 50},
    )
    job = wait_until(served.api, job_id, "failed", "succeeded")
    assert job["reason"] == "non_finite_loss"
    told = re.search(
        r"in step \d+ of epoch (\d+)\).* after step (\d+) of epoch (\d+), is kept.*optimizer\.lr", job["message"]
    )
    assert told, job["message"]
    failed_in, step, epoch = map(int, told.groups())
    with zipfile.ZipFile(io.BytesIO(served.api.get(f"/v1/jobs/{job_id}/bundle").content)) as bundle:
        newest = json.loads(bundle.read("checkpoints.json"))[0]
    assert (newest["epoch"] + 1, newest["step"]) == (epoch, step) == (failed_in, 0), "the one before it diverged"
    for path in ("", "/metrics", "/events"):
        text = served.api.get(f"/v1/jobs/{job_id}{path}").text
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    answer = served.api.post("/v1/models/wild/predict", content=b"x", headers={"content-type": "image/png"})
    assert answer.status_code == 409


def test_a_job_that_cannot_be_done_says_why_and_the_worker_goes_on(served: Served) -> None:
    odd = submit(served.api, {**TINY_TRAINING, "device": "xpu"})
    large = submit(
        served.api, {**TINY_TRAINING, "architecture": {"name": "mlp", "hidden": [16384] * 16}, "image_size": 512}
    )
    assert wait_until(served.api, odd, "failed", "succeeded")["reason"] == "device_unavailable"
    job = wait_until(served.api, large, "failed", "succeeded")
    assert (job["reason"], job["attempt"]) == ("out_of_memory", 1)
    assert "parameters" in job["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process")
def test_a_training_that_runs_out_of_memory_names_the_batch_that_fits(served: Served) -> None:
    large = {"architecture": {"name": "resnet18", "width": 0.5}, "image_size": 64, "batch_size": 1024}
    # The process of the job before may be just going.
    before = jobs_of(served.worker)
    job_id = submit(served.api, {**TINY_TRAINING, **large, "epochs": 1})
    child = wait_for(lambda: [job for job in jobs_of(served.worker) if job not in before], pause=0.01)[0]
    room = child.memory_info().vms + 2**30
    child.rlimit(psutil.RLIMIT_AS, (room, room))
    job = wait_until(served.api, job_id, "failed", "succeeded")
    assert (job["reason"], job["attempt"]) == ("out_of_memory", 1), job
    fits = re.search(r"batch_size 1024 takes about .* batch_size (\d+) would fit", job["message"])
    assert fits, job["message"]
    assert 8 <= int(fits[1]) <= 128, "of a gigabyte, at some ten megabytes an image"
    quick = submit(served.api, {**TINY_TRAINING, "epochs": 1})
    assert wait_until(served.api, quick, "succeeded", "failed")["status"] == "succeeded"


def test_nothing_is_left_behind_by_jobs_that_were_stopped(served: Served) -> None:
    job_id = submit(served.api, {**TINY_TRAINING, "epochs": 2, "seed": 7})
    late = {"exporting", "measuring", None}
    wait_for(lambda: job_of(served.api, job_id)["phase"] in late and _has_begun(served.api, job_id), pause=0.05)
    served.api.post(f"/v1/jobs/{job_id}/cancel")
    wait_until(served.api, job_id, "cancelled", "succeeded")
    quick = submit(served.api, {**TINY_TRAINING, "epochs": 1})
    wait_until(served.api, quick, "succeeded")
    # What the second one no longer needs is removed once it has ended.
    wait_for(lambda: not _unfinished(served.settings.home))


def _unfinished(home: Path) -> list[str]:
    """Names of files and folders that are being made; a glob stumbles over folders that go while it looks."""
    found = [name for _, folders, files in os.walk(home) for name in (*folders, *files)]
    return [name for name in found if name.startswith(".") and name.endswith(".tmp")]


def _has_begun(api: TestClient, job_id: str) -> bool:
    return job_of(api, job_id)["status"] != "queued"


def test_the_worker_is_seen_by_the_api(served: Served) -> None:
    wait_for(lambda: "1 alive" in served.api.get("/readyz").json()["checks"]["workers"])
    assert "cpu" in served.api.get("/v1/devices").json()["training"]
    assert _health(served.settings) == 0


def _health(settings: Settings) -> int:
    """The exit code of the health check of the worker's container."""
    environment = {**os.environ, "PRUNEYARD_HOME": str(settings.home)}
    return subprocess.run([sys.executable, "-m", "workers.health"], env=environment, check=False).returncode


def test_a_worker_needs_a_database_at_its_version(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = Settings(home=tmp_path_factory.mktemp("empty"))
    with running_worker(empty) as worker:
        assert worker.wait(30) == 2
