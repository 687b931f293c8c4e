"""Artifacts and checkpoints: whole or not at all, whatever fails."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from specs.settings import Settings
from store import queue, workers
from store.artifacts import STALE_SECONDS, Artifacts
from store.checkpoints import Checkpoints, expire_checkpoints, list_checkpoints
from store.database import Database
from store.errors import LostClaim, NotFound
from store.ids import ID_PATTERN, new_id
from store.orphans import remove_orphans

HOSTILE = [
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "mdl_../x",
    "mdl_a\0b",
    "mdl_" + "a" * 100,
    "MDL_A",
    "",
    "mdl_a\n",
    "job",
]


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    """The artifacts of an empty data folder."""
    return Artifacts(settings.home)


@pytest.fixture
def checkpoints(database: Database, artifacts: Artifacts) -> Checkpoints:
    """The checkpoints of a job that was just claimed."""
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
        queue.enqueue(session, kind="train", name="x", spec="{}")
        claim = queue.claim(session, worker)
    assert claim is not None
    return Checkpoints(database, artifacts, claim)


def write_value(value: str):  # type: ignore[no-untyped-def]
    """A writer of a checkpoint with this content."""
    return lambda directory: (directory / "state").write_text(value)


def test_ids_sort_by_time_and_fit_their_pattern() -> None:
    made = [new_id("mdl") for _ in range(100)]
    assert len(set(made)) == 100
    assert all(ID_PATTERN.fullmatch(identifier) for identifier in made)
    assert sorted(made, key=lambda identifier: identifier[:14]) == made


@pytest.mark.parametrize("identifier", HOSTILE)
def test_no_id_leads_out_of_the_data_folder(artifacts: Artifacts, identifier: str) -> None:
    for find in (artifacts.model, artifacts.checkpoints, artifacts.job_log):
        with pytest.raises(NotFound):
            find(identifier)
    with pytest.raises(NotFound):
        artifacts.checkpoint("job_1", identifier)
    with pytest.raises(NotFound):
        artifacts.graphs().get(identifier)


def test_a_directory_appears_whole_or_not_at_all(artifacts: Artifacts) -> None:
    target = artifacts.model("mdl_1")
    with pytest.raises(ZeroDivisionError), artifacts.new_directory(target) as directory:
        (directory / "half").write_text("written")
        raise ZeroDivisionError
    assert list(target.parent.iterdir()) == []
    with artifacts.new_directory(target) as directory:
        (directory / "whole").write_text("written")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["whole"]
    artifacts.remove(target)
    artifacts.remove(target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_others_cannot_read_the_data_folder(artifacts: Artifacts) -> None:
    with artifacts.new_directory(artifacts.model("mdl_1")):
        pass
    assert artifacts.model("mdl_1").stat().st_mode & 0o077 == 0
    assert artifacts.model("mdl_1").parent.stat().st_mode & 0o077 == 0


def test_only_old_leftovers_are_removed(artifacts: Artifacts) -> None:
    old, new = (artifacts.home / "models" / f".mdl_{name}.0.tmp" for name in ("old", "new"))
    for directory in (old, new):
        directory.mkdir(parents=True)
    os.utime(old, (0, 0))
    assert artifacts.remove_leftovers() == 1
    assert new.exists()
    assert not old.exists()


def test_scratch_that_a_dead_process_left_is_found(artifacts: Artifacts) -> None:
    mine, other = artifacts.new_scratch(), Artifacts(artifacts.home, owner="job_1-1").new_scratch()
    assert mine.stat().st_mode & 0o077 == 0
    artifacts.remove_leftovers_of("job_1-1")
    assert mine.exists()
    assert not other.exists()
    os.utime(mine, (0, 0))
    assert artifacts.remove_leftovers() == 1
    assert not mine.exists()


def test_graphs_are_kept_by_key(artifacts: Artifacts) -> None:
    key = "0" * 64
    assert artifacts.graphs().get(key) is None
    artifacts.graphs().put(key, b"graph")
    artifacts.graphs().put(key, b"graph 2")
    assert artifacts.graphs().get(key) == b"graph 2"
    assert len(list((artifacts.home / "graphs").iterdir())) == 1


def test_the_two_newest_checkpoints_and_the_best_are_kept(
    checkpoints: Checkpoints, artifacts: Artifacts, database: Database
) -> None:
    for epoch in range(1, 7):
        checkpoints.save(write_value(str(epoch)), epoch=epoch, step=0, best=epoch in {1, 2})
    checkpoints.save(write_value("6.5"), epoch=6, step=7, best=False)
    newest, best = checkpoints.newest(), checkpoints.best()
    assert newest is not None
    assert best is not None
    assert ((newest / "state").read_text(), (best / "state").read_text()) == ("6.5", "2")
    with database.read() as session:
        (job,) = queue.list_jobs(session)
        rows = [row.directory for row in list_checkpoints(session, job.id)]
    assert sorted(path.name for path in artifacts.checkpoints(job.id).iterdir()) == sorted(rows)
    assert len(rows) == 3


def test_checkpoints_within_an_epoch_push_out_none_that_is_needed(checkpoints: Checkpoints, database: Database) -> None:
    checkpoints.kept = frozenset({2})
    for epoch in range(1, 5):
        checkpoints.save(write_value(str(epoch)), epoch=epoch, step=0, best=epoch == 1)
    for step in range(10, 60, 10):
        checkpoints.save(write_value(f"4 and {step}"), epoch=4, step=step, best=False)
    with database.read() as session:
        (job,) = queue.list_jobs(session)
        found = {(row.epoch, row.step) for row in list_checkpoints(session, job.id)}
    assert found == {(1, 0), (2, 0), (4, 0), (4, 40), (4, 50)}, "best, kept, whole, newest two"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(checkpoints: Checkpoints, damage: str) -> None:
    checkpoints.save(write_value("good"), epoch=1, step=0, best=False)
    checkpoints.save(write_value("newer"), epoch=2, step=0, best=False)
    newest = checkpoints.newest()
    assert newest is not None
    _spoil(newest, damage)
    before = checkpoints.newest()
    assert before is not None
    assert (before / "state").read_text() == "good"
    _spoil(before, damage)
    assert checkpoints.newest() is None


def _spoil(directory: Path, damage: str) -> None:
    state = directory / "state"
    if damage == "flip":
        state.write_text(state.read_text()[::-1])
    elif damage == "remove":
        state.unlink()
    elif damage == "no manifest":
        (directory / "manifest.json").unlink()
    else:
        state.write_text("" if damage == "empty" else state.read_text()[:-1])


def test_a_checkpoint_that_fails_to_be_written_leaves_the_one_before(checkpoints: Checkpoints) -> None:
    checkpoints.save(write_value("good"), epoch=1, step=0, best=True)

    def fail(directory: Path) -> None:
        (directory / "state").write_text("half")
        raise OSError

    with pytest.raises(OSError):
        checkpoints.save(fail, epoch=2, step=0, best=True)
    newest = checkpoints.newest()
    assert newest is not None
    assert (newest / "state").read_text() == "good"
    assert len(list(newest.parent.iterdir())) == 1


def test_a_lost_worker_cannot_point_at_its_checkpoint(
    checkpoints: Checkpoints, database: Database, artifacts: Artifacts
) -> None:
    checkpoints.save(write_value("good"), epoch=1, step=0, best=True)
    with database.write() as session:
        (job,) = queue.list_jobs(session)
        queue.crashed(session, queue.Claim(job.id, 1), message="killed")
        worker = workers.register(session, ["cpu"])
        claim = queue.claim(session, worker)
    assert claim is not None
    with pytest.raises(LostClaim):
        checkpoints.save(write_value("late"), epoch=2, step=0, best=True)
    newest = Checkpoints(database, artifacts, claim).newest()
    assert newest is not None
    assert (newest / "state").read_text() == "good"


def test_checkpoints_of_ended_jobs_expire(checkpoints: Checkpoints, artifacts: Artifacts, database: Database) -> None:
    checkpoints.save(write_value("good"), epoch=1, step=0, best=True)
    assert expire_checkpoints(database, artifacts, older_than=timedelta(0)) == [], "the job runs"
    with database.write() as session:
        (job,) = queue.list_jobs(session)
        queue.fail(session, queue.Claim(job.id, 1), reason="error", message="x")
    assert expire_checkpoints(database, artifacts, older_than=timedelta(days=1)) == []
    assert artifacts.checkpoints(job.id).exists()
    assert expire_checkpoints(database, artifacts, older_than=timedelta(0)) == [job.id]
    assert not artifacts.checkpoints(job.id).exists()


def test_only_leftovers_of_the_dead_are_removed(artifacts: Artifacts) -> None:
    for owner in ("job_1-1", "job_1-2"):
        path = artifacts.home / "models" / f".mdl_1.{owner}.00.tmp"
        path.mkdir(parents=True)
    artifacts.remove_leftovers_of("job_1-1")
    assert [path.name for path in (artifacts.home / "models").iterdir()] == [".mdl_1.job_1-2.00.tmp"]
    artifacts.remove_leftovers_of("job_2-*")
    assert len(list((artifacts.home / "models").iterdir())) == 1
    artifacts.remove_leftovers_of("job_1-*")
    assert list((artifacts.home / "models").iterdir()) == []


def test_what_was_half_written_goes_once_it_is_old_files_and_folders(artifacts: Artifacts) -> None:
    aged = time.time() - STALE_SECONDS - 1
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(os, "fsync", {}.popitem)
        with pytest.raises(TypeError):
            artifacts.graphs().put("0" * 64, b"whole")
    assert len(list(artifacts.home.glob("graphs/*"))) == 1
    artifacts.graphs().put("1" * 64, b"whole")
    (artifacts.home / "models" / ".mdl_1.job_1-1.00.tmp").mkdir(parents=True)
    (artifacts.kernels() / f".{'a' * 64}.0f.tmp").write_bytes(b"of a killed process")
    (artifacts.home / "downloads").mkdir()
    (artifacts.home / "downloads" / "a.tmp").write_bytes(b"a user's")
    assert artifacts.remove_leftovers() == 0
    for path in artifacts.home.glob("*/*"):
        os.utime(path, (aged, aged))
    assert artifacts.remove_leftovers(but_of=["job_1-1"]) == 2
    assert artifacts.remove_leftovers() == 1
    assert {path.name for path in artifacts.home.glob("*/*")} == {"a.tmp", f"{'1' * 64}.onnx.zst"}


def test_folders_that_vanish_while_leftovers_are_looked_for_are_no_error(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker removes what it finds too: between one look at a folder and the next."""
    left = artifacts.home / "models" / ".mdl_1.job_1-1.00.tmp"
    (artifacts.home / "models" / "mdl_2").mkdir(parents=True)
    left.mkdir()
    scandir = os.scandir

    def scandir_late(path: str | int) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("mdl_2"):
            Path(str(path)).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_late)
    artifacts.remove_leftovers_of("job_1-*")
    assert not left.exists()
    assert artifacts.remove_leftovers() == 0


def test_checkpoints_that_a_job_forgot_and_had_no_time_to_remove_are_orphans(
    checkpoints: Checkpoints, artifacts: Artifacts, database: Database
) -> None:
    checkpoints.kept = frozenset({1})
    for epoch in (1, 2):
        checkpoints.save(write_value("good"), epoch=epoch, step=0, best=True)
    with database.write() as session:
        (job,) = queue.list_jobs(session)
    claim = queue.Claim(job.id, 1)
    assert remove_orphans(database, artifacts, older_than=timedelta(0)) == []
    with database.write() as session:
        checkpoints.finish(session)
        queue.succeed(session, claim, {})
    assert remove_orphans(database, artifacts, older_than=timedelta(hours=1)) == []
    assert remove_orphans(database, artifacts, older_than=timedelta(0)) == [job.id]
    assert [path.name for path in artifacts.checkpoints(job.id).iterdir()] == ["1-0-1"]
    assert remove_orphans(database, artifacts, older_than=timedelta(0)) == []


def test_a_model_that_a_running_job_has_placed_is_no_orphan_yet(
    checkpoints: Checkpoints, artifacts: Artifacts, database: Database
) -> None:
    with database.write() as session:
        (job,) = queue.list_jobs(session)
    artifacts.model("mdl_1").mkdir(parents=True)
    (artifacts.model("mdl_1") / "model.json").write_text(json.dumps({"lineage": {"job": job.id}}))
    assert remove_orphans(database, artifacts, older_than=timedelta(0)) == []
    with database.write() as session:
        queue.fail(session, queue.Claim(job.id, 1), reason="error", message="x")
    assert remove_orphans(database, artifacts, older_than=timedelta(0)) == ["mdl_1"]
