"""Data sets in the database, and content on its way in."""

from __future__ import annotations

import json
import os
import shutil
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from specs.jobs import parse_job
from specs.settings import Settings
from store import datasets, models, queue, workers
from store.artifacts import Artifacts
from store.database import Database
from store.errors import Conflict, NotFound, StorageFull
from store.queue import Claim
from store.tables import Dataset, Model
from store.uploads import RESERVE_BYTES, UploadBusy, WrongOffset, open_upload, received_bytes

SPEC: dict[str, Any] = {"name": "cats", "source": {"kind": "upload"}, "max_rejected": 0.01}


def create(database: Database, name: str = "cats") -> str:
    with database.write() as session:
        return datasets.create(session, name=name, spec=SPEC).id


def begin(database: Database, dataset_id: str) -> Claim:
    with database.write() as session:
        datasets.begin_reading(session, dataset_id)
        claim = queue.claim(session, workers.register(session, ["cpu"]), kinds=["ingest"])
    assert claim is not None
    return claim


def publish(database: Database, dataset_id: str) -> None:
    claim = begin(database, dataset_id)
    with database.write() as session:
        datasets.publish(session, claim, dataset_id, {"images": 9}, [])
        queue.succeed(session, claim, {})


def row(database: Database, reference: str) -> Dataset:
    with database.read() as session:
        return datasets.find(session, reference)


def test_a_name_stands_for_its_newest_ready_version(database: Database) -> None:
    first, second = create(database), create(database)
    assert row(database, "cats").id == second
    publish(database, first)
    assert row(database, "cats").id == first
    publish(database, second)
    assert (row(database, "cats").id, row(database, "cats").version) == (second, 2)
    assert row(database, first).version == 1
    with pytest.raises(NotFound):
        row(database, "dogs")


def test_content_is_taken_once(database: Database) -> None:
    dataset_id = create(database)
    claim = begin(database, dataset_id)
    with database.read() as session:
        spec = parse_job(queue.find_job(session, claim.job_id).spec)
    assert (spec.kind, spec.dataset) == ("ingest", dataset_id)
    with pytest.raises(Conflict), database.write() as session:
        datasets.begin_reading(session, dataset_id)


@pytest.mark.parametrize("end", ["failed", "cancelled", "crashed"])
def test_a_data_set_whose_reading_ends_without_success_has_failed(database: Database, end: str) -> None:
    dataset_id = create(database)
    claim = begin(database, dataset_id)
    with database.write() as session:
        datasets.note_rejected(session, claim, dataset_id, [{"path": "a", "reason": "empty", "message": "Empty."}])
        if end == "failed":
            queue.fail(session, claim, reason="no_images", message="There is no image in it.")
        elif end == "cancelled":
            queue.cancelled(session, claim)
        else:
            queue.held(session, claim).crashes = queue.MAX_CRASHES - 1
            queue.crashed(session, claim, message="Killed.")
    found = row(database, dataset_id)
    assert found.status == "failed"
    assert found.reason == {"failed": "no_images"}.get(end, end)
    assert found.message
    assert found.rejected[0]["path"] == "a"


def test_a_reading_that_is_taken_up_again_has_not_failed(database: Database) -> None:
    dataset_id = create(database)
    claim = begin(database, dataset_id)
    with database.write() as session:
        queue.crashed(session, claim, message="Killed.")
    assert row(database, dataset_id).status == "processing"


def enter_model(database: Database, dataset_id: str) -> str:
    with database.write() as session:
        job = queue.enqueue(session, kind="train", name="a", spec='{"kind":"train"}')
        session.add(
            Model(
                id="mdl_1",
                name="m",
                kind="trained",
                status="ready",
                job_id=job.id,
                dataset=dataset_id,
                family="fam_1",
                weights_sha256="0" * 64,
                bytes=1,
                facts={},
            )
        )
        queue.cancel(session, job.id)
        session.flush()
        return models.find_model(session, "mdl_1").id


def delete(database: Database, dataset_id: str, *, force: bool = False) -> None:
    with database.write() as session:
        datasets.delete(session, dataset_id, force=force)


@pytest.mark.parametrize("kind", ["ingest", "train", "prune", "distill", "quote"])
def test_a_data_set_that_an_unfinished_job_needs_is_not_deleted(database: Database, kind: str) -> None:
    dataset_id = create(database)
    if kind == "ingest":
        begin(database, dataset_id)
    else:
        with database.write() as session:
            wanted = {"train": {"dataset": dataset_id}, "prune": {"model": "mdl_1"}, "distill": {"teacher": "mdl_1"}}
            spec = {"kind": "quote", "job": wanted["distill"]} if kind == "quote" else wanted[kind]
            queue.enqueue(session, kind=kind, name="a", spec=json.dumps(spec))
        if kind != "train":
            enter_model(database, dataset_id)
    for force in (False, True):
        with pytest.raises(Conflict, match="job_"):
            delete(database, dataset_id, force=force)
    assert row(database, dataset_id)


def test_a_data_set_that_a_model_came_from_is_deleted_only_by_force(database: Database) -> None:
    dataset_id = create(database)
    enter_model(database, dataset_id)
    with pytest.raises(Conflict, match="mdl_1"):
        delete(database, dataset_id)
    delete(database, dataset_id, force=True)
    with pytest.raises(NotFound):
        row(database, dataset_id)


def test_what_arrived_is_the_size_of_the_file(settings: Settings) -> None:
    artifacts = Artifacts(settings.home)
    assert received_bytes(artifacts, "ds_1") == 0
    with open_upload(artifacts, "ds_1", offset=0) as upload:
        upload.write(b"abc")
    assert received_bytes(artifacts, "ds_1") == 3
    with open_upload(artifacts, "ds_1", offset=3) as upload:
        upload.write(b"def")
        upload.synchronise()
    for offset in (0, 5, 7):
        with pytest.raises(WrongOffset) as wrong, open_upload(artifacts, "ds_1", offset=offset):
            pass
        assert wrong.value.received == 6
    assert artifacts.upload("ds_1").read_bytes() == b"abcdef"
    with open_upload(artifacts, "ds_1", offset=None) as upload:
        upload.write(b"x")
    assert artifacts.upload("ds_1").read_bytes() == b"x"


def test_content_is_added_to_by_one_at_a_time(settings: Settings) -> None:
    artifacts = Artifacts(settings.home)
    refused: list[Exception] = []

    def intrude() -> None:
        try:
            with open_upload(artifacts, "ds_1", offset=0):
                pass
        except UploadBusy as error:
            refused.append(error)

    with open_upload(artifacts, "ds_1", offset=0) as upload:
        upload.write(b"abc")
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert len(refused) == 1
    with open_upload(artifacts, "ds_1", offset=3):
        pass


def test_the_reserve_on_the_disk_is_held_while_content_comes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = Artifacts(settings.home)
    total, used, _ = shutil.disk_usage(settings.home)
    with open_upload(artifacts, "ds_1", offset=0) as upload:
        upload.write(b"abc")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, used, RESERVE_BYTES + 2))
        with pytest.raises(StorageFull):
            upload.write(b"def")
        upload.write(b"de")
    assert artifacts.upload("ds_1").read_bytes() == b"abcde"


class Usage(NamedTuple):
    """What `shutil.disk_usage` answers."""

    total: int
    used: int
    free: int


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_an_upload_is_named_by_an_id_only(settings: Settings) -> None:
    artifacts = Artifacts(settings.home)
    for name in ("../x", "ds_../x", "", "ds_a/b", "/etc/passwd"):
        with pytest.raises(NotFound):
            artifacts.upload(name)
        with pytest.raises(NotFound):
            artifacts.dataset(name)


def age(path: Path, days: float) -> None:
    moment = path.stat().st_mtime - days * 86400
    os.utime(path, (moment, moment))


def test_content_that_nothing_will_read_is_removed(database: Database, settings: Settings) -> None:
    artifacts = Artifacts(settings.home)
    ids = {state: create(database, state) for state in ("waiting", "stale", "growing", "processing", "ready")}
    ids["deleted"] = "ds_deleted"
    for dataset_id in ids.values():
        artifacts.upload(dataset_id).write_bytes(b"x")
    begin(database, ids["processing"])
    publish(database, ids["ready"])
    with database.write() as session:
        for state in ("stale", "growing"):
            found = datasets.get(session, ids[state])
            found.created_at -= timedelta(days=8)
    age(artifacts.upload(ids["stale"]), 8)
    removed = datasets.remove_unneeded_uploads(database, artifacts, older_than=timedelta(days=7))
    assert set(removed) == {ids["stale"], ids["ready"], ids["deleted"]}
    assert {path.name for path in artifacts.uploads()} == {ids["waiting"], ids["growing"], ids["processing"]}
    with pytest.raises(NotFound):
        row(database, ids["stale"])
