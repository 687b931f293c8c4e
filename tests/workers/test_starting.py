"""How the process of a job comes to be, seen from outside: a fork of one that has PyTorch, or afresh."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from specs.settings import Settings
from store.liveness import process_runs
from tests.conftest import LOOPBACK, TINY_TRAINING, ended, jobs_of, new_home, running_worker, wait_for
from workers.child import job_environment
from workers.starting import PRELOADED, PRELOADED_TO_READ

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
LONG: dict[str, Any] = {**TINY_TRAINING, "epochs": 10_000}
QUICK: dict[str, Any] = {**TINY_TRAINING, "epochs": 1}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, TestClient]]:
    """A data folder for this module, so that the graph is exported once, and a client of its API."""
    settings = new_home(tmp_path_factory.mktemp("starting") / "home")
    with TestClient(create_app(settings), base_url=LOOPBACK) as client:
        yield settings, client


class running_job:  # noqa: N801 - reads as a statement of what is the case
    """A training that would go on for long, cancelled at the end of the block; gives its process."""

    def __init__(self, client: TestClient, worker: subprocess.Popen[bytes]) -> None:
        self._client, self._worker = client, worker

    def __enter__(self) -> psutil.Process:
        self.id = self._client.post("/v1/jobs", json=LONG).json()["id"]
        wait_for(lambda: self._client.get(f"/v1/jobs/{self.id}").json()["phase"] == "training", seconds=60)
        process: psutil.Process = wait_for(lambda: jobs_of(self._worker))[0]
        return process

    def __exit__(self, *_: object) -> None:
        self._client.post(f"/v1/jobs/{self.id}/cancel").raise_for_status()
        wait_for(lambda: self._client.get(f"/v1/jobs/{self.id}").json()["status"] == "cancelled", seconds=60)


def done_afresh(client: TestClient, worker: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a job's process was, which the worker must have started itself and which must succeed."""
    job = client.post("/v1/jobs", json=QUICK).json()["id"]
    found = wait_for(lambda: jobs_of(worker), seconds=60, pause=0.05)[0]
    process: dict[str, Any] = found.as_dict(["ppid", "environ"])
    assert process["ppid"] == worker.pid
    wait_for(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "succeeded", seconds=60)
    return process


def test_jobs_are_forks_of_one_process_until_it_rests_or_dies(shared: tuple[Settings, TestClient]) -> None:
    settings, client = shared
    with running_worker(settings, PRUNEYARD_KEEP_LOADED_SECONDS="2") as worker:
        with running_job(client, worker) as first:
            server = first.parent()
            assert server is not None
            assert server.ppid() == worker.pid
            assert server.memory_info().rss > psutil.Process(worker.pid).memory_info().rss + 2**26, "it holds torch"
        with running_job(client, worker) as second:
            assert second.parent() == server
            assert second != first
        wait_for(lambda: not process_runs(server.pid), seconds=30)
        # It is there again when it is needed again.
        with running_job(client, worker) as third:
            another = third.parent()
            assert another not in {None, server, psutil.Process(worker.pid)}
            another.kill()
            # Nobody could tell how the job ends any more, so it is ended and begun anew.
            assert not psutil.wait_procs([third], timeout=30)[1]
            wait_for(lambda: jobs_of(worker), seconds=60)
        job = ended(client, QUICK)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def test_it_starts_afresh_where_nothing_is_to_stay_loaded(shared: tuple[Settings, TestClient]) -> None:
    settings, client = shared
    with running_worker(settings, PRUNEYARD_KEEP_LOADED_SECONDS="0") as worker:
        process = done_afresh(client, worker)
        assert "glibc.malloc.mmap_max=0" in process["environ"]["GLIBC_TUNABLES"]


def test_it_starts_afresh_where_it_cannot_be_forked(shared: tuple[Settings, TestClient], tmp_path: Path) -> None:
    """Names of sockets have no room for a folder as deep as this."""
    settings, client = shared
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    with running_worker(settings, TMPDIR=str(deep)) as worker:
        done_afresh(client, worker)


@pytest.mark.parametrize(
    ("module", "task"), [(PRELOADED, "workers.tasks.train"), (PRELOADED_TO_READ, "workers.tasks.ingest")]
)
def test_what_is_loaded_ahead_has_no_threads_and_asks_for_no_device(settings: Settings, module: str, task: str) -> None:
    """Neither outlives a fork: locks stay locked, and drivers fail."""
    program = f"""
import sys, psutil, torch
def refuse(*_): raise AssertionError("a device was asked for")
for module in (torch.cuda, torch.xpu, torch.mps, torch.accelerator):
    for name in ("is_available", "device_count", "current_device", "init"):
        if hasattr(module, name):
            setattr(module, name, refuse)
import {module}
assert "{task}" in sys.modules
print(psutil.Process().num_threads())
"""
    environment = {**os.environ, **job_environment(settings)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"
