"""Files that no row tells of: of what was not entered, or whose row went and whose files stayed.

They come before their row and go after it, so whoever dies in between leaves them behind. What this database has never
known of stays: then it may be another database that the data folder belongs to.
"""

from __future__ import annotations

import contextlib
import json
import time
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select

from formats.manifest import MANIFEST_NAME
from store.artifacts import Artifacts
from store.database import Database
from store.queue import ENDED
from store.tables import JOB_STATUSES, Checkpoint, Dataset, Job, Model

NOT_RUNNING = tuple(status for status in JOB_STATUSES if status != "running")


def remove_orphans(database: Database, artifacts: Artifacts, *, older_than: timedelta) -> list[str]:
    """Removes such files as are older than what takes between them and their row; the ids they were of."""
    # Listed before the rows: what is entered meanwhile is not among these.
    models, others, checkpoints = (
        _old(artifacts.models(), older_than),
        _old([*artifacts.datasets(), *artifacts.of_jobs()], older_than),
        _old(artifacts.of_attempts(), older_than),
    )
    # Before the models: what a job that runs has placed it may be just about to enter.
    jobs, ended = _jobs(database, *NOT_RUNNING), _jobs(database, *ENDED)
    entered, known = _models(database), _checkpoints(database)
    not_ready = _datasets(database, "uploading", "failed")
    without = not_ready | ended - {job_id for job_id, _ in known}
    doomed = {path: path.name for path in models if path.name not in entered and _job_of(path) in jobs}
    doomed |= {path: path.name for path in others if path.name in without}
    # A job that succeeded forgets those that are not to be kept, and may die before it has removed them.
    each = ((path, path.parent.name) for path in checkpoints)
    doomed |= {path: job for path, job in each if job in ended - without and (job, path.name) not in known}
    for path in doomed:
        artifacts.remove(path)
    return list(doomed.values())


def remove_models_of(artifacts: Artifacts, job_id: str) -> None:
    """Removes what earlier attempts at a job placed and did not enter; for a job that runs, and so has no model yet."""
    for path in artifacts.models():
        if _job_of(path) == job_id:
            artifacts.remove(path)


def _models(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(Model.id)))


def _datasets(database: Database, *statuses: str) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(Dataset.id).where(Dataset.status.in_(statuses))))


def _jobs(database: Database, *statuses: str) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(Job.id).where(Job.status.in_(statuses))))


def _checkpoints(database: Database) -> set[tuple[str, str]]:
    """Their jobs and directories."""
    with database.read() as session:
        return {(job, name) for job, name in session.execute(select(Checkpoint.job_id, Checkpoint.directory))}


def _job_of(model: Path) -> str | None:
    """The job that a model says it was made by."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        manifest = json.loads((model / MANIFEST_NAME).read_bytes())
        return str(manifest["lineage"]["job"])
    return None


def _old(paths: list[Path], age: timedelta) -> list[Path]:
    before = time.time() - age.total_seconds()
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                found.append(path)
    return found
