"""Every operation on the disk fails once, and for ever: whatever was under way, what is left is valid and goes on.

The suite takes some of the points; `make chaos` takes all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from specs.settings import Settings
from store import datasets, models, queue, workers
from store.artifacts import Artifacts
from store.backup import back_up, restore
from store.checkpoints import list_checkpoints
from store.database import Database
from store.errors import LostClaim, StoreError
from store.events import list_events
from store.ids import new_id
from store.orphans import remove_orphans
from store.publishing import publishing
from store.uploads import open_upload, received_bytes
from tests.chaos.faults import KINDS, Faults
from tests.conftest import new_home
from workers.run import Run

# Of all points one in so many, and another one in each kind of fault.
STRIDE = int(os.environ.get("CHAOS_STRIDE", "16"))
TERMINAL = {"succeeded", "failed", "cancelled"}
TENSORS = bytes(range(256)) * 12


def write(directory: Path) -> None:
    """Two files of a few kB, as a network and its optimizer are."""
    for name in ("network", "optimizer"):
        (directory / name).write_bytes(TENSORS)


class Place:
    """A data folder with a worker that has claimed a training, which has one checkpoint."""

    def __init__(self, home: Path) -> None:
        self.settings = new_home(home)
        self.database = Database.of(self.settings)
        self.artifacts = Artifacts(home)
        with self.database.write() as session:
            self.worker = workers.register(session, ["cpu"])
            self.job = queue.enqueue(session, kind="train", name="x", spec="{}").id
        self.run = self.claimed()
        self.run.save_checkpoint(write, epoch=1, step=0, best=True)

    def claimed(self) -> Run:
        with self.database.write() as session:
            assert workers.beat(session, self.worker)
            claim = workers.claim(session, self.worker, kinds=["train"], home=self.settings.home)
        assert claim is not None
        artifacts = Artifacts(self.settings.home, owner=claim.name)
        return Run(self.settings, self.database, artifacts, claim, threading.Event())

    def tried_again(self) -> None:
        """What a worker does once the process of its job has died of the fault."""
        with contextlib.suppress(LostClaim), self.database.write() as session:
            queue.crashed(session, self.run.claim, message="x")
        self.artifacts.remove_leftovers_of(f"{self.job}-*")
        if self.status == "queued":
            self.run = self.claimed()

    @property
    def status(self) -> str:
        with self.database.read() as session:
            return queue.find_job(session, self.job).status

    def check(self) -> None:
        """What holds at any time: no half model is visible, the last checkpoint is whole, a job ends once."""
        with self.database.read() as session:
            shown = models.list_models(session)
            rows = [row.directory for row in list_checkpoints(session, self.job)]
            ends = [event.data["status"] for event in list_events(session, self.job)]
        assert [model.job_id for model in shown] == [self.job] * (self.status == "succeeded")
        for model in shown:
            written = {path.name: path.read_bytes() for path in self.artifacts.model(model.id).iterdir()}
            assert (len(written), written["network"], written["optimizer"]) == (3, TENSORS, TENSORS)
        newest = self.run.newest_checkpoint()
        assert (newest is None) == (self.status == "succeeded" or not rows)
        assert newest is None or newest.name == rows[0]
        assert len(TERMINAL.intersection(ends)) == sum(end in TERMINAL for end in ends) == (self.status in TERMINAL)

    def check_nothing_is_left(self) -> None:
        """At the end: no file but those that rows tell of."""
        remove_orphans(self.database, self.artifacts, older_than=timedelta(0))
        with self.database.read() as session:
            shown = {model.id for model in models.list_models(session)}
            rows = {row.directory for row in list_checkpoints(session, self.job)}
        assert {path.name for path in self.artifacts.models()} == shown
        assert {path.name for path in self.settings.home.glob(f"checkpoints/{self.job}/*")} == rows
        assert not list(self.settings.home.glob("**/*.tmp"))

    def close(self) -> None:
        self.database.close()
        with contextlib.closing(sqlite3.connect(self.settings.home / "pruneyard.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def save(place: Place) -> None:
    place.run.save_checkpoint(write, epoch=2, step=0, best=False)


def publish(place: Place) -> None:
    model_id = new_id("mdl")
    with place.run.artifacts.new_directory(place.run.artifacts.model(model_id)) as directory:
        write(directory)
        (directory / "model.json").write_text(json.dumps({"lineage": {"job": place.job}}))
    facts = models.Publication(model_id, "x", "trained", "ds_digits", None, "0" * 64, 1, {}, None)
    run = place.run
    with publishing(run.database, run.artifacts, run.artifacts.model(model_id), run.claim) as session:
        models.publish(session, run.claim, facts)
        removable = run.checkpoints.finish(session)
        queue.succeed(session, run.claim, {"model": model_id})
    for path in removable:
        run.artifacts.remove(path)


def fail(place: Place) -> None:
    with place.database.write() as session:
        queue.fail(session, place.run.claim, reason="non_finite_loss", message="x")


def claim(place: Place) -> None:
    """Given back, and claimed anew."""
    if place.status == "running":
        with contextlib.suppress(LostClaim), place.database.write() as session:
            queue.release(session, place.run.claim, message="x")
    place.run = place.claimed()


@dataclass(frozen=True)
class Action:
    """Something that writes, and the state of the job once it is done."""

    act: Callable[[Place], None]
    status: str


ACTIONS = {
    "checkpoint": Action(save, "running"),
    "publish": Action(publish, "succeeded"),
    "fail": Action(fail, "failed"),
    "claim": Action(claim, "running"),
}


def points(total: int, kind: str, *, forever: bool) -> range:
    return range(1 + (2 * KINDS.index(kind) + forever) % min(STRIDE, max(total, 1)), total + 1, STRIDE)


@pytest.mark.parametrize("forever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ACTIONS)
def test_whatever_fails_the_state_is_valid_and_the_job_goes_on(
    tmp_path: Path, name: str, kind: str, forever: bool
) -> None:
    action = ACTIONS[name]
    total = dry_run(tmp_path / "dry", action, kind)
    failed: Counter[str] = Counter()
    for at in points(total, kind, forever=forever):
        home = tmp_path / str(at)
        with Faults(home, kind) as faults:
            place = Place(home)
            faults.count, faults.at, faults.forever = 0, at, forever
            with contextlib.suppress(StoreError):
                action.act(place)
            assert faults.failed, "the fault has come"
            failed += faults.failed
            faults.at, faults.forever = 0, False
            place.check()
            if place.status not in TERMINAL:
                place.tried_again()
                action.act(place)
            assert place.status == action.status
            place.check()
            place.check_nothing_is_left()
            place.close()
        shutil.rmtree(home)
    tell(f"{name}, {kind}, {'for ever' if forever else 'once'}", total, failed)


def dry_run(home: Path, action: Action, kind: str) -> int:
    with Faults(home, kind) as faults:
        place = Place(home)
        faults.count = 0
        action.act(place)
        assert place.status == action.status
        place.close()
        return faults.count


@pytest.mark.parametrize("forever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_copy_is_whole_or_not_there(tmp_path: Path, kind: str, forever: bool) -> None:
    place = Place(tmp_path / "home")
    publish(place)
    with Faults(tmp_path, kind) as faults:
        back_up(place.settings, place.database, tmp_path / "dry")
    failed: Counter[str] = Counter()
    for at in points(faults.count, kind, forever=forever):
        target, there = tmp_path / f"copy {at}", Settings(home=tmp_path / f"there {at}")
        with Faults(tmp_path, kind, at=at, forever=forever) as struck, contextlib.suppress(StoreError):
            back_up(place.settings, place.database, target)
        failed += struck.failed
        if not target.exists():
            back_up(place.settings, place.database, target)
        restore(there, target)
        assert {path.name for path in there.home.glob("models/*")} == {path.name for path in place.artifacts.models()}
        assert not [*tmp_path.glob("*.tmp"), *place.settings.home.glob("**/*.tmp")]
    place.check()
    place.close()
    tell(f"backup, {kind}, {'for ever' if forever else 'once'}", faults.count, failed)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_an_upload_goes_on_where_it_was(tmp_path: Path, kind: str) -> None:
    place = Place(tmp_path / "home")
    with place.database.write() as session:
        dataset_id = datasets.create(session, name="x", spec={}).id
    failed: Counter[str] = Counter()
    for at in range(1, 8):
        place.artifacts.upload(dataset_id).unlink(missing_ok=True)
        with Faults(tmp_path, kind, at=at) as faults:
            with contextlib.suppress(StoreError):
                send(place, dataset_id)
            failed += faults.failed
            faults.at = 0
            assert received_bytes(place.artifacts, dataset_id) <= len(TENSORS)
            send(place, dataset_id)
        assert place.artifacts.upload(dataset_id).read_bytes() == TENSORS
    assert failed.keys() == {"open", "write", "fsync"}
    place.close()


def send(place: Place, dataset_id: str) -> None:
    """The rest of the content, in pieces."""
    first = received_bytes(place.artifacts, dataset_id)
    with open_upload(place.artifacts, dataset_id, offset=first) as upload:
        for at in range(first, len(TENSORS), 1000):
            upload.write(TENSORS[at : at + 1000])
        upload.synchronise()


def test_what_another_database_may_know_of_stays(tmp_path: Path) -> None:
    place = Place(tmp_path / "home")
    publish(place)
    (tmp_path / "home" / "checkpoints" / place.job / "7-0-1").mkdir(parents=True)
    other = Database.of(new_home(tmp_path / "other"))
    assert remove_orphans(other, place.artifacts, older_than=timedelta(0)) == []
    assert remove_orphans(place.database, place.artifacts, older_than=timedelta(hours=1)) == []
    assert remove_orphans(place.database, place.artifacts, older_than=timedelta(0)) == [place.job]
    place.check()
    place.check_nothing_is_left()
    other.close()
    place.close()


def tell(what: str, total: int, failed: Counter[str]) -> None:
    """Prints what a full run is for."""
    if STRIDE == 1:
        sys.stdout.write(json.dumps({"faults": what, "points": total, "failed": dict(failed)}) + "\n")
