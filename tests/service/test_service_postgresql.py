"""The whole service on PostgreSQL: each route, and a training by a real worker.

What each route promises is held by the other tests, on SQLite; what the store promises, on both.
"""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from specs.jobs import JOB_SPEC
from specs.settings import Settings
from store import models, queue, workers
from store.database import Database, Session
from store.metrics import COLUMNS, record_epoch
from store.models import Publication
from tests.conftest import LOOPBACK, TINY_TRAINING, ended, running_worker
from tests.pictures import picture_files, zip_of
from tests.postgresql import Server
from tests.problems import problem_of

PNG = {"content-type": "image/png"}
ZIP = {"content-type": "application/zip"}
NOTHING = "%00"
END = "9" * 18


@pytest.fixture
def settings(postgresql: Server, tmp_path: Path) -> Settings:
    """Settings of an empty data folder whose database is PostgreSQL."""
    return postgresql.new_home(tmp_path / "home")


@pytest.fixture
def family(settings: Settings, trained_home: Path, database: Database) -> str:
    """A family of two models, `tiny` and `tiny pruned`, trained elsewhere and entered here."""
    shutil.copytree(trained_home / "models", settings.home / "models")
    trained = Database.of(Settings(home=trained_home))
    with trained.read() as session:
        rows = models.list_models(session)
        made = [Publication(**{field.name: getattr(row, field.name) for field in fields(Publication)}) for row in rows]
    trained.close()
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
        return [publish(session, worker, publication) for publication in reversed(made)][-1]


def publish(session: Session, worker: str, publication: Publication) -> str:
    """Has a job of one epoch make this model; its family."""
    queue.enqueue(
        session, kind="train", name=publication.name, spec=JOB_SPEC.validate_python(TINY_TRAINING).model_dump_json()
    )
    claim = queue.claim(session, worker)
    assert claim is not None
    queue.report(session, claim, phase="training", step=1, progress={"fraction": 1.0, "eta_seconds": None})
    record_epoch(session, claim, 1, dict.fromkeys(COLUMNS, 0.5) | {"train_loss": float("nan")})
    family = models.publish(session, claim, publication).family
    queue.succeed(session, claim, {"model": publication.id})
    return family


def pages(api: TestClient) -> list[str]:
    """The paths of all that can be read, but for networks: another process would begin to count their figures."""
    paths = api.get("/openapi.json").json()["paths"]
    return [path for path, methods in paths.items() if "get" in methods and "/architectures" not in path]


def test_all_that_can_be_read_is_read(api: TestClient, family: str) -> None:
    api.put("/v1/aliases/prod", json={"model": "tiny"}).raise_for_status()
    job = api.get("/v1/models/tiny").json()["job"]
    names = {"family": family, "job_id": job, "alias": "prod", "model": "tiny", "version": "1"}
    for path in pages(api):
        reference = "digits" if path.startswith("/v1/datasets") else "tiny pruned"
        response = api.get(path.format(**names, reference=reference))
        assert response.status_code == 200, (path, response.text)


def test_what_is_not_there_is_not_found(api: TestClient) -> None:
    with_names = [path for path in pages(api) if "{" in path and not path.startswith("/v2")]
    for path in with_names:
        names = dict.fromkeys(("family", "job_id", "alias", "reference"), NOTHING)
        # An alias that is none is told from one that is not there.
        problem_of(api.get(path.format(**names)), 422 if "{alias}" in path else 404)
    for change in ("cancel", "pause", "resume", "retry"):
        problem_of(api.post(f"/v1/jobs/{NOTHING}/{change}"), 404)
    problem_of(api.put(f"/v1/datasets/{NOTHING}/content", content=b"PK", headers=ZIP), 404)
    for path in ("models", "datasets"):
        problem_of(api.delete(f"/v1/{path}/{NOTHING}"), 404)


def test_jobs_are_made_changed_and_listed(api: TestClient) -> None:
    key = {"Idempotency-Key": "once"}
    job = api.post("/v1/jobs", json=TINY_TRAINING, headers=key).json()
    assert api.post("/v1/jobs", json=TINY_TRAINING, headers=key).json() == job
    quote = api.post("/v1/jobs?dry_run=true", json=TINY_TRAINING).json()
    place = f"/v1/jobs/{job['id']}"
    for change, status in {"pause": "paused", "resume": "queued", "cancel": "cancelled", "retry": "queued"}.items():
        assert api.post(f"{place}/{change}").json()["status"] == status
    first = api.post(f"{place}/clone?priority=5", json={"optimizer": {"lr": 0.1}}).json()
    assert first["spec"]["optimizer"] == {**job["spec"]["optimizer"], "lr": 0.1}
    assert (first["queue_position"], api.get(place).json()["queue_position"]) == (0, 1)

    newest = api.get("/v1/jobs?limit=2&status=queued").json()
    older = api.get(f"/v1/jobs?limit=2&cursor={newest['next_cursor']}").json()
    assert [row["id"] for row in newest["items"] + older["items"]] == [first["id"], quote["id"], job["id"]]
    states = [event["data"]["status"] for event in api.get(f"{place}/events?limit=4").json()["items"]]
    assert states == ["queued", "paused", "queued", "cancelled"]
    assert api.get(f"{place}/events?cursor={END}").json()["items"] == []


def test_a_job_that_ended_tells_of_it(api: TestClient, family: str) -> None:
    place = f"/v1/jobs/{api.get('/v1/models/tiny').json()['job']}"
    (row,) = api.get(f"{place}/metrics").json()["items"]
    assert (row["epoch"], row["train_loss"], row["validation_loss"], row["non_finite"]) == (1, None, 0.5, True)
    assert api.get(f"{place}/metrics?cursor={END}").json()["items"] == []
    stream = api.get(f"{place}/events", headers={"accept": "text/event-stream"}).text
    assert [line for line in stream.splitlines() if line.startswith("event:")][-2:] == ["event: epoch", "event: state"]
    assert api.get(f"{place}/bundle").content.startswith(b"PK")
    problem_of(api.post(f"{place}/retry"), 409)
    assert api.get(f"/v1/families/{family}/pareto").json()["items"]


def test_data_sets_are_made_filled_and_deleted(api: TestClient) -> None:
    made = [api.post("/v1/datasets", json={"name": "cats"}).json() for _ in range(2)]
    assert [row["version"] for row in made] == [1, 2]
    place = f"/v1/datasets/{made[0]['id']}"
    sent = api.put(f"{place}/content", content=zip_of(picture_files(each=1)), headers=ZIP)
    assert (sent.status_code, sent.json()["status"]) == (202, "processing")
    problem_of(api.delete(place), 409)
    api.post(f"/v1/jobs/{sent.json()['job']}/cancel").raise_for_status()
    assert (api.get(place).json()["status"], api.get(place).json()["reason"]) == ("failed", "cancelled")
    problem_of(api.post("/v1/jobs", json={**TINY_TRAINING, "dataset": "cats"}), 422, "#/dataset")
    assert [row["name"] for row in api.get("/v1/datasets?limit=3").json()["items"]][:2] == ["cats", "cats"]
    assert api.delete(place).status_code == 204
    problem_of(api.get(place), 404)


def test_models_answer_are_renamed_and_deleted(
    api: TestClient, family: str, test_digits: list[tuple[bytes, str]]
) -> None:
    image, label = test_digits[0]
    for place in ("models/tiny", "models/tiny pruned", f"families/{family}"):
        answer = api.post(f"/v1/{place}/predict", content=image, headers=PNG)
        assert answer.json()["predictions"][0]["label"] == label, answer.text
    for name in ("tiny", "tiny pruned"):
        assert api.put("/v1/aliases/prod", json={"model": name}).json()["name"] == name
    assert api.post("/v1/aliases/prod:rollback").json()["name"] == "tiny"
    moves = api.get("/v1/aliases/prod/history?limit=2").json()
    assert [move["action"] for move in moves["items"]] == ["rollback", "set"]
    assert len(api.get(f"/v1/aliases/prod/history?cursor={moves['next_cursor']}").json()["items"]) == 1

    pruning = api.post("/v1/jobs", json={"kind": "prune", "model": "prod"}).json()
    problem_of(api.delete("/v1/models/prod"), 409)
    assert api.delete("/v1/aliases/prod").status_code == 204
    problem_of(api.delete("/v1/models/tiny"), 409)
    api.post(f"/v1/jobs/{pruning['id']}/cancel").raise_for_status()
    assert api.patch("/v1/models/tiny", json={"name": "smallest"}).json()["name"] == "smallest"
    assert api.delete("/v1/models/smallest").status_code == 204
    assert [row["name"] for row in api.get("/v1/models").json()["items"]] == ["tiny pruned"]
    problem_of(api.post(f"/v1/jobs/{pruning['id']}/retry"), 422, "#/model")


def test_a_worker_quotes_and_trains_what_then_predicts(
    settings: Settings, test_digits: list[tuple[bytes, str]]
) -> None:
    image, label = test_digits[0]
    with running_worker(settings), TestClient(create_app(settings), base_url=LOOPBACK) as api:
        quote = ended(api, TINY_TRAINING, dry_run=True)
        assert quote["status"] == "succeeded", quote
        job = ended(api, TINY_TRAINING)
        assert job["status"] == "succeeded", job
        assert job["result"]["quote"]["job"] == quote["id"]
        answer = api.post(f"/v1/models/{job['result']['model']}/predict", content=image, headers=PNG)
        assert answer.json()["predictions"][0]["label"] == label, answer.text
    assert not list(settings.home.glob("*.db*"))
