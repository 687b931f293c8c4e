"""Who may ask what: the key, other machines' pages, and starting without a key."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.routing import Mount, Route

from service.app import create_app
from specs.settings import Settings
from tests.problems import problem_of, refusal_of

KEY = "correct-horse-battery-staple"
PUBLIC = {"/healthz", "/readyz"}


@pytest.fixture
def keyed(settings: Settings) -> Iterator[TestClient]:
    """A client of an API that asks for a key; it sends none by itself."""
    app = create_app(settings.model_copy(update={"api_key": SecretStr(KEY)}))
    with TestClient(app, base_url="http://pruneyard.example") as client:
        yield client


def addresses(app: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every method and path that the app answers, with something in place of parameters."""
    for route in app.routes:
        if isinstance(route, Mount):
            yield "GET", f"{route.path}/swagger-ui.css"
        elif isinstance(route, Route):
            for method in sorted(route.methods or ()):
                yield method, re.sub(r"{[^}]*}", "x", prefix + route.path)
        else:
            inner = getattr(route, "original_router", None) or getattr(route, "router", None)
            assert inner is not None, f"a route of a kind this test does not know: {route!r}"
            yield from addresses(inner, prefix + route.include_context.prefix)


def error_of(response: Any, status: int) -> None:
    """Checks that a response is an error in the form that its path speaks."""
    check = refusal_of if response.url.path.startswith("/v2") else problem_of
    check(response, status)


def test_every_route_but_health_asks_for_the_key(keyed: TestClient) -> None:
    seen = set()
    for method, path in addresses(keyed.app):
        seen.add(path)
        response = keyed.request(method, path)
        if path in PUBLIC:
            assert response.status_code == 200, path
        elif method == "HEAD":
            assert response.status_code == 401, path
        else:
            error_of(response, 401)
    assert seen >= PUBLIC | {"/v1/jobs", "/v1/models/x/predict", "/openapi.json", "/docs", "/"}
    assert seen >= {"/v2", "/v2/models/x/infer", "/v2/models/x/versions/x/infer", "/v2/repository/index"}
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"):
        problem_of(keyed.request(method, "/v1/jobs"), 401)
        problem_of(keyed.request(method, "/nowhere"), 401)
        refusal_of(keyed.request(method, "/v2/nowhere"), 401)


def test_the_key_opens_every_route(keyed: TestClient) -> None:
    keyed.headers["authorization"] = f"Bearer {KEY}"
    for path in ("/v1/jobs", "/v1/models", "/openapi.json", "/docs", "/v1/limits"):
        assert keyed.get(path).status_code == 200
    body = {"kind": "train", "dataset": "digits", "architecture": "mlp"}
    assert keyed.post("/v1/jobs", json=body).status_code == 202


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer  ",
        "Bearer wrong",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Basic {KEY}",
        f"Token {KEY}",
        KEY,
        "Bearer " + "x" * 10_000,
        "Basic ####",
    ],
)
def test_a_wrong_key_is_refused(keyed: TestClient, header: str) -> None:
    problem_of(keyed.get("/v1/jobs", headers={"authorization": header}), 401)


def test_odd_headers_are_refused(keyed: TestClient) -> None:
    problem_of(keyed.get("/v1/jobs", headers={"authorization": "Bearer clé".encode()}), 401)
    twice = [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")]
    problem_of(keyed.get("/v1/jobs", headers=twice), 401)
    problem_of(keyed.get("/v1/jobs?x=/healthz", headers={"host": "x/healthz?"}), 401)
    for path in ("/healthz/", "/healthz/../v1/jobs", "//healthz", "/healthz;/v1/jobs", "/HEALTHZ"):
        assert keyed.get(path, follow_redirects=False).status_code == 401, path


def test_a_browser_may_read_with_the_key_as_password_but_change_nothing(keyed: TestClient) -> None:
    basic = {"authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()}
    assert keyed.get("/docs", headers=basic).status_code == 200
    problem_of(keyed.post("/v1/jobs/x/cancel", headers=basic), 401)


def test_without_a_key_only_this_machine_may_ask(api: TestClient) -> None:
    for host in ("127.0.0.1", "localhost:8000", "[::1]:8000"):
        assert api.get("/v1/jobs", headers={"host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8000", "localhost.evil.example"):
        problem_of(api.get("/v1/jobs", headers={"host": host}), 403)
        problem_of(api.get("/v1/jobs", headers={"origin": f"http://{host}"}), 403)
        refusal_of(api.get("/v2/health/live", headers={"host": host}), 403)
    problem_of(api.post("/v1/jobs/x/cancel", headers={"origin": "null"}), 403)
    assert api.get("/v1/jobs", headers={"origin": "http://localhost:3000"}).status_code == 200


OPEN_TO_OTHERS = {"PRUNEYARD_HOST": "0.0.0.0"}
MAINS = {"service": "service.__main__:main", "workers": "workers.__main__:main", "store.migrate": "store.migrate:main"}


@pytest.mark.parametrize("module", MAINS)
def test_no_process_starts_open_to_others(settings: Settings, module: str) -> None:
    environment = {**os.environ, "PRUNEYARD_HOME": str(settings.home), **OPEN_TO_OTHERS}
    ended = subprocess.run(
        [sys.executable, "-m", module], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "PRUNEYARD_API_KEY" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("module", MAINS)
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (OPEN_TO_OTHERS, "PRUNEYARD_API_KEY"),
        ({"PRUNEYARD_HOST": "192.0.2.1"}, "PRUNEYARD_API_KEY"),
        ({"PRUNEYARD_HOST": "::"}, "PRUNEYARD_API_KEY"),
        ({"PRUNEYARD_API_KEY": "  "}, "PRUNEYARD_API_KEY"),
        ({"PRUNEYARD_PORT": "99999"}, "PRUNEYARD_PORT"),
    ],
)
def test_it_refuses_to_start_open_to_others(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    change: dict[str, str],
    word: str,
) -> None:
    for name, value in {"PRUNEYARD_HOME": str(settings.home), **change}.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o022)
    try:
        assert resolve_name(MAINS[module])() == 2
    finally:
        os.umask(before)
    assert word in capsys.readouterr().err


def test_the_app_itself_knows_no_other_way_in(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"api_key": SecretStr(KEY)}))
    assert isinstance(app, FastAPI)
    assert not [route for route in app.routes if type(route).__name__ == "WebSocketRoute"]
