"""One attempt at one job, as its task sees it: reports progress, keeps checkpoints, may be asked to stop.

All writes are fenced by the claim: once the job is no longer ours they raise LostClaim.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specs.settings import Settings
from store import metrics, queue
from store.artifacts import Artifacts
from store.checkpoints import Checkpoints
from store.database import Database
from store.errors import StorageFault, StorageFull, StoreBusy
from store.queue import Claim
from workers.cadence import Cadence
from workers.child import SHUT_DOWN, Stop
from workers.rests import Rests

if TYPE_CHECKING:
    from nets.observer import EpochRow

REPORT_SECONDS = 0.5


class Stopped(Exception):
    """The job was asked to stop where it has nothing to keep: another attempt begins anew."""


class Run:
    """What a task is given. It is the observer of a training too (nets.observer)."""

    def __init__(
        self, settings: Settings, database: Database, artifacts: Artifacts, claim: Claim, stop: threading.Event
    ) -> None:
        self.settings = settings
        self.database = database
        self.artifacts = artifacts
        self.claim = claim
        self.checkpoints = Checkpoints(database, artifacts, claim)
        self._stop = stop
        self._cadence = Cadence(settings.checkpoint_seconds)
        self._rests = Rests(artifacts.home)
        self._phase = "starting"
        self._steps = 0
        self._reported_at = 0.0
        self._began: tuple[float, float] | None = None
        self._progress: dict[str, Any] | None = None

    def enter(self, phase: str) -> None:
        """Says what the job does from now on. That is a step: each phase has its own time to make one."""
        self._phase = phase
        self._steps += 1
        self._report()

    def on_step(self, *, epoch: int, epochs: int, fraction: float) -> None:
        """Called after each training step; `fraction` is of the whole training."""
        self._advance({"epoch": epoch, "epochs": epochs}, fraction)
        self._rests.take()

    def on_work(self) -> None:
        """Called as work goes on, also such of which no progress is told: images are answered, a download grows."""
        self._steps += 1
        if time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self._report()

    def on_files(self, phase: str, done: int, total: int | None) -> None:
        """Called as a data set is read or decoded, with what is done of the total; raises Stopped on request."""
        if self._stop.is_set():
            raise Stopped
        if phase != self._phase:
            self._began, self._progress = None, None
            self.enter(phase)
        # Of a stream whose end is not in sight only what is done can be told.
        self._advance({"done": done, "total": total}, min(1.0, done / total) if total else 0.0)

    def _advance(self, counts: dict[str, int | None], fraction: float) -> None:
        clock = time.monotonic()
        if self._began is None:
            self._began = (clock, fraction)
        self._progress = {**counts, "fraction": round(fraction, 4), "eta_seconds": self._eta(clock, fraction)}
        self.on_work()

    def on_epoch(self, row: EpochRow) -> None:
        """Called after each epoch."""
        values = asdict(row)
        epoch = values.pop("epoch")
        with self.database.write() as session:
            metrics.record_epoch(session, self.claim, epoch, values)

    def on_notice(self, message: str) -> None:
        """Adds an event that says so."""
        with self.database.write() as session:
            queue.notice(session, self.claim, message=message)

    def remember(self, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `find` answers, or answered an earlier attempt at this job; it stands among the job's events."""
        with self.database.read() as session:
            found = queue.found_out(session, self.claim)
        if found is None:
            found = find()
            with self.database.write() as session:
                queue.find_out(session, self.claim, found)
        return found

    def stop_requested(self) -> bool:
        """Whether the training is to write a checkpoint and end."""
        return self._stop.is_set()

    def checkpoint_due(self) -> bool:
        """Whether the training is to write a checkpoint and go on."""
        return self._cadence.due()

    @property
    def why_stopped(self) -> str:
        """The beginning of a sentence that says why it was asked to stop."""
        return self._stop.why if isinstance(self._stop, Stop) else SHUT_DOWN

    def save_checkpoint(self, write: Callable[[Path], None], *, epoch: int, step: int, best: bool) -> None:
        """Keeps what `write` puts into the directory it is given."""
        with self._cadence.saving():
            self.checkpoints.save(write, epoch=epoch, step=step, best=best)

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint to go on from."""
        return self.checkpoints.newest()

    def best_checkpoint(self) -> Path | None:
        """The checkpoint of the best epoch so far."""
        return self.checkpoints.best()

    def _eta(self, clock: float, fraction: float) -> float | None:
        began, done_before = self._began or (clock, fraction)
        done = fraction - done_before
        return round((clock - began) / done * (1 - fraction), 1) if done > 0 else None

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        # A report that cannot be written now is overtaken by the next one.
        with contextlib.suppress(StoreBusy, StorageFull, StorageFault), self.database.write() as session:
            queue.report(session, self.claim, phase=self._phase, step=self._steps, progress=self._progress)
