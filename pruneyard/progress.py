"""A job as it runs, on a terminal or as plain lines."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pruneyard.answers import EpochMetrics, Job
from pruneyard.client import Client
from pruneyard.errors import ApiError
from pruneyard.figures import duration, figure, percent

BAR_WIDTH = 32
# All epochs are fetched each time, so a job of very many is looked at less often.
COST_FACTOR = 10


def follow(client: Client, job_id: str, *, console: Console) -> Job:
    """Show a job until it has succeeded and return it; raises JobFailed."""
    with JobDisplay(client, console) as display:
        return client.wait(job_id, display.update)


def headline(job: Job) -> str:
    """Name and state of a job in one line."""
    name = job.get("name") or f"{job['kind']} {job['id']}"
    state = job.get("phase") if job["status"] == "running" else job["status"]
    position = job.get("queue_position")
    place = f", {position} ahead of it" if job["status"] == "queued" and position else ""
    return f"{name}: {state or job['status']}{place}"


def epoch_line(row: EpochMetrics, job: Job) -> str:
    """What one epoch measured, and the time that is left."""
    progress = job.get("progress") or {}
    parts = [
        f"epoch {row.get('epoch', 0):>3}/{progress.get('epochs', '?')}",
        f"loss {figure(row.get('train_loss'), '.4f')}",
        f"train {percent(row.get('train_accuracy'))}",
        f"validation {percent(row.get('validation_accuracy'))}",
        f"{figure(row.get('images_per_second'), ',.0f')} images/s",
        f"ETA {duration(progress.get('eta_seconds'))}",
    ]
    return "  ".join(parts)


class JobDisplay:
    """Shows the states of one job; `update` takes each new one."""

    def __init__(self, client: Client, console: Console) -> None:
        self._client = client
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._rows: list[EpochMetrics] = []
        self._told = 0
        self._head = ""
        self._fetched: tuple[object, ...] = ()
        self._fetch_after = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.__exit__(None, None, None)

    def update(self, job: Job) -> None:
        """Show this state."""
        self._fetch(job)
        if self._live:
            self._live.update(self._picture(job), refresh=True)
        else:
            self._print(job)

    def _fetch(self, job: Job) -> None:
        stage = (job["status"], job.get("phase"))
        state = (*stage, (job.get("progress") or {}).get("epoch"))
        now = time.monotonic()
        if (
            job["status"] == "queued"
            or state == self._fetched
            or (stage == self._fetched[:2] and now < self._fetch_after)
        ):
            return
        with suppress(ApiError):
            self._rows = self._client.metrics(job["id"])
        self._fetched = state
        ended = time.monotonic()
        self._fetch_after = ended + COST_FACTOR * (ended - now)

    def _picture(self, job: Job) -> RenderableType:
        progress = job.get("progress") or {}
        fraction = 1.0 if job["status"] == "succeeded" else progress.get("fraction") or 0.0
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(total=1.0, completed=fraction, width=BAR_WIDTH), Text(f"{fraction:4.0%}"))
        lines: list[RenderableType] = [Text(headline(job), style="bold"), grid]
        if self._rows:
            lines.append(Text(epoch_line(self._rows[-1], job)))
        return Group(*lines)

    def _print(self, job: Job) -> None:
        for row in self._rows[self._told :]:
            self._line("  " + epoch_line(row, job))
        self._told = max(self._told, len(self._rows))
        head = headline(job)
        if head != self._head:
            self._head = head
            self._line(head)

    def _line(self, text: str) -> None:
        self._console.print(Text(text))
