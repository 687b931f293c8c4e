"""What the process of one job does.

It is given ids only and loads the spec itself. It writes its own end: success, failure or release.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name

import psutil
import structlog

from formats.files import DamagedFiles
from formats.logs import configure_logs
from ingest.errors import IngestError
from nets.errors import (
    AccuracyLost,
    BatchTooSmall,
    CannotCompare,
    CannotCut,
    CheckpointLost,
    DeviceUnavailable,
    Interrupted,
    NonFiniteLoss,
    OtherClasses,
    PrecisionUnavailable,
    PretrainedDamaged,
    PretrainedMismatch,
    PretrainedUnavailable,
    TargetNotReached,
    TooLarge,
    UnknownLayer,
    WrongClassWeights,
    is_out_of_memory,
)
from specs.jobs import parse_job
from specs.settings import Settings
from store import queue, waits
from store.artifacts import Artifacts
from store.checkpoints import list_checkpoints
from store.database import Database
from store.errors import LostClaim, NotFound, StorageFault, StorageFull, StoreBusy
from store.queue import Claim
from store.room import room
from store.tables import Checkpoint
from workers.child import KEEP_MEMORY, NO_ROOM, STOP, STORE_FAILED, Stop
from workers.memory import advice, memory_available
from workers.run import Run, Stopped
from workers.tasks import TASKS

NICENESS = 10

REASONS: dict[type[Exception], str] = {
    TooLarge: "out_of_memory",
    BatchTooSmall: "bad_batch_size",
    WrongClassWeights: "bad_class_weights",
    PrecisionUnavailable: "precision_unavailable",
    PretrainedUnavailable: "pretrained_unavailable",
    PretrainedDamaged: "pretrained_damaged",
    PretrainedMismatch: "pretrained_mismatch",
    OtherClasses: "other_classes",
    UnknownLayer: "unknown_layer",
    CannotCut: "cannot_be_cut",
    CannotCompare: "cannot_be_run",
    TargetNotReached: "target_not_reached",
    AccuracyLost: "target_not_reached",
    CheckpointLost: "no_valid_checkpoint",
    DamagedFiles: "damaged_model",
    StorageFull: "insufficient_storage",
    DeviceUnavailable: "device_unavailable",
    NotFound: "not_found",
}

log = structlog.get_logger()


def main(claim: Claim, words: Connection) -> int:
    """Does a claimed job, and the worker's word; its exit code."""
    os.umask(0o077)  # what this process writes is its user's own
    settings = Settings()
    configure_logs(settings.log_format, settings.log_level)
    structlog.contextvars.bind_contextvars(job=claim.job_id, attempt=claim.attempt)
    stop = Stop()
    threading.Thread(target=_obey, args=(words, stop), name="worker's words", daemon=True).start()
    _give_way()
    _keep_memory_alone()
    database = Database.of(settings)
    try:
        return attempt(Run(settings, database, Artifacts(settings.home, owner=claim.name), claim, stop))
    finally:
        database.close()


def _obey(words: Connection, stop: Stop) -> None:
    """Reads the worker's words; when they end the worker is gone, and so is this process."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            word, _, why = words.recv_bytes().partition(b" ")
            if word == STOP:
                stop.why = why.decode()
                stop.set()
    os._exit(3)


def _keep_memory_alone() -> None:
    """Processes that this one starts have memory as the service has it: a report tells what a model takes there."""
    for name, value in KEEP_MEMORY.items():
        if os.environ.get(name) == value:
            del os.environ[name]


def _give_way() -> None:
    """Lowers the priority of this process: predictions come first, and it is the first to go when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", "ascii")
    process = psutil.Process()
    if sys.platform == "win32":
        process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        process.nice(NICENESS)


def attempt(run: Run) -> int:
    """Does the job and writes how it ended. The exit code of its process: 0, or why it could not write that."""
    try:
        _run(run)
    except LostClaim as error:
        log.warning("this job is somebody else's now", error=str(error))
    except StorageFull as error:
        log.warning("there is no room to write the job's end", error=str(error))
        return NO_ROOM
    except (StoreBusy, StorageFault) as error:
        # The worker counts this as a crash: the job is tried again from its checkpoint.
        log.warning("the database cannot be used", error=str(error))
        return STORE_FAILED
    return 0


def _run(run: Run) -> None:
    try:
        with run.database.read() as session:
            spec = parse_job(queue.find_job(session, run.claim.job_id).spec)
        with room():
            resolve_name(TASKS[spec.kind])(run, spec)
    except (LostClaim, StoreBusy, StorageFault):
        raise
    except Interrupted:
        then = "begins anew" if _newest(run) is None else "goes on from its checkpoint"
        _release(run, f"{run.why_stopped}; the job {then}.")
    except Stopped:
        _release(run, f"{run.why_stopped}; the job begins anew.")
    except Exception as error:
        needed = error.needed if isinstance(error, StorageFull) else None
        if needed is not None:
            log.warning("there is no room on the disk", error=str(error))
            with run.database.write() as session:
                waits.set_aside(session, run.claim, run.artifacts.home, needed=needed)
            return
        log.exception("the job failed")
        reason, message = _explain(run, error)
        with run.database.write() as session:
            queue.fail(session, run.claim, reason=reason, message=message)


def _release(run: Run, message: str) -> None:
    with run.database.write() as session:
        queue.release(session, run.claim, message=message)


def _explain(run: Run, error: Exception) -> tuple[str, str]:
    """One word for programs and a sentence for people."""
    if is_out_of_memory(error):
        with run.database.read() as session:
            return "out_of_memory", advice(queue.foreseen(session, run.claim), memory_available())
    if isinstance(error, NonFiniteLoss):
        return "non_finite_loss", f"{error} {_what_is_left(run)}"
    if isinstance(error, IngestError):
        return error.reason, str(error)
    for kind, reason in REASONS.items():
        if isinstance(error, kind):
            return reason, str(error)
    return "error", f"{type(error).__name__}: {str(error)[:500]}"


def _newest(run: Run) -> Checkpoint | None:
    """The newest checkpoint that is on record, whole or not."""
    with run.database.read() as session:
        return next(iter(list_checkpoints(session, run.claim.job_id)), None)


def _what_is_left(run: Run) -> str:
    """What to do about a training that has diverged, and what there is of it."""
    newest = _newest(run)
    kept = "There is no checkpoint from before."
    if newest is not None:
        kept = f"The last checkpoint from before, after step {newest.step} of epoch {newest.epoch + 1}, is kept."
    return (
        f"{kept} Tried again the job would come to the same end, bit for bit: clone it with a smaller optimizer.lr, a "
        "warmup of its schedule, or gradient_clipping."
    )
