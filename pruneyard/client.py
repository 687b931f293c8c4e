"""A client of one Pruneyard service."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, cast
from urllib.parse import quote

from pruneyard.answers import Dataset, EpochMetrics, Event, Job, Model, Predictions
from pruneyard.connection import Connection
from pruneyard.errors import JobFailed, NotReachable, PruneyardError, WaitTimeout
from pruneyard.events import FINISHED, EventStream
from pruneyard.images import Image, image_part

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 0.5
OUTAGE_SECONDS = 60.0


class Client:
    """Speaks to the service at `url` (default PRUNEYARD_URL, then http://127.0.0.1:8000).

    `api_key` defaults to PRUNEYARD_API_KEY; `timeout` is in seconds, for each request. Every method
    raises ApiError when the service refuses and NotReachable when it does not answer.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, timeout: float = 30.0) -> None:
        self._connection = Connection(
            url or os.environ.get("PRUNEYARD_URL") or DEFAULT_URL,
            api_key=api_key or os.environ.get("PRUNEYARD_API_KEY"),
            timeout=timeout,
        )

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def submit(self, spec: Mapping[str, Any], idempotency_key: str | None = None) -> Job:
        """Ask for a job; the same `idempotency_key` never makes a second one."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), "Content-Type": "application/json"}
        content = _json(spec)
        return cast(Job, self._connection.request("POST", "/v1/jobs", repeat=True, headers=headers, content=content))

    def train(self, **spec: Any) -> Job:
        """Ask for a training; at least `dataset` and `architecture`."""
        return self.submit({"kind": "train", **spec})

    def prune(self, model: str, **spec: Any) -> Job:
        """Ask for a pruned copy of a model (id, alias or name)."""
        return self.submit({"kind": "prune", "model": model, **spec})

    def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return cast(Job, self._connection.get(_path("jobs", job_id)))

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """All jobs, fetched page by page; `limit` is the size of a page."""
        return self._connection.items("/v1/jobs", **filters)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; once more does no harm."""
        return cast(Job, self._connection.request("POST", _path("jobs", job_id, "cancel"), repeat=True))

    def metrics(self, job_id: str) -> list[EpochMetrics]:
        """What each finished epoch of a job measured."""
        return list(self._connection.items(_path("jobs", job_id, "metrics")))

    def events(self, job_id: str) -> Iterator[Event]:
        """A job's events until it ends; a broken stream is taken up where it broke."""
        return iter(EventStream(self._connection, _path("jobs", job_id, "events"), job=lambda: self.job(job_id)))

    def wait(
        self, job_id: str, on_update: Callable[[Job], object] | None = None, *, timeout: float | None = None
    ) -> Job:
        """The job once it has succeeded; `on_update` is called with each state seen, twice a second.

        Raises JobFailed when it failed or was cancelled, WaitTimeout after `timeout` seconds.
        A service that is away for less than a minute is waited for.
        """
        end = None if timeout is None else time.monotonic() + timeout
        for job in self._states(job_id):
            if on_update is not None:
                on_update(job)
            if job["status"] == "succeeded":
                return job
            if job["status"] in FINISHED:
                raise JobFailed(job)
            if end is not None and time.monotonic() > end:
                break
        raise WaitTimeout(job_id, timeout or 0.0)

    def models(self, **filters: Any) -> Iterator[Model]:
        """All models, fetched page by page."""
        return self._connection.items("/v1/models", **filters)

    def model(self, ref: str) -> Model:
        """A model by id, alias or name."""
        return cast(Model, self._connection.get(_path("models", ref)))

    def delete_model(self, ref: str) -> None:
        """Delete a model."""
        self._connection.request("DELETE", _path("models", ref), repeat=False)

    def set_alias(self, alias: str, model: str) -> dict[str, Any]:
        """Let an alias name this model from now on."""
        answer = self._connection.request("PUT", _path("aliases", alias), repeat=True, json={"model": model})
        return cast(dict[str, Any], answer or {})

    def predict(self, ref: str, images: Image | Sequence[Image], *, top_k: int = 5) -> Predictions:
        """Classify one image (a path or bytes) or several in one request."""
        body = _several(images) if isinstance(images, list | tuple) else _one(cast(Image, images))
        options = {"params": {"top_k": top_k}, **body}
        return cast(
            Predictions, self._connection.request("POST", _path("models", ref, "predict"), repeat=True, **options)
        )

    def datasets(self) -> Iterator[Dataset]:
        """All data sets, fetched page by page."""
        return self._connection.items("/v1/datasets")

    def dataset_images(self, ref: str, *, split: str = "test") -> Iterator[dict[str, Any]]:
        """Images of a split, fetched page by page: `index`, `label` and `png` (base64)."""
        return self._connection.items(_path("datasets", ref, "images"), split=split)

    def catalogue(self, kind: str, name: str | None = None) -> Any:
        """What can be asked for: `kind` is architectures, optimizers, schedules, pruning-methods, ..."""
        return self._connection.get(_path(kind, name) if name else _path(kind))

    def health(self) -> dict[str, Any]:
        """Whether the service is `ready`, and what it says about its parts."""
        response = self._connection.send("GET", "/readyz", repeat=False)
        is_json = response.headers.get("Content-Type", "").partition(";")[0].endswith("json")
        body = response.json() if is_json else {}
        return {**(body if isinstance(body, dict) else {}), "ready": response.status_code == 200}

    def _states(self, job_id: str) -> Iterator[Job]:
        seen = time.monotonic()
        while True:
            try:
                yield self.job(job_id)
                seen = time.monotonic()
            except NotReachable:
                if time.monotonic() - seen > OUTAGE_SECONDS:
                    raise
            time.sleep(POLL_SECONDS)


def _path(*parts: str) -> str:
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def _json(spec: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(spec), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise PruneyardError(f"The job cannot be written as JSON: {error}.") from error


def _one(image: Image) -> dict[str, Any]:
    _, content, media_type = image_part(image)
    return {"content": content, "headers": {"Content-Type": media_type}}


def _several(images: Sequence[Image]) -> dict[str, Any]:
    return {"files": [("images", image_part(image)) for image in images]}
