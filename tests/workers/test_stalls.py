"""The watchdog of progress: a job that makes no step is stopped although its worker beats, and the worker goes on."""

from __future__ import annotations

import io
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient
from torch import Tensor, nn

from nets.datasets import load
from service.app import create_app
from specs.datasets import BUILTIN_DATASETS
from specs.settings import Settings
from store import queue, workers
from store.artifacts import Artifacts
from store.database import Database
from tests.chaos.yard import running_consumer
from tests.conftest import LOOPBACK, png, wait_for
from workers.child import TITLE
from workers.consumer import Progress
from workers.growth import growth_told
from workers.run import REPORT_SECONDS, Run
from workers.scores import judge


def test_a_job_stalls_by_its_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    progress = Progress(since=clock)
    found = []
    for step in (0, 1, 2, 2, 2, 0):  # slow, then not at all; then another attempt
        clock += 40
        found.append(progress.stalls(step, 60))
    assert found == [False, False, False, False, True, False]


@pytest.fixture
def running(settings: Settings, database: Database) -> Run:
    """A job that has begun."""
    with database.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")
        claim = queue.claim(session, workers.register(session, ["cpu"]))
    assert claim is not None
    return Run(settings, database, Artifacts(settings.home), claim, threading.Event())


def step_of(run: Run) -> int:
    """Where the store has the job."""
    with run.database.read() as session:
        return queue.find_job(session, run.claim.job_id).step


def test_each_phase_has_its_own_time_to_make_a_step(running: Run) -> None:
    steps = []
    for phase in ("training", "exporting", "measuring"):
        running.enter(phase)
        steps.append(step_of(running))
    assert steps == sorted(set(steps))


class Slow(nn.Module):
    """Takes its time with each batch, and notes at which step the job stands by then."""

    def __init__(self, stands_at: Callable[[], int]) -> None:
        super().__init__()
        self.linear, self.steps, self._stands_at = nn.Linear(64, 10), list[int](), stands_at

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(REPORT_SECONDS)
        self.steps.append(self._stands_at())
        found: Tensor = self.linear(images.flatten(1))
        return found


def test_a_long_judging_makes_steps(running: Run) -> None:
    network = Slow(lambda: step_of(running))
    data = load(BUILTIN_DATASETS["digits"], image_size=8, seed=0, validation_fraction=0.1)
    judge(network, data, running.on_work)
    assert len(set(network.steps)) == len(network.steps) > 1


def test_a_folder_is_told_of_once_each_time_it_grows(tmp_path: Path) -> None:
    """Also after a sign of life could not be written, and not while nothing comes."""
    folder, signs = tmp_path / "comes later", list[int]()

    def told() -> None:
        signs.append(len(signs))
        if len(signs) == 1:
            raise OSError

    with growth_told(folder, told, seconds=0.02):
        (folder / "deep").mkdir(parents=True)
        with (folder / "deep" / "download").open("wb", buffering=0) as file:
            for written in range(1, 5):
                file.write(b"more")
                wait_for(lambda written=written: len(signs) >= written, seconds=30)
    assert signs == [0, 1, 2, 3]


def test_what_comes_at_once_is_growth(tmp_path: Path) -> None:
    """Also where a look at the folder takes long, as it does with thousands of files."""
    for number in range(3000):
        (tmp_path / f"{number}").touch()
    (tmp_path / "deep").mkdir()
    told = threading.Event()
    with growth_told(tmp_path, told.set, seconds=0.02):
        (tmp_path / "deep" / "download").write_bytes(b"some")
        assert told.wait(30)


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
