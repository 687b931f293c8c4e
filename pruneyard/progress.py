"""A job or an upload as it runs, on a terminal or as plain lines."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pruneyard.answers import EpochMetrics, Job
from pruneyard.client import Client
from pruneyard.errors import ApiError, NotReachable
from pruneyard.figures import duration, figure, percent, size

BAR_WIDTH = 32
# All epochs are fetched each time, so a job of very many is looked at less often.
COST_FACTOR = 10
# Kinds of jobs that have no epochs.
READING = frozenset({"ingest"})
TENTHS = 10


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
    waiting = job.get("waits_for")
    # How many go first is said already.
    why = f". {waiting['message']}" if waiting and not place else ""
    return f"{name}: {state or job['status']}{place}{why}"


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


# What a job counts where that is no epochs.
COUNTED = {"quantize": "images", "quote": "layers"}


def files_line(job: Job) -> str:
    """How many files of a data set are read or decoded, or what else is counted; empty where a job does neither."""
    progress = job.get("progress") or {}
    done, total = progress.get("done"), progress.get("total")
    if job["status"] != "running" or done is None:
        return ""
    # How many an archive holds is known at its end only.
    if not total:
        return f"{done:,} {'file' if done == 1 else 'files'}"
    counted = COUNTED.get(job["kind"], "files")
    return f"{done:,} of {total:,} {counted}  ETA {duration(progress.get('eta_seconds'))}"


class JobDisplay:
    """Shows the states of one job; `update` takes each new one."""

    def __init__(self, client: Client, console: Console) -> None:
        self._client = client
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._rows: list[EpochMetrics] = []
        self._told = 0
        self._head = ""
        self._step = 0
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
            or job["kind"] in READING
            or state == self._fetched
            or (stage == self._fetched[:2] and now < self._fetch_after)
        ):
            return
        with suppress(ApiError, NotReachable):
            self._rows = self._client.metrics(job["id"])
        self._fetched = state
        ended = time.monotonic()
        self._fetch_after = ended + COST_FACTOR * (ended - now)

    def _picture(self, job: Job) -> RenderableType:
        lines: list[RenderableType] = [Text(headline(job), style="bold"), _bar(job)]
        detail = files_line(job) or (epoch_line(self._rows[-1], job) if self._rows else "")
        return Group(*lines, Text(detail)) if detail else Group(*lines)

    def _print(self, job: Job) -> None:
        for row in self._rows[self._told :]:
            self._line("  " + epoch_line(row, job))
        self._told = max(self._told, len(self._rows))
        head = headline(job)
        if head != self._head:
            self._head = head
            self._line(head)
            self._step = 0
        if line := files_line(job):
            self._print_files(job, line)

    def _print_files(self, job: Job, line: str) -> None:
        """A line for each tenth, or, where the end is not known, each time there are twice as many."""
        progress = job.get("progress") or {}
        if progress.get("total"):
            step = int(TENTHS * (progress.get("fraction") or 0.0))
        else:
            step = (progress.get("done") or 0).bit_length()
        if step > self._step:
            self._step = step
            self._line("  " + line)

    def _line(self, text: str) -> None:
        self._console.print(Text(text))


def _bar(job: Job) -> RenderableType:
    progress = job.get("progress") or {}
    fraction = 1.0 if job["status"] == "succeeded" else progress.get("fraction") or 0.0
    grid = Table.grid(padding=(0, 1))
    if files_line(job) and not progress.get("total"):
        grid.add_row(ProgressBar(pulse=True, width=BAR_WIDTH))
    else:
        grid.add_row(ProgressBar(total=1.0, completed=fraction, width=BAR_WIDTH), Text(f"{fraction:4.0%}"))
    return grid


class UploadDisplay:
    """Shows how much of an upload of `total` bytes is sent; `update` takes each new count."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._task: TaskID | None = None
        self._tenth = 0
        self._bar = _upload_bar(console) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.__exit__(None, None, None)

    def update(self, sent: int, total: int) -> None:
        """Show that so many bytes are sent."""
        if self._bar is None:
            self._print(sent)
        elif self._task is None:
            # What an earlier upload sent says nothing about the speed of this one.
            self._task = self._bar.add_task("sending", total=total, completed=sent)
        else:
            self._bar.update(self._task, completed=sent)

    def _print(self, sent: int) -> None:
        tenth = TENTHS * sent // max(self._total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            line = f"sent {size(sent)} of {size(self._total)} ({sent / self._total:.0%})"
            self._console.print(Text(line))


def _upload_bar(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR_WIDTH - 8),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
    )
