"""The worker's main loop: claim a job, watch over its child process, take note of how it ended.

It is run once for each lane, on a thread of its own: a job of each may run at a time.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal

import structlog

from specs.devices import Finding
from specs.jobs import LANES
from specs.settings import Settings
from store import devices, queue, waits, workers
from store.artifacts import Artifacts
from store.changes import Changes
from store.checkpoints import expire_checkpoints
from store.database import Database, Session
from store.datasets import remove_unneeded_uploads
from store.errors import LostClaim, StoreError
from store.orphans import remove_models_of, remove_orphans
from store.queue import Claim
from store.tables import Job
from workers.child import NO_ROOM, SHUT_DOWN, Child
from workers.devices import ALWAYS, examine_devices
from workers.heartbeat import Heartbeat
from workers.manners import Manners
from workers.memory import advice, free_memory
from workers.sharing import lack_of_room
from workers.starting import PRELOADED, PRELOADED_TO_READ, Starter

IDLE_SECONDS = 0.3
WATCH_SECONDS = 0.1
# What nobody wrote changes too: room on the disk, hours, batteries.
LOOK_SECONDS = 2.0
SWEEP_SECONDS = 2.0
RETRY_SECONDS = 0.5
CLEAN_SECONDS = 3 * 3600.0
# Far more than what takes between files and their row.
ORPHANED = timedelta(hours=1)

log = structlog.get_logger()

Verdict = Literal["go on", "cancel", "pause", "yield", "stop", "stalled", "starved", "ended", "abandon"]
TRAININGS = LANES[0]
# No step is numbered so.
ENDED = -2


@dataclass
class Progress:
    """When a job last made a step, by this process's monotonic clock."""

    step: int = -1
    since: float = 0.0
    # As it was when it was last read.
    job: Job | None = None

    def stalls(self, step: int, seconds: float) -> bool:
        """Whether the job has stood at this step for longer than `seconds`."""
        if step != self.step:
            self.step, self.since = step, time.monotonic()
        return time.monotonic() - self.since > seconds


class Consumer:
    """One worker: runs one job of each lane at a time until `stop` is set."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        artifacts: Artifacts,
        stop: threading.Event,
        manners: Manners | None = None,
        *,
        clean_seconds: float = CLEAN_SECONDS,
    ) -> None:
        self._settings = settings
        self._database = database
        self._artifacts = artifacts
        self._stop = stop
        self._watch = workers.Watch(database, ttl_seconds=settings.worker_ttl_seconds)
        self._examined = threading.Event()
        self._findings: list[Finding] = []
        self._manners = manners or Manners(settings)
        self._clean_seconds = clean_seconds
        self._starter = Starter(keep_seconds=settings.keep_loaded_seconds)

    def run(self) -> None:
        """Works until asked to stop. Taken for dead it gives up what it holds, and works on as another worker."""
        self._watch.sweep()
        self._clean_up()
        sweeping = {"stop": self._stop, "interval_seconds": SWEEP_SECONDS}
        threading.Thread(target=self._watch.keep_sweeping, kwargs=sweeping, daemon=True).start()
        threading.Thread(target=self._keep_clean, daemon=True).start()
        incarnation: str | None = self._register()
        while incarnation is not None and not self._live(incarnation):
            incarnation = self._register_once_there_is_a_database()

    def _live(self, incarnation: str) -> bool:
        """Works as this worker until asked to stop; False if it was taken for dead."""
        heartbeat = Heartbeat(self._database, incarnation, ttl_seconds=self._settings.worker_ttl_seconds)
        heartbeat.start()
        threading.Thread(target=self._enter_devices, args=(incarnation,), daemon=True).start()
        log.info("ready", worker=incarnation)
        try:
            self._consume_lanes(incarnation, heartbeat)
        finally:
            heartbeat.stop()
        if heartbeat.lost.is_set():
            return False
        with self._database.write() as session:
            workers.sign_off(session, incarnation)
        return True

    def _register(self) -> str:
        with self._database.write() as session:
            return workers.register(session, ALWAYS)

    def _register_once_there_is_a_database(self) -> str | None:
        """What kept a worker from beating may last: a full disk, a held lock. None if it is to stop before."""
        while not self._stop.wait(RETRY_SECONDS):
            with contextlib.suppress(StoreError):
                return self._register()
        return None

    def _keep_clean(self) -> None:
        while not self._stop.wait(self._clean_seconds):
            self._clean_up()

    def _clean_up(self) -> None:
        """Removes what is of no use any more; what cannot be removed now is the next time."""
        for remove in (self._remove_leftovers, self._remove_orphans, self._expire_checkpoints, self._remove_uploads):
            with contextlib.suppress(StoreError, OSError):
                remove()

    def _remove_leftovers(self) -> None:
        with self._database.read() as session:
            at_work = queue.running_claims(session)
        self._artifacts.remove_leftovers(but_of=at_work)

    def _remove_orphans(self) -> None:
        for name in remove_orphans(self._database, self._artifacts, older_than=ORPHANED):
            log.info("files that no row tells of removed", of=name)

    def _expire_checkpoints(self) -> None:
        days = timedelta(days=self._settings.keep_checkpoints_days)
        for job_id in expire_checkpoints(self._database, self._artifacts, older_than=days):
            log.info("checkpoints of an ended job removed", job=job_id)

    def _remove_uploads(self) -> None:
        """Removes content that nothing reads any more; StoreError or OSError if it cannot."""
        days = timedelta(days=self._settings.keep_uploads_days)
        for dataset_id in remove_unneeded_uploads(self._database, self._artifacts, older_than=days):
            log.info("content that nothing reads any more removed", dataset=dataset_id)

    def _enter_devices(self, incarnation: str) -> None:
        # In another life of this process they are the same.
        if not self._examined.is_set():
            try:
                self._findings = examine_devices(self._settings)
            finally:
                self._examined.set()
            for finding in self._findings:
                log.info("device", name=finding.name, usable=finding.usable, reason=finding.reason)
        # Without an entry jobs still get their devices; only the list of them is shorter.
        with contextlib.suppress(StoreError), self._database.write() as session:
            workers.set_devices(session, incarnation, self._usable)
            devices.enter_findings(session, incarnation, self._findings)

    @property
    def _usable(self) -> list[str]:
        return [finding.name for finding in self._findings if finding.usable]

    def _consume_lanes(self, incarnation: str, heartbeat: Heartbeat) -> None:
        with ThreadPoolExecutor(len(LANES), thread_name_prefix="lane") as threads:
            lanes = [threads.submit(self._consume, incarnation, heartbeat, kinds) for kinds in LANES]
            # Short waits: on Windows a long one would keep signals waiting too.
            while not wait(lanes, timeout=IDLE_SECONDS, return_when=FIRST_COMPLETED).done:
                self._starter.rest()
            # A lane that cannot go on ends the worker: half of one would look like a whole one. (One that lost its
            # job to others has ended with all other lanes.)
            if not heartbeat.lost.is_set():
                self._stop.set()
        for lane in lanes:
            lane.result()

    def _consume(self, incarnation: str, heartbeat: Heartbeat, kinds: Sequence[str]) -> None:
        # Probes time the CPU too: with a training beside them accelerators would look faster than they are.
        while "ingest" not in kinds and not self._examined.wait(IDLE_SECONDS):
            if self._stop.is_set() or heartbeat.lost.is_set():
                return
        with contextlib.closing(Changes(self._database, at_latest=LOOK_SECONDS)) as changes:
            while not self._stop.is_set() and not heartbeat.lost.is_set():
                claim = self._claim(incarnation, heartbeat, kinds, changes) if changes.any() else None
                if claim is None:
                    self._stop.wait(IDLE_SECONDS)
                else:
                    self._work_at(claim, heartbeat, kinds)

    def _work_at(self, claim: Claim, heartbeat: Heartbeat, kinds: Sequence[str]) -> None:
        self._attend(claim, heartbeat, fork=self._preloaded(kinds), lane=kinds)
        if "ingest" in kinds:
            with contextlib.suppress(StoreError, OSError):
                self._remove_uploads()

    def _claim(self, incarnation: str, heartbeat: Heartbeat, kinds: Sequence[str], changes: Changes) -> Claim | None:
        hold = partial(self._hold, incarnation) if kinds == TRAININGS else None
        home = self._artifacts.home
        try:
            # A worker that waits writes nothing: each time that would wear the disk, and keep others from writing.
            with self._database.read() as session:
                if not workers.has_work(session, incarnation, kinds=kinds, home=home, hold=hold):
                    return None
            with self._database.write() as session:
                if workers.beat(session, incarnation):
                    return workers.claim(session, incarnation, kinds=kinds, home=home, hold=hold)
        except StoreError:
            changes.forget()
            return None
        heartbeat.lost.set()
        return None

    def _hold(self, incarnation: str, session: Session, job: Job | None) -> dict[str, str] | None:
        """Why no training may start now, `job` before others."""
        hold = self._manners.hold()
        if hold is None and job is not None:
            hold = lack_of_room(session, incarnation, job, threads=self._settings.training_threads)
        return None if hold is None else hold.told()

    def _preloaded(self, kinds: Sequence[str]) -> str | None:
        """What the processes of these jobs are forked from."""
        if "ingest" in kinds:
            return PRELOADED_TO_READ
        return PRELOADED if self._usable == ALWAYS else None

    def _attend(self, claim: Claim, heartbeat: Heartbeat, *, fork: str | None, lane: Sequence[str]) -> None:
        log.info("job starts", job=claim.job_id, attempt=claim.attempt)
        # What an earlier attempt left half written when its worker was killed; it may write nothing more.
        self._artifacts.remove_leftovers_of(f"{claim.job_id}-*")
        if claim.attempt > 1:
            # What cannot be removed now is an orphan to the next worker that starts.
            with contextlib.suppress(StoreError, OSError):
                remove_models_of(self._artifacts, claim.job_id)
        child = self._starter.start(claim, self._artifacts.job_log(claim.job_id), fork=fork)
        try:
            verdict = self._watch_over(child, claim, heartbeat, lane)
            if verdict in {"stop", "pause", "yield"}:
                hold = self._manners.hold() if verdict == "yield" else None
                child.ask_to_stop(hold.why if hold else SHUT_DOWN)
                child.wait(self._settings.shutdown_grace_seconds)
        finally:
            # Whatever happened, nothing of this job runs on.
            code, starved = child.code, child.starved
            child.kill()
        # Before the end is written: whoever sees the job ended finds nothing half written either.
        self._artifacts.remove_leftovers_of(claim.name)
        if verdict != "abandon":
            self._settle(claim, "starved" if starved and verdict == "go on" else verdict, code, heartbeat)

    def _watch_over(self, child: Child, claim: Claim, heartbeat: Heartbeat, lane: Sequence[str]) -> Verdict:
        progress = Progress(since=time.monotonic())
        with contextlib.closing(Changes(self._database, at_latest=LOOK_SECONDS)) as changes:
            while child.wait(WATCH_SECONDS) is None:
                if heartbeat.lost.is_set():
                    return "abandon"
                if self._stop.is_set():
                    return "stop"
                if lane == TRAININGS and self._manners.hold() is not None:
                    return "yield"
                verdict = self._look(claim, progress, changes)
                if verdict != "go on":
                    return verdict
        # Before it could turn a deaf ear to what the whole system is told.
        return "stop" if self._stop.is_set() and child.code == -signal.SIGTERM else "go on"

    def _look(self, claim: Claim, progress: Progress, changes: Changes) -> Verdict:
        try:
            if changes.any() or progress.job is None:
                with self._database.read() as session:
                    progress.job = queue.find_job(session, claim.job_id)
        except StoreError:
            changes.forget()
            return "go on"
        job = progress.job
        if job.attempt != claim.attempt:
            return "abandon"
        if job.status != "running":
            # Its child is just about to end, having written the job's end itself; one that does not is not waited for.
            return "ended" if progress.stalls(ENDED, self._settings.shutdown_grace_seconds) else "go on"
        if job.cancel_requested:
            return "cancel"
        if job.pause_requested:
            return "pause"
        return "stalled" if progress.stalls(job.step, self._settings.stall_seconds) else "go on"

    def _settle(self, claim: Claim, verdict: Verdict, code: int | None, heartbeat: Heartbeat) -> None:
        """Writes the job's end unless the child has done so; tries until it can, or others have taken the job."""
        while not heartbeat.lost.is_set():
            try:
                self._write_end(claim, verdict, code)
            except LostClaim:
                log.info("job ended", job=claim.job_id, attempt=claim.attempt, verdict=verdict, code=code)
                return
            except StoreError as error:
                log.warning("the end of a job cannot be written yet", job=claim.job_id, error=str(error))
                time.sleep(RETRY_SECONDS)
            else:
                log.warning("job stopped", job=claim.job_id, attempt=claim.attempt, verdict=verdict, code=code)
                return

    def _write_end(self, claim: Claim, verdict: Verdict, code: int | None) -> None:
        with self._database.write() as session:
            if verdict == "cancel":
                queue.cancelled(session, claim)
            elif verdict == "stalled":
                message = f"The job made no step for {self._settings.stall_seconds:g} seconds and was stopped."
                queue.fail(session, claim, reason="stalled", message=message)
            elif verdict == "starved":
                told = advice(queue.foreseen(session, claim), free_memory())
                message = f"The system killed its process for want of memory. {told}"
                queue.fail(session, claim, reason="out_of_memory", message=message)
            elif verdict == "yield":
                queue.release(session, claim, message="The job stepped aside; it goes on from its checkpoint.")
            elif verdict in {"stop", "pause"}:
                queue.release(session, claim, message="The worker was shut down; the job goes on from its checkpoint.")
            elif code == NO_ROOM:
                waits.set_aside(session, claim, self._artifacts.home, needed=0)
            else:
                queue.crashed(session, claim, message=_how_it_died(code))


def _how_it_died(code: int | None) -> str:
    if code is not None and code < 0:
        # Of those for real-time programs only two have a name.
        name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
        often = " (often for want of memory)" if name == "SIGKILL" else ""
        return f"Its process was killed by {name}{often}."
    return f"Its process ended with code {code} and no result."
