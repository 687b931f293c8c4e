from __future__ import annotations

import threading

from fastapi.testclient import TestClient

from specs.jobs import IngestSpec
from specs.settings import Settings
from store import queue, workers
from store.artifacts import Artifacts
from store.database import Database
from workers.run import Run
from workers.tasks.ingest import ingest


def test_content_that_is_gone_is_asked_for_again(api: TestClient, settings: Settings, database: Database) -> None:
    """As after a data folder was put back from a copy that lacked it; no path of the machine is told."""
    dataset = api.post("/v1/datasets", json={"name": "cats"}).json()["id"]
    assert api.put(f"/v1/datasets/{dataset}/content", content=b"an archive").status_code == 202
    artifacts = Artifacts(settings.home)
    artifacts.upload(dataset).unlink()
    with database.write() as session:
        claim = queue.claim(session, workers.register(session, ["cpu"]))
    assert claim is not None
    ingest(Run(settings, database, artifacts, claim, threading.Event()), IngestSpec(dataset=dataset))
    view = api.get(f"/v1/datasets/{dataset}").json()
    assert (view["status"], view["reason"]) == ("failed", "content_missing")
    assert "Send it again" in view["message"]
    assert str(settings.home) not in view["message"]
