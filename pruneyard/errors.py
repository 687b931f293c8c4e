"""What can go wrong between a client and the service, each with a sentence for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruneyard.answers import Dataset, FieldProblem, Job

UNAUTHORIZED = 401
AWAY = frozenset({502, 503, 504})


class PruneyardError(Exception):
    """Base of all errors this package raises on purpose."""


class BadFile(PruneyardError):
    """What was given as an image is none, or cannot be read here."""


class NotReachable(PruneyardError):
    """Nothing answered at the service's address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"No Pruneyard service answers at {url} ({reason}).\n"
            "Start one with `pruneyard up`, or set PRUNEYARD_URL to where it runs."
        )
        self.url = url


class ApiError(PruneyardError):
    """The service refused a request; `errors` lists the bad fields (RFC 9457 problem details).

    `retry_after` is the header of this name in seconds, where it was sent.
    """

    def __init__(
        self,
        status: int,
        title: str,
        *,
        detail: str = "",
        errors: Sequence[FieldProblem] = (),
        problem: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = list(errors)
        self.problem = problem or {}
        self.retry_after = retry_after
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [f"{self.title} ({self.status})"]
        told = {self.title, *(error.get("message") for error in self.errors)}
        if self.detail and self.detail not in told:
            lines.append(self.detail)
        for error in self.errors:
            pointer = error.get("pointer", "#")
            lines.append("  " + ("" if pointer == "#" else f"{pointer}: ") + error.get("message", ""))
            if error.get("hint"):
                lines.append(f"      {error['hint']}")
        if self.status == UNAUTHORIZED:
            lines.append("Set PRUNEYARD_API_KEY to the key of the service.")
        return "\n".join(lines)


class Away(ApiError):
    """Something answers in the place of a service that is starting anew, or it has no time (502, 503, 504)."""


class JobFailed(PruneyardError):
    """A job that was waited for ended without success; `job` is its last state."""

    def __init__(self, job: Job) -> None:
        self.job = job
        reason = job.get("reason")
        text = f"Job {job['id']} {job['status']}" + (f" ({reason})." if reason else ".")
        message = job.get("message")
        super().__init__(f"{text}\n{message}" if message else text)


class DatasetFailed(PruneyardError):
    """A data set could not be made; `dataset` is its last state, `reason` one word for programs."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.reason = dataset.get("reason")
        named = f"Data set {dataset.get('name', '')} ({dataset.get('id', '')}) failed"
        lines = [f"{named}: {self.reason}." if self.reason else f"{named}."]
        lines += [dataset.get("message") or "", *rejected_lines(dataset)]
        super().__init__("\n".join(line for line in lines if line))


def rejected_lines(dataset: Dataset, *, most: int = 10) -> list[str]:
    """A line for each of the first files that could not be used, and one that counts the others."""
    files = (dataset.get("rejected") or [])[:most]
    lines = [f"  {file.get('path')}: {file.get('message') or file.get('reason')}" for file in files]
    others = (dataset.get("rejected_count") or 0) - len(files)
    return [*lines, f"  and {others:,} more"] if lines and others > 0 else lines


class WaitTimeout(PruneyardError, TimeoutError):
    """What was waited for was not finished in the time given; it goes on."""

    def __init__(self, what: str, seconds: float, *, job_id: str | None) -> None:
        super().__init__(f"{what} was not finished after {seconds:g} s; it goes on.")
        self.job_id = job_id
