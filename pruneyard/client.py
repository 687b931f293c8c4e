"""A client of one Pruneyard service."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote

from pruneyard.answers import Alias, AliasMove, Dataset, EpochMetrics, Event, FamilyPredictions, Job, Model, Predictions
from pruneyard.connection import Connection, checked
from pruneyard.errors import Away, DatasetFailed, JobFailed, NotReachable, PruneyardError, WaitTimeout
from pruneyard.events import FINISHED, EventStream
from pruneyard.images import Image, image_part
from pruneyard.packing import Archive, pack
from pruneyard.upload import OnProgress, Upload

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 0.5
OUTAGE_SECONDS = 60.0

T = TypeVar("T")
Uploadable = str | PathLike[str] | Archive


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

    def submit(
        self,
        spec: Mapping[str, Any],
        idempotency_key: str | None = None,
        *,
        dry_run: bool = False,
        priority: int = 0,
    ) -> Job:
        """Ask for a job; the same `idempotency_key` never makes a second one.

        With `dry_run` it is a job that makes no model: its result tells what the asked one would take, or cost. Waiting
        jobs of a higher `priority` go first.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), "Content-Type": "application/json"}
        asked = {"dry_run": "true"} if dry_run else {}
        asked |= {"priority": str(priority)} if priority else {}
        options: dict[str, Any] = {"headers": headers, "params": asked, "content": _json(spec, "job")}
        return cast(Job, self._connection.request("POST", "/v1/jobs", repeat=True, **options))

    def train(self, **spec: Any) -> Job:
        """Ask for a training; at least `dataset` and `architecture`."""
        return self.submit({"kind": "train", **spec})

    def prune(self, model: str, **spec: Any) -> Job:
        """Ask for a pruned copy of a model (id, alias or name)."""
        return self.submit({"kind": "prune", "model": model, **spec})

    def distill(self, teacher: str, **spec: Any) -> Job:
        """Ask for a network that learns from a model (id, alias or name)."""
        return self.submit({"kind": "distill", "teacher": teacher, **spec})

    def quantize(self, model: str, **spec: Any) -> Job:
        """Ask for a copy of a model (id, alias or name) that computes with 8-bit integers."""
        return self.submit({"kind": "quantize", "model": model, **spec})

    def job(self, job_id: str) -> Job:
        """A job as it stands."""
        return cast(Job, self._connection.get(_path("jobs", job_id)))

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """All jobs, fetched page by page; `limit` is the size of a page."""
        return self._connection.items("/v1/jobs", **filters)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; once more does no harm."""
        return self._ask_of_job(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Set a job aside: a running one writes a checkpoint and leaves its worker to others."""
        return self._ask_of_job(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on from its checkpoint."""
        return self._ask_of_job(job_id, "resume")

    def retry(self, job_id: str) -> Job:
        """Try a job that failed or was cancelled again, from its checkpoints as long as they are kept."""
        return self._ask_of_job(job_id, "retry")

    def clone(self, job_id: str, idempotency_key: str | None = None, *, priority: int = 0, **changes: Any) -> Job:
        """Ask for a job's spec once more, with these fields instead of its own."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), "Content-Type": "application/json"}
        asked = {"priority": str(priority)} if priority else {}
        options: dict[str, Any] = {"headers": headers, "params": asked, "content": _json(changes, "job")}
        return cast(Job, self._connection.request("POST", _path("jobs", job_id, "clone"), repeat=True, **options))

    def _ask_of_job(self, job_id: str, what: str) -> Job:
        return cast(Job, self._connection.request("POST", _path("jobs", job_id, what), repeat=True))

    def bundle(self, job_id: str) -> bytes:
        """A zip of all that is known of a job: spec, curves, events, versions, the end of its log."""
        return checked(self._connection.send("GET", _path("jobs", job_id, "bundle"), repeat=True)).content

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
        for job in self._states(lambda: self.job(job_id), timeout):
            if on_update is not None:
                on_update(job)
            if job["status"] == "succeeded":
                return job
            if job["status"] in FINISHED:
                raise JobFailed(job)
        raise WaitTimeout(f"Job {job_id}", timeout or 0.0, job_id=job_id)

    def models(self, **filters: Any) -> Iterator[Model]:
        """All models, fetched page by page."""
        return self._connection.items("/v1/models", **filters)

    def model(self, ref: str) -> Model:
        """A model by id, alias or name."""
        return cast(Model, self._connection.get(_path("models", ref)))

    def delete_model(self, ref: str) -> None:
        """Delete a model."""
        self._connection.request("DELETE", _path("models", ref), repeat=False)

    def aliases(self) -> list[Alias]:
        """All aliases by name."""
        return list(self._connection.items("/v1/aliases"))

    def alias(self, alias: str) -> Alias:
        """Where an alias points."""
        return cast(Alias, self._connection.get(_path("aliases", alias)))

    def set_alias(self, alias: str, model: str) -> Alias:
        """Let an alias name this model from now on."""
        answer = self._connection.request("PUT", _path("aliases", alias), repeat=True, json={"model": model})
        return cast(Alias, answer)

    def roll_back_alias(self, alias: str) -> Alias:
        """Let an alias name the model that it named before; once more goes further back."""
        return cast(Alias, self._connection.request("POST", _path("aliases", alias, "rollback"), repeat=False))

    def alias_history(self, alias: str, **filters: Any) -> Iterator[AliasMove]:
        """Where an alias pointed since when, the newest first, fetched page by page."""
        return self._connection.items(_path("aliases", alias, "history"), **filters)

    def predict(
        self,
        ref: str,
        images: Image | Sequence[Image],
        *,
        top_k: int = 5,
        threshold: float | None = None,
        coverage: float | None = None,
    ) -> Predictions:
        """Classify one image (a path or bytes) or several in one request.

        With `threshold` only classes that are so probable are named, and the best one; with `coverage` each
        prediction has a `label_set` that holds the right label so often.
        """
        asked = {"top_k": top_k, "threshold": threshold, "coverage": coverage}
        return cast(Predictions, self._ask(_path("models", ref, "predict"), images, **asked))

    def predict_family(
        self,
        family: str,
        images: Image | Sequence[Image],
        *,
        latency_budget_ms: float | None = None,
        min_accuracy: float | None = None,
        top_k: int = 5,
        **asked: Any,
    ) -> FamilyPredictions:
        """Classify by the model of a family (`fam_...`) that fits best; `chosen` of the answer says which.

        The most accurate whose one image takes at most `latency_budget_ms`; with `min_accuracy` (0 to 1, on validation
        images) alone the fastest that reaches it. ApiError with status 422 when none fits: `problem["nearest"]`.
        `threshold` and `coverage` are as for `predict`.
        """
        wishes = {"latency_budget_ms": latency_budget_ms, "min_accuracy": min_accuracy, "top_k": top_k}
        return cast(FamilyPredictions, self._ask(_path("families", family, "predict"), images, **wishes, **asked))

    def _ask(self, path: str, images: Image | Sequence[Image], **asked: float | None) -> Any:
        body = _several(images) if isinstance(images, list | tuple) else _one(cast(Image, images))
        params = {name: value for name, value in asked.items() if value is not None}
        return self._connection.request("POST", path, repeat=True, params=params, **body)

    def datasets(self, **filters: Any) -> Iterator[Dataset]:
        """All data sets, fetched page by page; `limit` is the size of a page."""
        return self._connection.items("/v1/datasets", **filters)

    def dataset(self, ref: str) -> Dataset:
        """A data set by id, or the newest of a name: a ready one before any other."""
        return cast(Dataset, self._connection.get(_path("datasets", ref)))

    def create_dataset(
        self, name: str, *, source: Mapping[str, Any] | None = None, max_rejected: float | None = None
    ) -> Dataset:
        """Make a data set, or the next version of its name.

        `source` is `{"kind": "upload"}`, the default, whose content `upload` sends; `{"kind": "folder", "path": ...}`
        on the service's machine; or `{"kind": "torchvision", "name": ...}`. `max_rejected` is the share of files,
        from 0 to 1, that may be unusable.
        """
        body: dict[str, Any] = {"name": name, "source": dict(source or {"kind": "upload"})}
        if max_rejected is not None:
            body["max_rejected"] = max_rejected
        headers = {"Content-Type": "application/json"}
        answer = self._connection.request(
            "POST", "/v1/datasets", repeat=False, headers=headers, content=_json(body, "data set")
        )
        return cast(Dataset, answer)

    def upload(self, dataset_id: str, path: Uploadable, on_progress: OnProgress | None = None) -> Dataset:
        """Send the content of a data set: a zip, tar, tar.gz or tar.zst file, or a folder.

        An upload that broke off, also of another process, goes on where it stopped if the files are the same.
        `on_progress` is called with bytes sent and bytes in all. Connections that break and a service that is
        away for less than a minute are borne. The data set is returned as soon as all has arrived, before it is
        read; raises DatasetFailed, PruneyardError for files that cannot be read or changed meanwhile.
        """
        archive = path if isinstance(path, Archive) else pack(path)
        return Upload(self._connection, _path("datasets", dataset_id), archive, on_progress=on_progress).run()

    def add_dataset(
        self, name: str, path: Uploadable, *, max_rejected: float | None = None, on_progress: OnProgress | None = None
    ) -> Dataset:
        """Make a data set of a file or a folder and send it; `wait_dataset` waits until it is read.

        An error while it is sent has a note with the id, for which `upload` goes on.
        """
        archive = path if isinstance(path, Archive) else pack(path)
        dataset = self.create_dataset(name, max_rejected=max_rejected)
        try:
            return self.upload(dataset["id"], archive, on_progress)
        except PruneyardError as error:
            error.add_note(f"`Client.upload({dataset['id']!r}, path)` goes on with this upload.")
            raise

    def wait_dataset(
        self, ref: str, on_update: Callable[[Dataset], object] | None = None, timeout: float | None = None
    ) -> Dataset:
        """The data set once it is ready; `on_update` is called with each state seen, twice a second.

        Raises DatasetFailed, and WaitTimeout after `timeout` seconds. A service that is away for less than
        a minute is waited for.
        """
        last: Dataset | None = None
        for last in self._states(lambda: self.dataset(ref), timeout):
            if on_update is not None:
                on_update(last)
            if last["status"] == "ready":
                return last
            if last["status"] == "failed":
                raise DatasetFailed(last)
        raise WaitTimeout(f"Data set {ref}", timeout or 0.0, job_id=last.get("job") if last else None)

    def delete_dataset(self, ref: str, force: bool = False) -> None:
        """Delete a data set; with `force` also one that models were trained on."""
        params = {"force": "true"} if force else {}
        self._connection.request("DELETE", _path("datasets", ref), repeat=False, params=params)

    def preview(self, ref: str) -> bytes:
        """A PNG with some images of each class."""
        return checked(self._connection.send("GET", _path("datasets", ref, "preview.png"), repeat=True)).content

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

    def _states(self, ask: Callable[[], T], timeout: float | None) -> Iterator[T]:
        """What is answered, twice a second, until `timeout` seconds are over."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        seen = time.monotonic()
        while True:
            try:
                yield ask()
                seen = time.monotonic()
            except (NotReachable, Away):
                if time.monotonic() - seen > OUTAGE_SECONDS:
                    raise
            if time.monotonic() > end:
                return
            time.sleep(POLL_SECONDS)


def _path(*parts: str) -> str:
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def _json(spec: Mapping[str, Any], what: str) -> bytes:
    try:
        return json.dumps(dict(spec), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise PruneyardError(f"The {what} cannot be written as JSON: {error}.") from error


def _one(image: Image) -> dict[str, Any]:
    _, content, media_type = image_part(image)
    return {"content": content, "headers": {"Content-Type": media_type}}


def _several(images: Sequence[Image]) -> dict[str, Any]:
    return {"files": [("images", image_part(image)) for image in images]}
