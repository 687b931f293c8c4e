"""Checkpoints of running jobs: which directories are complete, which one to go on from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from formats.files import DamagedFiles, FileRecord, record_files, verify_files
from store.artifacts import Artifacts
from store.database import Database
from store.errors import StorageFull
from store.events import record
from store.queue import Claim, held
from store.room import RESERVE_BYTES, bytes_in, free_bytes
from store.tables import Checkpoint, Job, now

MANIFEST_NAME = "manifest.json"
RECORDS = TypeAdapter(dict[str, FileRecord])
NEWEST_KEPT = 2


class Checkpoints:
    """The checkpoints of one claimed job; those after whole epochs in `kept` are not removed.

    Those after epochs in `needed` are there until the job has succeeded.
    """

    def __init__(self, database: Database, artifacts: Artifacts, claim: Claim) -> None:
        self._database = database
        self._artifacts = artifacts
        self._claim = claim
        self.kept: frozenset[int] = frozenset()
        self.needed: frozenset[int] = frozenset()

    def save(self, write: Callable[[Path], None], *, epoch: int, step: int, best: bool) -> None:
        """Has `write` fill a directory, makes it durable, then points the database at it; old ones are removed.

        `epoch` counts whole epochs, `step` the steps done of the next.
        """
        name = f"{epoch}-{step}-{self._claim.attempt}"
        target = self._artifacts.checkpoint(self._claim.job_id, name)
        self._artifacts.remove(target)
        self._check_room()
        with self._artifacts.new_directory(target) as directory:
            write(directory)
            records = RECORDS.dump_json(record_files(directory, leave_out=MANIFEST_NAME), indent=1)
            (directory / MANIFEST_NAME).write_bytes(records)
        with self._database.write() as session:
            held(session, self._claim)
            row = Checkpoint(
                job_id=self._claim.job_id,
                directory=name,
                attempt=self._claim.attempt,
                epoch=epoch,
                step=step,
                best=best,
            )
            _replace(session, row)
            kept = _keep(session, self._claim.job_id, self.kept | self.needed)
        for path in self._directories():
            # Those that no row tells of were written by attempts that then could not say so.
            if path.name not in kept:
                self._artifacts.remove(path)

    def _check_room(self) -> None:
        """The next one takes as much as the largest so far; the reserve stays free, so that its end can be told."""
        needed = max((bytes_in(path) for path in self._directories()), default=0)
        if needed and free_bytes(self._artifacts.home) < needed + RESERVE_BYTES:
            raise StorageFull(f"A checkpoint takes {needed:,} bytes, and there is no room for it.", needed=needed)

    def _directories(self) -> list[Path]:
        """The checkpoints that are there whole, whoever knows of them."""
        return list(self._artifacts.checkpoints(self._claim.job_id).glob("[!.]*"))

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole; damaged ones are passed over, with an event."""
        return self._first_whole(best_only=False)

    def best(self) -> Path | None:
        """The newest checkpoint that was the best when it was written, if it is whole."""
        return self._first_whole(best_only=True)

    def _first_whole(self, *, best_only: bool) -> Path | None:
        with self._database.read() as session:
            rows = list_checkpoints(session, self._claim.job_id)
        for row in rows:
            path = self._artifacts.checkpoint(self._claim.job_id, row.directory)
            if best_only and not row.best:
                continue
            if _is_whole(path):
                return path
            self._warn_of(row)
        return None

    def finish(self, session: Session) -> list[Path]:
        """Forgets all but what is to be kept, in the transaction that ends the job; what can be removed after it."""
        rows = list_checkpoints(session, self._claim.job_id)
        kept = {row.directory for row in rows if _is_after(row, self.kept)}
        for row in rows:
            if row.directory not in kept:
                session.delete(row)
        if not kept:
            return [self._artifacts.checkpoints(self._claim.job_id)]
        return [path for path in self._directories() if path.name not in kept]

    def _warn_of(self, row: Checkpoint) -> None:
        with self._database.write() as session:
            held(session, self._claim)
            message = "A checkpoint is damaged and was passed over."
            record(session, row.job_id, "warning", {"message": message, "checkpoint": row.directory})


def list_checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """Checkpoints of a job, newest first."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.number.desc())
    return list(session.scalars(query))


def expire_checkpoints(database: Database, artifacts: Artifacts, *, older_than: timedelta) -> list[str]:
    """Removes the checkpoints of jobs that failed or were cancelled so long ago; the ids of those jobs."""
    with database.write() as session:
        ended = (Job.status.in_(("failed", "cancelled"))) & (Job.finished_at < now() - older_than)
        jobs = list(
            session.scalars(select(Checkpoint.job_id).join(Job, Job.id == Checkpoint.job_id).where(ended).distinct())
        )
        session.execute(delete(Checkpoint).where(Checkpoint.job_id.in_(jobs)))
    for job_id in jobs:
        artifacts.remove(artifacts.checkpoints(job_id))
    return jobs


def forget_checkpoints(session: Session, job_id: str) -> None:
    """Forgets all checkpoints of a job."""
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job_id))


def kept_epochs(session: Session, job_id: str) -> list[int]:
    """The epochs of which a job that has succeeded has kept checkpoints."""
    return sorted({row.epoch for row in list_checkpoints(session, job_id)})


def kept_checkpoint(database: Database, artifacts: Artifacts, job_id: str, *, epoch: int) -> Path:
    """The checkpoint that a job has kept of an epoch's end; DamagedFiles if there is none that is whole."""
    with database.read() as session:
        rows = [row for row in list_checkpoints(session, job_id) if _is_after(row, frozenset({epoch}))]
    paths = (artifacts.checkpoint(job_id, row.directory) for row in rows)
    found = next((path for path in paths if _is_whole(path)), None)
    if found is None:
        raise DamagedFiles(f"the checkpoint of epoch {epoch} is damaged or gone")
    return found


def _is_whole(path: Path) -> bool:
    try:
        verify_files(path, RECORDS.validate_json((path / MANIFEST_NAME).read_bytes()))
    except (OSError, ValidationError, DamagedFiles):
        return False
    return True


def _is_after(row: Checkpoint, epochs: frozenset[int]) -> bool:
    """Whether it was written right after one of these epochs."""
    return row.step == 0 and row.epoch in epochs


def _replace(session: Session, row: Checkpoint) -> None:
    same = (Checkpoint.job_id == row.job_id) & (Checkpoint.directory == row.directory)
    session.execute(delete(Checkpoint).where(same))
    session.add(row)
    session.flush()


def _keep(session: Session, job_id: str, kept: frozenset[int]) -> set[str]:
    """Forgets all but the two newest, the newest of a whole epoch, the best and those to be kept; their directories."""
    rows = list_checkpoints(session, job_id)
    whole = next((row for row in rows if row.step == 0), None)
    best = next((row for row in rows if row.best), None)
    doomed = [row for row in rows[NEWEST_KEPT:] if row not in (whole, best) and not _is_after(row, kept)]
    for row in doomed:
        session.delete(row)
    return {row.directory for row in rows if row not in doomed}
