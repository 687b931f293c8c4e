"""Every response names its request, and so does every line of the log that was written for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.app import create_app
from specs.settings import Settings
from tests.conftest import LOOPBACK, wait_for
from tests.problems import problem_of

LARGEST = 1024
MADE = re.compile(r"[0-9a-f]{32}")
KEY = "correct-horse-battery-staple"
SANE = ["a", "0" * 128, "7b1c9e1e-3a52-4c1d-9c3e-2f6f6d3f7a01", "Root=1-67891233:abc/def+0@x_y.z~"]
INSANE = [b"", b"a" * 129, b"a b", b"a\tb", b'a"b', b"a{b}", b"<a>", b"a;b", b"a,b", "é".encode(), b"\xff", b"a%0a"]
REQUESTS: list[tuple[int, str, str, dict[str, Any]]] = [
    (200, "GET", "/healthz", {}),
    (200, "HEAD", "/v1/jobs", {}),
    (200, "GET", "/v1/jobs", {}),
    (200, "GET", "/docs", {}),
    (200, "GET", "/static-offline-docs/swagger-ui.css", {}),
    (200, "GET", "/metrics", {}),
    (307, "GET", "/", {}),
    (403, "GET", "/v1/jobs", {"headers": {"host": "evil.example"}}),
    (404, "GET", "/nowhere", {}),
    (404, "GET", "/v2/nowhere", {}),
    (404, "GET", "/v1/jobs/job_x", {}),
    (405, "PATCH", "/v1/jobs", {}),
    (413, "POST", "/v1/jobs", {"content": b" " * (LARGEST + 1)}),
    (415, "POST", "/v1/jobs", {"content": b"x"}),
    (422, "POST", "/v1/jobs", {"json": {}}),
    (500, "GET", "/boom/x%0a2026-01-01%20forged%1b[2J", {}),
]


async def boom(name: str) -> None:
    """Fails as no route should, and repeats what came from outside."""
    raise RuntimeError(name)


@pytest.fixture
def failing_api(settings: Settings) -> Iterator[TestClient]:
    """A client of the API with a route that fails, to which an unexpected error is a response."""
    app = create_app(settings.model_copy(update={"max_body_bytes": LARGEST}))
    app.add_api_route("/boom/{name}", boom)
    with TestClient(app, base_url=LOOPBACK, raise_server_exceptions=False) as client:
        client.follow_redirects = False
        yield client


def test_every_response_names_its_request(failing_api: TestClient) -> None:
    for status, method, path, more in REQUESTS:
        headers = {**more.get("headers", {}), "x-request-id": "mine"}
        response = failing_api.request(method, path, **{**more, "headers": headers})
        assert (response.status_code, response.headers.get_list("x-request-id")) == (status, ["mine"]), path
        made = failing_api.request(method, path, **more).headers.get_list("x-request-id")
        assert len(made) == 1, path
        assert MADE.fullmatch(made[0]), path
    problem_of(failing_api.get("/boom/x"), 500)


def test_what_the_key_refuses_is_named_too(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_key": SecretStr(KEY)}))
    with TestClient(app, base_url="http://pruneyard.example") as client:
        response = client.get("/v1/jobs", headers={"x-request-id": "mine"})
        assert (response.status_code, response.headers["x-request-id"]) == (401, "mine")


def test_a_sane_id_is_taken_and_another_is_replaced(api: TestClient) -> None:
    for given in SANE:
        assert api.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"] == given
    made = [api.get("/healthz", headers={b"x-request-id": given}).headers["x-request-id"] for given in INSANE]
    twice = api.get("/healthz", headers=[("x-request-id", "a"), ("x-request-id", "b")])
    made += [twice.headers["x-request-id"], *(api.get("/healthz").headers["x-request-id"] for _ in range(20))]
    assert [value for value in made if not MADE.fullmatch(value)] == []
    assert len(set(made)) == len(made)


# ---- with a real server: what it writes to its log

SERVE = """
import service.__main__ as service

def create_app(settings, create=service.create_app):
    async def boom(name: str):
        raise RuntimeError(name)
    app = create(settings)
    app.add_api_route("/boom/{name}", boom)
    return app

service.create_app = create_app
service.main()
"""


@contextmanager
def serving(settings: Settings, log: Path, **environment: str) -> Iterator[httpx.Client]:
    """A server process on a port of its own choice, its log in a file; stopped in good order at the end."""
    environment = {"PRUNEYARD_HOME": str(settings.home), "PRUNEYARD_PORT": "0", **environment}
    environment["PRUNEYARD_MAX_BODY_BYTES"] = str(LARGEST)
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", SERVE], env={**os.environ, **environment}, stderr=file)
    try:
        found = wait_for(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8")))
        # The server closes the connection of a request that failed: each has one of its own.
        with httpx.Client(base_url=found[0], timeout=30, headers={"connection": "close"}) as client:
            yield client
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


def ask_all(client: httpx.Client) -> dict[str, tuple[int, str, str]]:
    """All requests, each with an id of its own, and with what must not be seen in a log."""
    asked = {}
    for number, (status, method, path, more) in enumerate(REQUESTS):
        if status == 413:
            continue  # the server does not read what is too long, so that the connection may break before the answer
        headers = {"authorization": "Bearer secret-a", "cookie": "secret-b", "x-request-id": f"id-{number}"}
        sent = {**more, "headers": {**headers, **more.get("headers", {})}, "params": {"key": "secret-c"}}
        response = client.request(method, path, **sent)
        assert response.status_code == status, path
        assert response.headers["x-request-id"] == f"id-{number}"
        asked[f"id-{number}"] = (status, method, path)
    return asked


def test_a_log_of_json_has_a_line_for_each_request(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(settings, log, PRUNEYARD_ACCESS_LOG="1") as client:
        asked = ask_all(client)
        size = len(client.get("/v1/jobs", headers={"x-request-id": "id-size"}).content)
    text = log.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    seen = {line["request_id"]: line for line in lines if line["event"] == "request" and "-" in line["request_id"]}
    assert seen.keys() == {*asked, "id-size"}
    for name, (status, method, path) in asked.items():
        line = seen[name]
        assert (line["status"], line["method"], line["client"]) == (status, method, "127.0.0.1")
        assert line["ms"] > 0
        assert line["route"] in {path, "other", "/v1/jobs/{job_id}", "/boom/{name}"}
        assert (line["bytes"] > 0) == (method != "HEAD" and status != 307), line
    assert (seen["id-size"]["bytes"], seen["id-size"]["route"]) == (size, "/v1/jobs")
    assert "secret" not in text
    failed = next(name for name, (status, *_) in asked.items() if status == 500)
    told = [line for line in lines if line.get("request_id") == failed]
    assert {line["event"] for line in told} >= {"request", "unexpected error"}
    assert any("RuntimeError" in line.get("exception", "") for line in told)


def test_a_log_of_text_cannot_be_forged(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(settings, log, PRUNEYARD_LOG_FORMAT="text") as client:
        ask_all(client)
    lines = log.read_text(encoding="utf-8").splitlines()
    assert any("RuntimeError" in line for line in lines)
    assert [line for line in lines if not re.match(r"20\d\d-\d\d-\d\dT\d|    ", line)] == []
    assert not [line for line in lines if "\x1b" in line or "secret" in line or line.startswith("2026-01-01")]
    # Nobody asked for a line for each request: only the error is told.
    assert {found for line in lines for found in re.findall(r"id-\d+", line)} == {f"id-{len(REQUESTS) - 1}"}
