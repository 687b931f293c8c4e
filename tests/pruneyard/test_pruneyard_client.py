from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pruneyard import ApiError, Client, JobFailed, NotReachable, PruneyardError, WaitTimeout
from pruneyard.events import parse_events
from tests.pruneyard.conftest import PNG, FakeService


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client(service.url, timeout=5) as opened:
        yield opened


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, pruneyard; print([m for m in ('torch', 'typer', 'rich', 'httpx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_job_is_asked_for_once_though_the_answer_is_lost(client: Client, service: FakeService) -> None:
    service.break_answers = 2
    job = client.train(dataset="digits", architecture="mlp")
    posts = service.requests("POST", "/v1/jobs")
    assert len(posts) == 3
    assert len({post.headers["Idempotency-Key"] for post in posts}) == 1
    assert list(service.jobs) == [job["id"]]
    assert json.loads(posts[0].body) == {"kind": "train", "dataset": "digits", "architecture": "mlp"}


def test_each_submission_has_its_own_key_unless_one_is_given(client: Client, service: FakeService) -> None:
    spec = {"kind": "prune", "model": "mdl_1"}
    assert client.submit(spec)["id"] != client.prune("mdl_1")["id"]
    assert client.submit(spec, "mine")["id"] == client.submit(spec, "mine")["id"]
    assert len(service.jobs) == 3


def test_an_error_shows_pointer_message_and_hint(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.train(dataset="digits", architecture="resnet19")
    assert caught.value.status == 422
    assert str(caught.value).splitlines() == [
        "The job cannot be accepted (422)",
        "One field is wrong.",
        "  #/architecture/name: There is no architecture of this name.",
        "      Did you mean 'resnet18'?",
    ]


def test_busy_answers_are_tried_again(client: Client, service: FakeService) -> None:
    job_id = service.add_job()
    service.busy_answers = 2
    assert client.job(job_id)["id"] == job_id
    service.busy_answers = 10
    with pytest.raises(ApiError, match="Busy"):
        client.job(job_id)


def test_a_service_that_starts_anew_is_waited_for(client: Client, service: FakeService) -> None:
    """What stands before it answers 503 for it meanwhile, longer than a request is repeated."""
    job = service.add_job(status="succeeded")
    service.busy_answers = 6
    assert client.wait(job)["status"] == "succeeded"
    service.busy_answers = 6
    assert list(client.events(job)) == []
    assert service.busy_answers == 0


def test_a_service_that_is_not_there_says_how_to_start_it() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Client(url) as client, pytest.raises(NotReachable, match="pruneyard up"):
            client.job("job_1")


WITH_PASSWORDS = ["http://me:secret@host", "http://me:secret@[::1", "me:secret@h:80"]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://[::1", *WITH_PASSWORDS])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(PruneyardError, match="URL") as refused:
        Client(url)
    assert "secret" not in str(refused.value)


def test_proxies_of_the_environment_are_not_for_loopback(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with Client(service.url, timeout=2) as client:
        assert client.health() == {"workers": 1, "ready": True}


def test_url_and_key_come_from_the_environment(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_URL", service.url + "/")
    monkeypatch.setenv("PRUNEYARD_API_KEY", "sesame")
    service.ready = False
    with Client() as client:
        assert client.health()["ready"] is False
    assert service.seen[0].path == "/readyz"
    assert service.seen[0].headers["Authorization"] == "Bearer sesame"


def test_lists_are_paged_through(client: Client, service: FakeService) -> None:
    ids = [service.add_job() for _ in range(5)]
    assert [job["id"] for job in client.jobs()] == ids
    assert [seen.query.get("cursor") for seen in service.requests("GET", "/v1/jobs")] == [None, "2", "4"]
    assert [row["epoch"] for row in client.metrics(ids[0])] == [1, 2, 3]
    assert [model["id"] for model in client.models()] == ["mdl_0", "mdl_1", "mdl_2"]
    assert [dataset["id"] for dataset in client.datasets()] == ["ds_digits"]
    assert len(list(client.dataset_images("digits"))) == 10


def test_a_job_is_quoted_or_set_before_others(client: Client, service: FakeService) -> None:
    for options in ({"dry_run": True}, {"priority": 3}, {}):
        client.submit({"kind": "train"}, **options)
    assert [seen.query for seen in service.requests("POST", "/v1/jobs")] == [{"dry_run": "true"}, {"priority": "3"}, {}]


def test_a_job_is_set_aside_tried_again_and_asked_for_once_more(client: Client, service: FakeService) -> None:
    job = service.add_job()
    assert client.pause(job)["status"] == "paused"
    assert client.resume(job)["status"] == "queued"
    assert client.cancel(job)["status"] == "cancelled"
    assert client.retry(job)["status"] == "queued"
    assert client.clone(job, seed=4)["id"] != job
    assert json.loads(service.seen[-1].body) == {"seed": 4}


def test_models_and_catalogue(client: Client, service: FakeService) -> None:
    assert client.model("my net/2")["name"] == "my net/2"
    assert client.set_alias("best", "mdl_1")["alias"] == "best"
    assert json.loads(service.seen[-1].body) == {"model": "mdl_1"}
    assert client.alias("a b")["alias"] == "a b"
    assert [alias["alias"] for alias in client.aliases()] == ["prod"]
    assert client.roll_back_alias("prod")["model"] == "mdl_1"
    assert (service.seen[-1].method, service.seen[-1].path) == ("POST", "/v1/aliases/prod/rollback")
    assert [move["action"] for move in client.alias_history("prod")] == ["remove", "rollback", "set"]
    client.delete_model("mdl_1")
    assert service.seen[-1].method == "DELETE"
    assert client.catalogue("architectures", "mlp") == {"name": "mlp"}
    assert client.catalogue("architectures")["items"] == [{"name": "mlp"}]


def test_one_image_goes_raw_and_several_as_multipart(client: Client, service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "seven.png"
    file.write_bytes(PNG + b"7")
    for one in (file, str(file), PNG + b"7"):
        assert client.predict("best", one, top_k=2)["predictions"][0]["label"] == "7"
        assert service.seen[-1].headers["Content-Type"] == "image/png"
        assert service.seen[-1].query == {"top_k": "2"}
    assert len(client.predict("best", [file, PNG])["predictions"]) == 2
    assert b'filename="seven.png"' in service.seen[-1].body
    with pytest.raises(PruneyardError, match="not look like an image"):
        client.predict("best", b"text")


def test_a_family_is_asked_with_what_was_wished_for(client: Client, service: FakeService) -> None:
    answer = client.predict_family("fam_1", PNG + b"7", latency_budget_ms=2, top_k=1)
    assert (answer["predictions"][0]["label"], answer["chosen"]["model"]) == ("7", "mdl_1")
    assert service.seen[-1].path == "/v1/families/fam_1/predict"
    assert service.seen[-1].query == {"latency_budget_ms": "2", "top_k": "1"}
    assert len(client.predict_family("fam_1", [PNG, PNG], min_accuracy=0.9)["predictions"]) == 2
    assert service.seen[-1].query == {"min_accuracy": "0.9", "top_k": "5"}
    with pytest.raises(ApiError) as caught:
        client.predict_family("fam_1", PNG, min_accuracy=0.99)
    assert caught.value.problem["nearest"][0]["model"] == "mdl_1"


def test_wait_returns_a_success_and_shows_what_it_saw(client: Client, service: FakeService) -> None:
    job_id = service.add_job()
    service.states = [{"status": "running"}, {"status": "succeeded", "result": {"model": "mdl_1"}}]
    seen: list[str] = []
    assert client.wait(job_id, lambda job: seen.append(job["status"]))["result"] == {"model": "mdl_1"}
    assert seen == ["running", "succeeded"]


def test_wait_raises_for_a_failure_and_after_its_time(client: Client, service: FakeService) -> None:
    failed = service.add_job(status="failed", reason="non_finite_loss", message="The loss was not finite.")
    with pytest.raises(JobFailed, match=r"non_finite_loss(.|\n)*The loss was not finite") as caught:
        client.wait(failed)
    assert caught.value.job["id"] == failed
    with pytest.raises(WaitTimeout):
        client.wait(service.add_job(), timeout=0)
    with pytest.raises(ApiError, match="no such job"):
        client.wait("job_99")


@pytest.mark.parametrize("broken_after", [None, 0, 1, 2])
def test_events_go_on_where_the_stream_broke(client: Client, service: FakeService, broken_after: int | None) -> None:
    job_id = service.add_job(status="succeeded")
    service.events = [("phase", {"phase": "training"}), ("epoch", {"epoch": 1}), ("finished", {})]
    service.break_stream_after = broken_after
    assert [(event["event"], event["data"]) for event in client.events(job_id)] == service.events


def test_events_that_come_after_a_clean_end_are_not_missed(client: Client, service: FakeService) -> None:
    job_id = service.add_job(status="running")
    service.events = [("epoch", {"epoch": 1})]
    stream = client.events(job_id)
    assert next(stream)["data"] == {"epoch": 1}
    service.events.append(("finished", {}))
    service.jobs[job_id]["status"] = "succeeded"
    assert [event["event"] for event in stream] == ["finished"]


def test_events_are_polled_for_where_there_is_no_stream(client: Client, service: FakeService) -> None:
    job_id = service.add_job()
    service.streams = False
    service.states = [{"status": "running"}, {}, {"status": "succeeded"}]
    assert [event["data"]["status"] for event in client.events(job_id)] == ["running", "succeeded"]


def test_the_event_format() -> None:
    lines = ["data: 1", "data: 2", "", ":comment", "", "id: 7", "event: x", "data:{}", "", "data", "", "data: cut off"]
    assert list(parse_events(lines)) == [
        {"id": None, "event": "message", "data": "1\n2"},
        {"id": "7", "event": "x", "data": {}},
        {"id": "7", "event": "message", "data": ""},
    ]


@pytest.mark.parametrize("image", ["/nowhere/7.png", 7, None, "."])
def test_what_is_no_image_is_told_in_a_sentence(client: Client, image: object) -> None:
    with pytest.raises(PruneyardError, match=r"[a-z]"):
        client.predict("m", image)  # type: ignore[arg-type]
    with pytest.raises(PruneyardError, match=r"[a-z]"):
        client.predict("m", [image])  # type: ignore[list-item]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1}])
def test_a_job_that_is_no_json_is_told_in_a_sentence(client: Client, value: object) -> None:
    with pytest.raises(PruneyardError, match="JSON"):
        client.train(dataset="digits", architecture="mlp", epochs=value)


def test_a_key_with_a_line_break_is_told_in_a_sentence() -> None:
    with pytest.raises(PruneyardError, match="API key"):
        Client("http://127.0.0.1:1", api_key="a\nb")
