"""What can go wrong between a client and the service, each with a sentence for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruneyard.answers import FieldProblem, Job


class PruneyardError(Exception):
    """Base of all errors this package raises on purpose."""


class NotReachable(PruneyardError):
    """Nothing answered at the service's address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"No Pruneyard service answers at {url} ({reason}).\n"
            "Start one with `pruneyard up`, or set PRUNEYARD_URL to where it runs."
        )
        self.url = url


class ApiError(PruneyardError):
    """The service refused a request; `errors` lists the bad fields (RFC 9457 problem details)."""

    def __init__(
        self,
        status: int,
        title: str,
        *,
        detail: str = "",
        errors: Sequence[FieldProblem] = (),
        problem: dict[str, Any] | None = None,
    ) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = list(errors)
        self.problem = problem or {}
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [f"{self.title} ({self.status})"]
        if self.detail and self.detail != self.title:
            lines.append(self.detail)
        for error in self.errors:
            lines.append(f"  {error.get('pointer', '#')}: {error.get('message', '')}")
            if error.get("hint"):
                lines.append(f"      {error['hint']}")
        return "\n".join(lines)


class JobFailed(PruneyardError):
    """A job that was waited for ended without success; `job` is its last state."""

    def __init__(self, job: Job) -> None:
        self.job = job
        reason = job.get("reason")
        text = f"Job {job['id']} {job['status']}" + (f" ({reason})." if reason else ".")
        message = job.get("message")
        super().__init__(f"{text}\n{message}" if message else text)


class WaitTimeout(PruneyardError, TimeoutError):
    """A job was not finished in the time given; it goes on."""

    def __init__(self, job_id: str, seconds: float) -> None:
        super().__init__(f"Job {job_id} was not finished after {seconds:g} s; it goes on.")
        self.job_id = job_id
