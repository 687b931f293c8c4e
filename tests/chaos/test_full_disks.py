"""A disk that is really full: a small one in memory, where this user may mount one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save_file

from service.app import create_app
from specs.settings import Settings
from store import queue, waits, workers
from store.artifacts import Artifacts
from store.database import Database
from store.errors import StorageFull
from store.room import RESERVE_BYTES, free_bytes
from tests.chaos.yard import running_consumer
from tests.conftest import LOOPBACK, TINY_TRAINING, new_home, png, running_worker, wait_for
from workers.run import Run

WHOLE = os.environ.get("CHAOS_STRIDE") == "1"
IMAGES = 40
MEBIBYTE = 1024 * 1024
PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 96 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(place)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("NOT SHOWN HERE: a disk that is really full. This user may not mount one.")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def settings(disk: Path) -> Settings:
    """Settings of an empty data folder on that disk."""
    return new_home(disk / "home")


def fill(disk: Path, *, but: int = 0) -> Path:
    """A file that takes all room on a disk but so many bytes."""
    filler = disk / "filler"
    with filler.open("ab") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(1, file.tell() + free_bytes(disk) - but))
    assert free_bytes(disk) <= but
    return filler


def tensors(directory: Path) -> None:
    """What a training writes, by the library that does it."""
    save_file({"a": np.ones(3 * PAGE, np.float32)}, directory / "network.safetensors")
    (directory / "state.json").write_text("{}")


def claimed(settings: Settings, database: Database, worker: str) -> Run | None:
    with database.write() as session:
        claim = workers.claim(session, worker, kinds=["train", "ingest"], home=settings.home)
    if claim is None:
        return None
    return Run(settings, database, Artifacts(settings.home, owner=claim.name), claim, threading.Event())


def test_wherever_a_disk_fills_up_the_checkpoint_before_is_whole(
    settings: Settings, disk: Path, database: Database
) -> None:
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
        queue.enqueue(session, kind="train", name="x", spec="{}")
    run = claimed(settings, database, worker)
    assert run is not None
    kept: set[str] = set()
    sizes = range(0, 40 * PAGE, PAGE if WHOLE else 7 * PAGE)
    for number, size in enumerate(sizes):
        filler = fill(disk, but=size)
        try:
            with run.artifacts.new_directory(run.artifacts.checkpoint(run.claim.job_id, f"{number}-0-1")) as directory:
                tensors(directory)
            kept.add(f"{number}-0-1")
        except StorageFull as full:
            assert full.needed is not None
            assert full.needed <= size + PAGE
        filler.unlink()
        assert {path.name for path in run.artifacts.checkpoints(run.claim.job_id).glob("*")} == kept
    assert 0 < len(kept) < len(sizes), "some found room, some did not"


def test_a_full_disk_is_answered_507_and_what_was_there_can_be_read(settings: Settings, disk: Path) -> None:
    archive = b"PK\5\6" + bytes(2 * MEBIBYTE)
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        dataset = api.post("/v1/datasets", json={"name": "x"}).json()["id"]
        known = api.post("/v1/jobs", json=TINY_TRAINING).json()["id"]
        filler = fill(disk)
        refused = [api.put(f"/v1/datasets/{dataset}/content", content=archive)]
        # What is in the database's log already may be written over: so many are taken, and they are kept.
        for _ in range(400):
            answer = api.post("/v1/jobs", json=TINY_TRAINING)
            if answer.status_code != 202:
                break
        refused.append(answer)
        for answer in refused:
            assert answer.status_code == 507, answer.text
            assert "ree some of the disk" in answer.json()["detail"]
        for path in (f"/v1/jobs/{known}", "/v1/jobs", "/v1/models", f"/v1/datasets/{dataset}", "/healthz"):
            assert api.get(path).status_code == 200
        assert api.get("/readyz").status_code == 503
        filler.unlink()
        assert api.post("/v1/jobs", json=TINY_TRAINING).status_code == 202
        assert api.put(f"/v1/datasets/{dataset}/content", content=archive).status_code == 202
        assert api.get("/readyz").status_code == 200


def test_a_job_waits_for_the_room_that_its_checkpoint_takes_and_no_longer(
    settings: Settings, disk: Path, database: Database
) -> None:
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
        first = queue.enqueue(session, kind="train", name="first", spec="{}").id
        other = queue.enqueue(session, kind="train", name="other", spec="{}").id
    run = claimed(settings, database, worker)
    assert run is not None
    run.save_checkpoint(tensors, epoch=1, step=0, best=True)
    filler = fill(disk, but=RESERVE_BYTES + 5 * PAGE)
    with pytest.raises(StorageFull) as full:
        run.save_checkpoint(tensors, epoch=2, step=0, best=True)
    needed = full.value.needed
    assert needed is not None
    assert needed > 3 * PAGE
    with database.write() as session:
        waits.set_aside(session, run.claim, settings.home, needed=needed)
    with database.read() as session:
        job = queue.find_job(session, first)
    assert (job.status, job.reason, job.crashes) == ("queued", "insufficient_storage", 0)
    assert f"{needed + RESERVE_BYTES:,} bytes" in (job.message or "")
    # Others need not wait.
    beside = claimed(settings, database, worker)
    assert beside is not None
    assert beside.claim.job_id == other
    with database.write() as session:
        queue.succeed(session, beside.claim, {})
    assert claimed(settings, database, worker) is None
    filler.unlink()
    again = claimed(settings, database, worker)
    assert again is not None
    assert (again.claim.job_id, again.claim.attempt) == (first, 2)
    newest = again.newest_checkpoint()
    assert newest is not None
    assert newest.name == "1-0-1"
    with database.read() as session:
        assert queue.find_job(session, first).reason is None


def test_a_job_that_found_no_room_goes_on_when_there_is_some(
    settings: Settings, disk: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        dataset = api.post("/v1/datasets", json={"name": "noise"}).json()["id"]
        job = api.put(f"/v1/datasets/{dataset}/content", content=noise()).json()["job"]
        filler = fill(disk, but=MEBIBYTE)
        with running_consumer(settings, monkeypatch):
            wait_for(lambda: api.get(f"/v1/jobs/{job}").json()["reason"], seconds=120)
            view = api.get(f"/v1/jobs/{job}").json()
            assert (view["status"], view["reason"], view["attempt"]) == ("queued", "insufficient_storage", 1), view
            assert "goes on by itself" in view["message"]
            assert api.get(f"/v1/datasets/{dataset}").json()["status"] == "processing"
            assert not list(settings.home.glob("datasets/*"))
            filler.unlink()
            wait_for(lambda: api.get(f"/v1/jobs/{job}").json()["finished_at"], seconds=120)
        view = api.get(f"/v1/jobs/{job}").json()
        assert (view["status"], view["reason"], view["attempt"]) == ("succeeded", None, 2), view
        assert api.get(f"/v1/datasets/{dataset}").json()["images"] == IMAGES


def noise() -> bytes:
    """A zip of pictures of 2 MB, which nothing makes smaller."""
    file, chance = io.BytesIO(), np.random.default_rng(0)
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(IMAGES):
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", png(chance.integers(0, 256, (128, 128, 3))))
    return file.getvalue()


@pytest.mark.skipif(not WHOLE, reason="the whole of it takes two trainings: make chaos")
def test_a_training_on_a_disk_that_fills_up_ends_with_the_same_weights(settings: Settings, disk: Path) -> None:
    (settings.home / "graphs").mkdir()  # on this disk too
    with TestClient(create_app(settings), base_url=LOOPBACK) as api, running_worker(settings):
        job = api.post("/v1/jobs", json={**TINY_TRAINING, "epochs": 60}).json()["id"]
        for _ in range(3):
            done = len(api.get(f"/v1/jobs/{job}/metrics").json()["items"])
            wait_for(lambda done=done: len(api.get(f"/v1/jobs/{job}/metrics").json()["items"]) > done, seconds=240)
            filler = fill(disk, but=RESERVE_BYTES // 2)
            wait_for(lambda: api.get(f"/v1/jobs/{job}").json()["reason"] == "insufficient_storage", seconds=120)
            filler.unlink()
        wait_for(lambda: api.get(f"/v1/jobs/{job}").json()["finished_at"], seconds=240)
        view = api.get(f"/v1/jobs/{job}").json()
        assert (view["status"], view["attempt"]) == ("succeeded", 4), view
        clone = api.post(f"/v1/jobs/{job}/clone", json={}).json()["id"]
        wait_for(lambda: api.get(f"/v1/jobs/{clone}").json()["finished_at"], seconds=240)
        weights = {model["weights_sha256"] for model in api.get("/v1/models").json()["items"]}
    assert len(weights) == 1
