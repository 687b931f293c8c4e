"""All that is known of a job in one zip: what to look at, or to send along, when it failed."""

from __future__ import annotations

import csv
import io
import json
import platform
import sqlite3
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import psutil

from service.job_logs import tail
from service.schemas import JobView, MetricView
from service.views import checkpoint_view, event_view, job_view, metric_view
from specs.cores import physical_cores
from store import queue
from store.artifacts import Artifacts
from store.checkpoints import list_checkpoints
from store.database import Database
from store.events import list_events
from store.metrics import list_metrics

# Enough for the traceback of every attempt.
LOG_BYTES = 1024 * 1024
MOST_EVENTS = 100_000
PACKAGES = (
    "pruneyard",
    "torch",
    "torchvision",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "pillow",
    "sqlalchemy",
)


def bundle(database: Database, artifacts: Artifacts, job_id: str) -> bytes:
    """The zip; NotFound if there is no such job."""
    with database.read() as session:
        view = job_view(session, queue.find_job(session, job_id))
        events = [event_view(row).model_dump(mode="json") for row in list_events(session, job_id, limit=MOST_EVENTS)]
        metrics = [metric_view(row) for row in list_metrics(session, job_id, limit=MOST_EVENTS)]
        checkpoints = [checkpoint_view(row).model_dump(mode="json") for row in list_checkpoints(session, job_id)]
    file = io.BytesIO()
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", _summary(view))
        archive.writestr("job.json", _json(view.model_dump(mode="json", exclude={"spec"})))
        archive.writestr("spec.json", _json(view.spec))
        archive.writestr("events.json", _json(events))
        archive.writestr("metrics.csv", table(metrics))
        archive.writestr("checkpoints.json", _json(checkpoints))
        archive.writestr("environment.json", _json(_environment()))
        archive.writestr("log.txt", tail(artifacts.job_log(job_id), LOG_BYTES))
    return file.getvalue()


def _summary(view: JobView) -> str:
    end = f"{view.status}{f', {view.reason}' if view.reason else ''}"
    lines = [
        f'Job {view.id}, {view.kind} "{view.name}": {end}, at attempt {view.attempt}.',
        view.message or "",
        "",
        "spec.json        what was asked for: the body of POST /v1/jobs that asks for it again, seeds included",
        "metrics.csv      each epoch",
        "events.json      what happened, in order",
        "checkpoints.json where it would go on from",
        "log.txt          the last output of its process; it may name folders of the machine",
        "environment.json versions and machine, of the service",
    ]
    return "\n".join(lines) + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def table(metrics: Sequence[MetricView]) -> str:
    """Epochs as CSV, with a line of names; what is not known is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(MetricView.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in metrics)
    return file.getvalue()


def _environment() -> dict[str, Any]:
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": physical_cores(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
