"""Data sets that users bring: named, numbered by version, read once, then never changed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from specs.jobs import IngestSpec
from store import queue
from store.artifacts import Artifacts
from store.database import Database
from store.errors import Conflict, NotFound, StoreBusy
from store.ids import may_name, new_id
from store.models import needs
from store.queue import Claim
from store.tables import Dataset, Job, Model, now

UNFINISHED = ("queued", "running", "paused")
VERSION_ATTEMPTS = 5


def create(session: Session, *, name: str, spec: dict[str, Any]) -> Dataset:
    """A new data set without content: the next version of its name."""
    for _ in range(VERSION_ATTEMPTS):
        last = session.scalar(select(func.max(Dataset.version)).where(Dataset.name == name)) or 0
        row = Dataset(id=new_id("ds"), name=name, version=last + 1, status="uploading", spec=spec, rejected=[])
        # On PostgreSQL somebody else may just be making the same version.
        with contextlib.suppress(IntegrityError), session.begin_nested():
            session.add(row)
            return row
    raise StoreBusy("Others are making data sets of this name.")


def get(session: Session, dataset_id: str, *, lock: bool = False) -> Dataset:
    """The data set of this id, or NotFound."""
    query = select(Dataset).where(Dataset.id == dataset_id)
    query = query.with_for_update() if lock else query
    row = session.scalar(query, execution_options={"populate_existing": lock}) if may_name(dataset_id) else None
    if row is None:
        raise NotFound("data set")
    return row


def find(session: Session, reference: str, *, keep: bool = False) -> Dataset:
    """The data set of this id, else the newest of this name: a ready one before any other. NotFound if none is.

    With `keep` nobody deletes it before this transaction ends.
    """
    rows = select(Dataset).with_for_update(read=True, key_share=True) if keep else select(Dataset)
    named = rows.where(Dataset.name == reference).order_by(Dataset.version.desc()).limit(1)
    queries = (rows.where(Dataset.id == reference), named.where(Dataset.status == "ready"), named)
    for query in queries if may_name(reference) else ():
        if (row := session.scalar(query)) is not None:
            return row
    raise NotFound("data set", "id or name")


def list_datasets(session: Session, *, before: int | None = None, limit: int = 50) -> list[Dataset]:
    """Data sets numbered below `before`, newest first."""
    query = select(Dataset).order_by(Dataset.number.desc()).limit(limit)
    if before is not None:
        query = query.where(Dataset.number < before)
    return list(session.scalars(query))


def names(session: Session) -> list[str]:
    """Names of data sets that are ready."""
    return list(session.scalars(select(Dataset.name).where(Dataset.status == "ready").distinct()))


def begin_reading(session: Session, dataset_id: str) -> Dataset:
    """All content is there: from now on it is read, by a job; Conflict if that was begun before."""
    row = get(session, dataset_id, lock=True)
    check_open(row)
    job = queue.enqueue(session, kind="ingest", name=row.name, spec=IngestSpec(dataset=row.id).model_dump_json())
    row.status, row.job_id = "processing", job.id
    return row


def check_open(row: Dataset) -> None:
    """Raises Conflict unless the data set still takes content."""
    if row.status != "uploading":
        raise Conflict(f"The data set is {row.status}: it takes no more content. Make a new version for other content.")


def publish(session: Session, claim: Claim, dataset_id: str, facts: dict[str, Any], rejected: Sequence[Any]) -> None:
    """The files are in place: the data set is ready. Part of the transaction that ends its job."""
    queue.held(session, claim)
    row = get(session, dataset_id, lock=True)
    row.status, row.facts, row.rejected, row.ready_at = "ready", facts, list(rejected), now()


def note_rejected(session: Session, claim: Claim, dataset_id: str, rejected: Sequence[Any]) -> None:
    """The files that could not be used, of a data set that fails. Part of the transaction that ends its job."""
    queue.held(session, claim)
    get(session, dataset_id, lock=True).rejected = list(rejected)


def delete(session: Session, dataset_id: str, *, force: bool) -> None:
    """Forgets a data set; refused while an unfinished job needs it, or, without `force`, a model came from it."""
    row = get(session, dataset_id, lock=True)
    for job in _unfinished_jobs(session, row):
        raise Conflict(f"The unfinished job {job.id} needs this data set; wait for its end or cancel it.")
    model = session.scalar(select(Model.id).where(Model.dataset == row.id).limit(1))
    if model is not None and not force:
        raise Conflict(
            f"The model {model} was trained on this data set and could not be pruned without it. "
            "Delete the model first, or ask with force=true."
        )
    session.delete(row)


def _unfinished_jobs(session: Session, row: Dataset) -> list[Job]:
    """Those that read the data set, or start from a model that was trained on it; or ask what that would take."""
    models = set(session.scalars(select(Model.id).where(Model.dataset == row.id)))
    jobs = session.scalars(select(Job).where(Job.status.in_(UNFINISHED)))
    return [job for job in jobs if not needs(job).isdisjoint({row.id, *models})]


def remove_unneeded_uploads(database: Database, artifacts: Artifacts, *, older_than: timedelta) -> list[str]:
    """Forgets uploads that nobody added to for so long, and removes content that nothing will read any more."""
    # Listed before the rows: content that begins to arrive meanwhile is not among these.
    paths = artifacts.uploads()
    stale = time.time() - older_than.total_seconds()
    fresh = {path.name for path in paths if _changed_at(path) >= stale}
    with database.write() as session:
        uploading = select(Dataset).where(Dataset.status == "uploading", Dataset.created_at < now() - older_than)
        for row in session.scalars(uploading):
            if row.id not in fresh:
                session.delete(row)
        session.flush()
        wanted = set(session.scalars(select(Dataset.id).where(Dataset.status.in_(("uploading", "processing")))))
    doomed = [path for path in paths if path.name not in wanted]
    for path in doomed:
        path.unlink(missing_ok=True)
    return [path.name for path in doomed]


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
