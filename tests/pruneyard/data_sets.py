"""The data sets of the fake service: their routes, their uploads, and how these can be made to fail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.pruneyard.conftest import Handler, Seen

CONTENT_PATH = r"/v1/datasets/([^/]+)/content"
PREVIEW = b"\x89PNG\r\n\x1a\npreview"
FACTS: dict[str, Any] = {
    "classes": ["cat", "dog"],
    "class_images": {"cat": 10, "dog": 5},
    "class_splits": {"cat": {"train": 6, "validation": 2, "test": 2}, "dog": {"train": 3, "validation": 1, "test": 1}},
    "splits": {"train": 9, "validation": 3, "test": 3},
    "images": 15,
    "channels": 3,
    "image_size": 32,
    "imbalance": 2.0,
    "rejected_count": 0,
    "rejected": [],
    "warnings": [],
    "fingerprint": "sha256:00",
    "bytes": 12345,
}


@dataclass
class Shelf:
    """What was created and what has arrived of it; `mishaps` befall the next parts, one each."""

    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    content: dict[str, bytearray] = field(default_factory=dict)
    mishaps: list[str] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    away: float = 0.3
    hanging: Event = field(default_factory=Event)
    after_reading: dict[str, Any] = field(default_factory=lambda: {"status": "ready", **FACTS})

    def add(self, **fields: Any) -> str:
        """A data set, uploading unless it is said otherwise."""
        dataset_id = f"ds_{len(self.views) + 1}"
        self.content[dataset_id] = bytearray()
        view = {"id": dataset_id, "name": "cats", "version": 1, "status": "uploading", "reason": None, "job": None}
        self.views[dataset_id] = {**view, "upload": {"received": 0, "total": None}, "rejected": [], **fields}
        return dataset_id

    def view(self, dataset_id: str) -> dict[str, Any]:
        """As the service answers it."""
        view = self.views[dataset_id]
        if view["status"] == "uploading":
            view["upload"]["received"] = len(self.content[dataset_id])
        return view

    def received(self, dataset_id: str) -> bytes:
        return bytes(self.content[dataset_id])


def create(handler: Handler, seen: Seen) -> None:
    spec = json.loads(seen.body)
    shelf = handler.service.shelf
    dataset_id = shelf.add(name=spec["name"], source=spec["source"], max_rejected=spec.get("max_rejected"))
    if spec["source"]["kind"] != "upload":
        _read(handler, dataset_id)
    handler.answer(201, shelf.view(dataset_id), Location=f"/v1/datasets/{dataset_id}")


def list_all(handler: Handler, seen: Seen) -> None:
    shelf = handler.service.shelf
    handler.page([*map(shelf.view, reversed(shelf.views)), {"id": "ds_digits", "status": "ready"}], seen)


def show(handler: Handler, _seen: Seen, ref: str) -> None:
    shelf = handler.service.shelf
    found = [dataset_id for dataset_id, view in shelf.views.items() if ref in {dataset_id, view["name"]}]
    if not found:
        handler.problem(404, "There is no data set of this id or name")
        return
    view = shelf.view(found[-1])
    if view["status"] == "processing" and shelf.states:
        view.update(shelf.states.pop(0))
    elif view["status"] == "processing" and _job_ended(handler, view["job"]):
        view.update(shelf.after_reading)
    handler.answer(200, view)


def delete(handler: Handler, seen: Seen, ref: str) -> None:
    if seen.query.get("force") != "true":
        handler.problem(409, "Conflict", detail="The model mdl_1 was trained on this data set.")
        return
    del handler.service.shelf.views[ref]
    handler.answer(204, None)


def preview(handler: Handler, _seen: Seen, _ref: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "image/png")
    handler.send_header("Content-Length", str(len(PREVIEW)))
    handler.end_headers()
    handler.wfile.write(PREVIEW)


def take_part(handler: Handler, seen: Seen, dataset_id: str) -> None:
    """One part, unless a mishap befalls it."""
    shelf = handler.service.shelf
    mishap = shelf.mishaps.pop(0) if shelf.mishaps else ""
    if mishap in REFUSALS:
        REFUSALS[mishap](handler, dataset_id)
        return
    view = shelf.view(dataset_id)
    length = int(seen.headers["Content-Length"])
    first, last, total = _span(seen.headers.get("Content-Range", ""))
    assert length == last - first + 1
    if view["status"] != "uploading":
        _refuse(handler, 409, "Conflict", detail=f"The data set is {view['status']}.")
    elif first != view["upload"]["received"]:
        _refuse(handler, 409, "Conflict", received=view["upload"]["received"])
    else:
        view["upload"]["total"] = total
        shelf.content[dataset_id] += handler.rfile.read(length // 2 if mishap in HALVES else length)
        if mishap not in {*HALVES, "hanging"} and last + 1 == total:
            _read(handler, dataset_id)
        ENDINGS[mishap](handler, dataset_id)


def _span(text: str) -> tuple[int, int, int]:
    """First and last byte of a part, and of how many; without a part, where the content ends."""
    if whole := re.fullmatch(r"bytes \*/(\d+)", text):
        return int(whole[1]), int(whole[1]) - 1, int(whole[1])
    span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", text)
    assert span, "each part says where it belongs"
    first, last, total = map(int, span.groups())
    return first, last, total


def _read(handler: Handler, dataset_id: str) -> None:
    view = handler.service.shelf.views[dataset_id]
    job = handler.service.add_job(kind="ingest", name=view["name"])
    view.update(status="processing", job=job, upload=None)


def _job_ended(handler: Handler, job_id: str) -> bool:
    return str(handler.service.jobs[job_id]["status"]) in {"succeeded", "failed", "cancelled"}


def _refuse(handler: Handler, status: int, title: str, **fields: Any) -> None:
    """An answer before the body was read."""
    handler.close_connection = True
    handler.problem(status, title, **fields)
    handler.rfile.read(int(handler.headers["Content-Length"]))


def _break(handler: Handler, _dataset_id: str = "") -> None:
    handler.close_connection = True


def _lose_some(handler: Handler, dataset_id: str) -> None:
    """As after a power cut: not all that was written had reached the disk."""
    content = handler.service.shelf.content[dataset_id]
    del content[len(content) // 2 :]
    _refuse(handler, 409, "Conflict", received=len(content))


def _hang(handler: Handler, _dataset_id: str) -> None:
    """No answer until the client has gone."""
    handler.service.shelf.hanging.set()
    handler.connection.settimeout(20)
    assert not handler.connection.recv(1)
    handler.close_connection = True


def _restart(handler: Handler, _dataset_id: str) -> None:
    handler.close_connection = True
    handler.service.restart(away=handler.service.shelf.away)


def _accept(handler: Handler, dataset_id: str) -> None:
    handler.answer(200, handler.service.shelf.view(dataset_id))


def _refuse_after_half(handler: Handler, _dataset_id: str) -> None:
    handler.close_connection = True
    handler.problem(507, "Insufficient storage", detail="The disk is full.")
    length = int(handler.headers["Content-Length"])
    handler.rfile.read(length - length // 2)


# Bytes that arrived stay, as in the real one.
HALVES = frozenset({"broken", "full", "restarted"})
ENDINGS: dict[str, Callable[[Handler, str], None]] = {
    "": _accept,
    "broken": _break,
    "unanswered": _break,
    "restarted": _restart,
    "hanging": _hang,
    "full": _refuse_after_half,
}
REFUSALS: dict[str, Callable[[Handler, str], None]] = {
    "busy": lambda handler, _dataset_id: _refuse(handler, 503, "Busy"),
    "under way": lambda handler, _dataset_id: _refuse(handler, 409, "Conflict", detail="Another upload is under way."),
    "elsewhere": _lose_some,
    "too large": lambda handler, _dataset_id: _refuse(handler, 413, "Content too large"),
}


ROUTES = [
    (r"GET /v1/datasets", list_all),
    (r"POST /v1/datasets", create),
    (r"PUT " + CONTENT_PATH, take_part),
    (r"GET /v1/datasets/([^/]+)/preview\.png", preview),
    (r"GET /v1/datasets/([^/]+)", show),
    (r"DELETE /v1/datasets/([^/]+)", delete),
]
