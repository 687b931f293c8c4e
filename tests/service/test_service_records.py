"""What is written down of a job: epochs as a table, checkpoints, the log of its processes."""

from __future__ import annotations

import csv
import io
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service import streams
from specs.settings import Settings
from store.artifacts import Artifacts
from store.database import Database
from store.tables import Checkpoint, Metric
from tests.problems import problem_of

GOOD = {"kind": "train", "dataset": "digits", "architecture": "mlp"}
STREAM = {"accept": "text/event-stream"}


@pytest.fixture
def job(api: TestClient) -> str:
    identifier: str = api.post("/v1/jobs", json=GOOD).json()["id"]
    return identifier


@pytest.fixture
def log(settings: Settings, job: str) -> Path:
    """Where the processes of the job print to."""
    path = Artifacts(settings.home).job_log(job)
    path.parent.mkdir(exist_ok=True)
    return path


def lines_of(stream: str) -> list[str]:
    return [line.removeprefix("data: ") for line in stream.split("\n") if line.startswith("data: ")]


def test_epochs_come_as_a_table_too(trained_api: TestClient) -> None:
    job = trained_api.get("/v1/models/tiny").json()["job"]
    rows = trained_api.get(f"/v1/jobs/{job}/metrics").json()["items"]
    answer = trained_api.get(f"/v1/jobs/{job}/metrics?format=csv&limit=3")
    assert answer.headers["content-type"].startswith("text/csv")
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["epoch"], float(row["train_loss"])) for row in table] == [
        (str(row["epoch"]), row["train_loss"]) for row in rows[:3]
    ]
    problem_of(trained_api.get(f"/v1/jobs/{job}/metrics?format=xml"), 422)


def test_a_table_has_all_epochs(api: TestClient, settings: Settings, job: str) -> None:
    """Also more of them than a page has."""
    database = Database.of(settings)
    told = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr", "images_per_second")
    figures = dict.fromkeys((*told, "seconds"), 0.5)
    with database.write() as session:
        session.add_all(Metric(job_id=job, epoch=epoch, **figures) for epoch in range(1, 703))
    database.close()
    table = list(csv.DictReader(io.StringIO(api.get(f"/v1/jobs/{job}/metrics?format=csv").text)))
    assert [int(row["epoch"]) for row in table] == list(range(1, 703))
    assert len(api.get(f"/v1/jobs/{job}/metrics").json()["items"]) == 500


def test_checkpoints_say_where_a_job_goes_on(api: TestClient, settings: Settings, job: str) -> None:
    assert api.get(f"/v1/jobs/{job}/checkpoints").json() == {"items": [], "next_cursor": None}
    database = Database.of(settings)
    with database.write() as session:
        for step, best in ((0, True), (7, False)):
            row = Checkpoint(job_id=job, directory=f"2-{step}-1", attempt=1, epoch=2, step=step, best=best)
            session.add(row)
            session.flush()
    database.close()
    items = api.get(f"/v1/jobs/{job}/checkpoints").json()["items"]
    assert [(row["epoch"], row["step"], row["best"]) for row in items] == [(2, 7, False), (2, 0, True)]
    problem_of(api.get("/v1/jobs/job_0/checkpoints"), 404)


def test_the_log_is_what_was_printed(api: TestClient, job: str, log: Path) -> None:
    assert api.get(f"/v1/jobs/{job}/logs").text == ""
    log.write_bytes("<b>é</b> \xff\n".encode("latin-1") * 100_000)
    answer = api.get(f"/v1/jobs/{job}/logs")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.text) == 1024 * 1024
    assert answer.text.endswith("<b>\ufffd</b> \ufffd\n")
    problem_of(api.get("/v1/jobs/job_0/logs"), 404)


def test_lines_of_a_log_are_followed_until_the_job_has_ended(api: TestClient, job: str, log: Path) -> None:
    log.write_text("one\ntwo\r\nthr")

    def go_on() -> None:
        with log.open("a") as file:
            file.write("ee\n" + "x" * 200_000 + "\nlast")
        api.post(f"/v1/jobs/{job}/cancel")

    later = threading.Timer(0.5, go_on)
    later.start()
    stream = api.get(f"/v1/jobs/{job}/logs", headers=STREAM)
    later.join()
    assert stream.headers["content-type"].startswith("text/event-stream")
    lines = lines_of(stream.text)
    assert lines[:3] == ["one", "two", "three"]
    assert "".join(lines[3:]) == "x" * 200_000 + "last"


def test_lines_stay_whole_however_much_is_read_at_once(
    api: TestClient, job: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "POLL_SECONDS", 0.0)
    lines = [f"{number} ".ljust(29, "é") for number in range(3000)]  # 55 bytes or so: none ends where a part does
    log.write_text("\n".join(lines))
    api.post(f"/v1/jobs/{job}/cancel")
    assert lines_of(api.get(f"/v1/jobs/{job}/logs", headers=STREAM).text) == lines
    log.write_text("x" + "é" * 60_000)
    assert "".join(lines_of(api.get(f"/v1/jobs/{job}/logs", headers=STREAM).text)) == "x" + "é" * 60_000


def test_a_log_is_followed_from_where_it_was_left(api: TestClient, job: str, log: Path) -> None:
    log.write_text("one\ntwo\nthree")
    api.post(f"/v1/jobs/{job}/cancel")
    rest = api.get(f"/v1/jobs/{job}/logs", headers={**STREAM, "last-event-id": "4"}).text
    assert rest.startswith("id: 8\nevent: line\ndata: two\n\n")
    assert lines_of(rest) == ["two", "three"]
    past = {**STREAM, "last-event-id": "1" * 18}
    assert api.get(f"/v1/jobs/{job}/logs", headers=past).text == ""
    problem_of(api.get(f"/v1/jobs/{job}/logs", headers={**STREAM, "last-event-id": "-1"}), 422)
