"""A service that speaks the HTTP contract over a real socket, from the standard library."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.pruneyard import data_sets
from tests.pruneyard.data_sets import Shelf

PNG = b"\x89PNG\r\n\x1a\n"
BAD = PNG + b"bad"
FIELD_ERROR = {
    "pointer": "#/architecture/name",
    "message": "There is no architecture of this name.",
    "hint": "Did you mean 'resnet18'?",
}


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeService:
    """What the fake remembers, and how it should misbehave."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[str, Any]] = field(default_factory=list)
    streams: bool = True
    break_stream_after: int | None = None
    break_answers: int = 0
    busy_answers: int = 0
    most_images: int = 1000
    ready: bool = True
    shelf: Shelf = field(default_factory=Shelf)
    _return: threading.Timer | None = None

    def requests(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    def add_job(self, **fields: Any) -> str:
        job_id = f"job_{len(self.jobs) + 1}"
        self.jobs[job_id] = {"id": job_id, "kind": "train", "name": None, "status": "queued", "result": None, **fields}
        return job_id

    def start(self, port: int = 0) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"service": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._return is not None:
            self._return.cancel()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def restart(self, *, away: float) -> None:
        """Stop at once and come back at the same place after so many seconds."""
        self.stop()
        self._return = threading.Timer(away, self.start, kwargs={"port": self._server.server_address[1]})
        self._return.start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service: FakeService

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        parts = urlsplit(self.path)
        # The content of a data set is read by its route, which may break off in the middle.
        streamed = re.fullmatch(data_sets.CONTENT_PATH, parts.path)
        body = b"" if streamed else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        seen = Seen(self.command, unquote(parts.path), query, dict(self.headers.items()), body)
        self.service.seen.append(seen)
        for pattern, answer in ROUTES:
            if match := re.fullmatch(pattern, f"{seen.method} {seen.path}"):
                answer(self, seen, *match.groups())
                return
        self.problem(404, "Not found", detail="There is nothing here.")

    do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815

    def answer(self, status: int, body: Any, media_type: str = "application/json", **headers: str) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def problem(self, status: int, title: str, **fields: Any) -> None:
        headers = {"Retry_After": "0"} if status in {429, 503} else {}
        self.answer(status, {"title": title, "status": status, **fields}, "application/problem+json", **headers)

    def page(self, items: list[Any], seen: Seen) -> None:
        start, limit = int(seen.query.get("cursor", 0)), int(seen.query.get("limit", 2))
        end = start + limit
        self.answer(200, {"items": items[start:end], "next_cursor": str(end) if end < len(items) else None})


def submit(handler: Handler, seen: Seen) -> None:
    service = handler.service
    spec = json.loads(seen.body)
    if spec.get("architecture") in ("resnet19", {"name": "resnet19"}):
        handler.problem(422, "The job cannot be accepted", detail="One field is wrong.", errors=[FIELD_ERROR])
        return
    key = seen.headers["Idempotency-Key"]
    if key not in service.keys:
        service.keys[key] = service.add_job(spec=spec, kind=spec["kind"], name=spec.get("name"))
    if service.break_answers:
        service.break_answers -= 1
        handler.close_connection = True
        return
    handler.answer(202, service.jobs[service.keys[key]])


def show_job(handler: Handler, _seen: Seen, job_id: str) -> None:
    service = handler.service
    if service.busy_answers:
        service.busy_answers -= 1
        handler.problem(503, "Busy")
    elif job_id not in service.jobs:
        handler.problem(404, "There is no such job", detail=f"{job_id} is not known.")
    else:
        if service.states:
            service.jobs[job_id].update(service.states.pop(0))
        handler.answer(200, service.jobs[job_id])


STATES = {"cancel": "cancelled", "pause": "paused", "resume": "queued", "retry": "queued"}


def change(handler: Handler, _seen: Seen, job_id: str, what: str) -> None:
    handler.service.jobs[job_id]["status"] = STATES[what]
    handler.answer(202, handler.service.jobs[job_id])


def clone(handler: Handler, seen: Seen, job_id: str) -> None:
    assert job_id in handler.service.jobs
    made = handler.service.add_job(**json.loads(seen.body), status="succeeded")
    handler.answer(202, handler.service.jobs[made])


def events(handler: Handler, seen: Seen, _job_id: str) -> None:
    service = handler.service
    if not service.streams:
        handler.answer(200, {"items": [], "next_cursor": None})
        return
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for number in range(int(seen.headers.get("Last-Event-ID", 0)), len(service.events)):
        if service.break_stream_after == number:
            service.break_stream_after = None
            handler.close_connection = True
            return
        kind, data = service.events[number]
        text = f": beat\n\nid: {number + 1}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()
        handler.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def predict(handler: Handler, seen: Seen, ref: str, **more: Any) -> None:
    multipart = seen.headers["Content-Type"].startswith("multipart/form-data")
    count = seen.body.count(b'name="images"') if multipart else 1
    if count > handler.service.most_images:
        handler.problem(413, "Content Too Large")
        return
    if BAD in seen.body:
        number = seen.body[: seen.body.index(BAD)].count(b'name="images"') - 1
        pointer = f"#/images/{number}" if multipart else "#"
        handler.problem(422, "Unprocessable Content", errors=[{"pointer": pointer, "message": "This is no image."}])
        return
    label = "8" if ref == "always 8" else chr(seen.body[-1]) if not multipart else "3"
    guess = {"label": label, "index": 3, "probability": 0.75}
    answer = {**guess, "top": [guess, {"label": "5", "index": 5, "probability": 0.125}]}
    handler.answer(200, {"model": ref, "predictions": [answer] * count, **more})


def predict_family(handler: Handler, seen: Seen, _family: str) -> None:
    if "min_accuracy" in seen.query and float(seen.query["min_accuracy"]) > 0.98:
        handler.problem(422, "Unprocessable Content", detail="No model fits.", errors=[], nearest=[CHOSEN])
        return
    predict(handler, seen, "mdl_1", chosen=CHOSEN)


def model(handler: Handler, _seen: Seen, ref: str) -> None:
    handler.answer(200, {"id": "mdl_1", "name": ref, "kind": "trained", "status": "ready"})


MODELS = [
    {"id": f"mdl_{number}", "name": "[bold]", "kind": "trained", "status": "ready", "metrics": {"test_accuracy": None}}
    for number in range(3)
]
ALIAS = {"alias": "prod", "model": "mdl_1", "name": "[bold]", "updated_at": "2026-11-24T09:00:00Z"}
MOVES = [
    {"model": None, "name": None, "since": "2026-11-24T09:02:00Z", "action": "remove", "deleted": False},
    {"model": "mdl_1", "name": "one", "since": "2026-11-24T09:01:00Z", "action": "rollback", "deleted": True},
    {"model": "mdl_1", "name": "one", "since": "2026-11-24T09:00:00Z", "action": "set", "deleted": True},
]
CHOSEN = {"model": "mdl_1", "name": "[bold]", "latency_ms": 0.4123, "reason": "The most accurate."}
CHOSEN |= {"validation_accuracy": 0.98, "test_accuracy": 0.97}
METRICS = [{"epoch": n, "train_loss": None, "train_accuracy": 0.5, "images_per_second": 1234.5} for n in (1, 2, 3)]
IMAGES = [{"index": n, "label": str(n), "png": base64.b64encode(PNG + str(n).encode()).decode()} for n in range(10)]

ROUTES: list[tuple[str, Any]] = [
    (r"POST /v1/jobs", submit),
    (r"GET /v1/jobs", lambda handler, seen: handler.page(list(handler.service.jobs.values()), seen)),
    (r"GET /v1/jobs/([^/]+)", show_job),
    (r"POST /v1/jobs/([^/]+)/(cancel|pause|resume|retry)", change),
    (r"POST /v1/jobs/([^/]+)/clone", clone),
    (r"GET /v1/jobs/[^/]+/bundle", lambda handler, _seen: handler.answer(200, {"a": "zip"})),
    (r"GET /v1/jobs/[^/]+/metrics", lambda handler, seen: handler.page(METRICS, seen)),
    (r"GET /v1/jobs/([^/]+)/events", events),
    (r"GET /v1/models", lambda handler, seen: handler.page(MODELS, seen)),
    (r"GET /v1/models/(.+)", model),
    (r"DELETE /v1/models/.+", lambda handler, _seen: handler.answer(204, None)),
    (r"GET /v1/aliases", lambda handler, seen: handler.page([ALIAS], seen)),
    (r"GET /v1/aliases/[^/]+/history", lambda handler, seen: handler.page(MOVES, seen)),
    (r"(?:GET|PUT) /v1/aliases/(.+)", lambda handler, _seen, alias: handler.answer(200, {**ALIAS, "alias": alias})),
    (r"POST /v1/aliases/(.+)/rollback", lambda handler, _seen, alias: handler.answer(200, {**ALIAS, "alias": alias})),
    (r"POST /v1/models/(.+)/predict", predict),
    (r"POST /v1/families/(.+)/predict", predict_family),
    (r"GET /v1/datasets/digits/images", lambda handler, seen: handler.page(IMAGES, seen)),
    (r"GET /v1/architectures", lambda handler, seen: handler.page([{"name": "mlp"}], seen)),
    (r"GET /v1/architectures/mlp", lambda handler, _seen: handler.answer(200, {"name": "mlp"})),
    *data_sets.ROUTES,
    (r"GET /readyz", lambda handler, _seen: handler.answer(200 if handler.service.ready else 503, {"workers": 1})),
]


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    fake.start()
    yield fake
    fake.stop()
