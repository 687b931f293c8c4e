"""Fixtures that several rooms' tests use."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient
from filelock import FileLock
from PIL import Image
from safetensors.numpy import load_file, save_file

from formats.digits import read_digits
from formats.manifest import GOLDEN_NAME, MANIFEST_NAME, read_manifest, write_manifest
from service.app import create_app
from specs.datasets import BUILTIN_DATASETS
from specs.settings import Settings
from specs.splits import split_contents
from store.database import Database
from store.migrate import migrate
from tests.postgresql import MISSING, Server
from workers.child import TITLE

LOOPBACK = "http://127.0.0.1:8000"
TINY_TRAINING: dict[str, Any] = {
    "kind": "train",
    "name": "tiny",
    "dataset": "digits",
    "architecture": {"name": "mlp", "hidden": [128]},
    "optimizer": {"name": "adam", "lr": 0.005},
    "epochs": 6,
    "image_size": 8,
}
TINY_PRUNING: dict[str, Any] = {
    "kind": "prune",
    "name": "tiny pruned",
    "model": "tiny",
    "sparsity": 0.9,
    "fine_tune": {"epochs": 10, "optimizer": {"name": "adam", "lr": 0.005}},
}


# What a process that tests and those that it starts may hold at a time.
MEMORY_OF_TESTS = 3 * 2**29
# Beside other tests, threads that wait for each other on tiny networks would do little else.
ONE_THREAD = {"PRUNEYARD_TRAINING_THREADS": "1", "PRUNEYARD_INFERENCE_THREADS": "1"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests wait for real workers come first: at the end no core should wait for one of them."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent not in {here, here / "chaos", here / "workers"})


# What libraries make as they are loaded stays: to look for garbage in it again and again costs seconds.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on there is garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not depend on the settings of whoever runs them."""
    for name in list(os.environ):
        if name.startswith("PRUNEYARD_"):
            monkeypatch.delenv(name)


@cache
def _empty_database() -> bytes:
    """A database at the newest version; made once, to migrate taking a tenth of a second, and copied since."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        database = Database.of(settings)
        migrate(database)
        database.close()
        return (settings.home / "pruneyard.db").read_bytes()


def new_home(path: Path) -> Settings:
    """A data folder with a database at the newest version."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "pruneyard.db").write_bytes(_empty_database())
    return Settings(home=path)


@pytest.fixture(scope="session", autouse=True)
def _exported_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Workers of all tests find the graphs that others of them exported: an export takes a second or more."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.getbasetemp()
    running_worker.graphs = folder / "graphs"
    running_worker.graphs.mkdir(mode=0o700, exist_ok=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty data folder."""
    return new_home(tmp_path / "home")


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The database of that folder."""
    database = Database.of(settings)
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server; tests are skipped where there is none, and the summary says so."""
    with Server() as server:
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A database that nothing was tested on is not passed over in silence."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(MISSING in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{MISSING}: {count} tests of it did not run (apt install postgresql)", red=True)


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    """A client of the API over an empty data folder."""
    with TestClient(create_app(settings), base_url=LOOPBACK) as client:
        yield client


def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are cores, as many tests wait for processes of their own; fewer where memory is scarce."""
    by_memory = psutil.virtual_memory().total // MEMORY_OF_TESTS
    return max(1, min((os.cpu_count() or 1) + 2, by_memory))


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which a real worker has trained the model `tiny` and pruned it to `tiny pruned`.

    One process makes it for all that test at the same time.
    """
    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.mktemp("trained")
    home = folder / "trained-home"
    with FileLock(folder / "trained-home.lock"):
        if not home.exists():
            # Under another name first: a failure leaves nothing that looks whole.
            _train_and_prune(new_home(tmp_path_factory.mktemp("unfinished") / "home")).home.rename(home)
    return home


def _train_and_prune(settings: Settings) -> Settings:
    with running_worker(settings), TestClient(create_app(settings), base_url=LOOPBACK) as client:
        for body in (TINY_TRAINING, TINY_PRUNING):
            job = ended(client, body)
            assert job["status"] == "succeeded", job
    return settings


def ended(client: TestClient, body: dict[str, Any], **query: Any) -> dict[str, Any]:
    """The job that this body asks for, once a worker has brought it to an end."""
    response = client.post("/v1/jobs", json=body, params=query)
    assert response.status_code == 202, response.text
    job_id = response.json()["id"]

    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        return job if job["status"] in {"succeeded", "failed", "cancelled"} else None

    found: dict[str, Any] = wait_for(look, seconds=180)
    return found


@pytest.fixture
def trained_settings(trained_home: Path, tmp_path: Path) -> Settings:
    """Settings of a copy of the trained folder, free to be changed."""
    return Settings(home=Path(shutil.copytree(trained_home, tmp_path / "home")))


def forget_calibration(settings: Settings, model_id: str) -> float:
    """Makes a model one of before there was calibration; its temperature until now."""
    path = settings.home / "models" / model_id / "model.json"
    written = json.loads(path.read_text())
    temperature: float = written.pop("calibration")["temperature"]
    path.write_text(json.dumps(written))
    return temperature


def spoil_golden(settings: Settings, model_id: str, *, by: float = 3.0) -> None:
    """Moves the answers that a model has to repeat, as if the runtime had moved; by the opposite, back again."""
    directory = settings.home / "models" / model_id
    manifest, golden = read_manifest(directory), load_file(directory / GOLDEN_NAME)
    save_file({**golden, "logits": golden["logits"] + np.float32(by)}, directory / GOLDEN_NAME)
    (directory / MANIFEST_NAME).unlink()
    write_manifest(directory, manifest)


@pytest.fixture
def trained_api(trained_settings: Settings) -> Iterator[TestClient]:
    """A client of the API over a copy of the trained folder."""
    with TestClient(create_app(trained_settings), base_url=LOOPBACK) as client:
        yield client


class running_worker:  # noqa: N801 - reads as a statement of what is the case
    """A worker process on a data folder, stopped at the end of the block."""

    graphs: Path

    def __init__(self, settings: Settings, **environment: str) -> None:
        if os.name != "nt" and not (settings.home / "graphs").exists():
            (settings.home / "graphs").symlink_to(self.graphs)
        self._environment = {**os.environ, **ONE_THREAD, **environment}
        self._environment |= {"PRUNEYARD_HOME": str(settings.home)}
        if settings.database_url is not None:
            self._environment["PRUNEYARD_DATABASE_URL"] = settings.database_url
        self._environment.pop("GLIBC_TUNABLES", None)  # it is the worker's to set

    def __enter__(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen([sys.executable, "-m", "workers"], env=self._environment)
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()


def jobs_of(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Processes of jobs that this worker started, by the name that they give themselves."""
    found = []
    for process in psutil.Process(worker.pid).children(recursive=True):
        with suppress(psutil.Error):
            if process.name() == TITLE:
                found.append(process)
    return found


def wait_for(look: Callable[[], Any], *, seconds: float = 30.0, pause: float | None = None) -> Any:
    """What `look` answers once it is true; fails after so many seconds.

    A look takes processor time from what is waited for: without a `pause` they are the rarer the longer it takes.
    """
    began = time.monotonic()
    while not (found := look()):
        waited = time.monotonic() - began
        assert waited < seconds, f"waited {seconds} s in vain"
        time.sleep(min(max(0.05, waited / 10), 0.4) if pause is None else pause)
    return found


def png(pixels: Any, *, kind: str = "PNG", **options: Any) -> bytes:
    """An image file of these pixels (an array or a Pillow image)."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def test_digits() -> list[tuple[bytes, str]]:
    """The held-out digits as PNG files with their labels."""
    pixels, labels = read_digits()
    contents = [image.tobytes() for image in pixels]
    splits = split_contents(contents, labels.tolist(), seed=0, validation_fraction=0.2)
    classes = BUILTIN_DATASETS["digits"].classes
    return [(png(pixels[number]), classes[labels[number]]) for number in splits.test]
