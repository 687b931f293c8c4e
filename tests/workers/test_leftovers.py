"""What an attempt that was killed left behind is gone before the next one begins."""

from __future__ import annotations

import json

import pytest

from formats.manifest import MANIFEST_NAME
from specs.settings import Settings
from store import queue
from store.artifacts import Artifacts
from store.database import Database
from tests.chaos.yard import running_consumer
from tests.conftest import wait_for


def test_models_that_an_attempt_placed_and_did_not_enter_are_gone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, artifacts = Database.of(settings), Artifacts(settings.home)
    with database.write() as session:
        # It is read by nobody, and so fails at once.
        job = queue.enqueue(session, kind="ingest", name="a", spec="{}")
        job.attempt, job_id = 1, job.id
    for model, of in (("mdl_1", job_id), ("mdl_2", "job_other")):
        artifacts.model(model).mkdir(parents=True)
        (artifacts.model(model) / MANIFEST_NAME).write_text(json.dumps({"lineage": {"job": of}}))
    with running_consumer(settings, monkeypatch):
        wait_for(lambda: ended(database, job_id), seconds=60)
    assert [path.name for path in artifacts.models()] == ["mdl_2"]
    database.close()


def ended(database: Database, job_id: str) -> bool:
    with database.read() as session:
        return queue.find_job(session, job_id).status == "failed"
