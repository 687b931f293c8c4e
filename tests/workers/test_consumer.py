"""What a worker does when there is nothing to do, and with a process that has nothing more to do; without any torch."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine, event

from specs.settings import Settings
from store import queue
from store.artifacts import Artifacts
from store.database import Database
from store.queue import Claim
from store.tables import Checkpoint, now
from store.workers import list_workers
from tests.chaos.yard import running_consumer
from tests.conftest import wait_for
from workers.child import TITLE
from workers.consumer import Consumer


class Turns(threading.Event):
    """Asks a worker to stop, and counts how often the worker looked whether it is to."""

    count = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.count += 1
        return super().wait(timeout)


@contextmanager
def at_work(settings: Settings, database: Database, **options: Any) -> Iterator[Turns]:
    """A worker on a thread of this process that beats every six minutes."""
    own, stop = settings.model_copy(update={"device_probe": False, "worker_ttl_seconds": 3600.0}), Turns()
    thread = threading.Thread(target=Consumer(own, database, Artifacts(own.home), stop, **options).run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()


def in_a_row(database: Database, look: Callable[[Any], Any]) -> Any:
    with database.read() as session:
        rows = list_workers(session)
    return look(rows[0]) if rows else None


def test_a_worker_with_nothing_to_do_writes_nothing(settings: Settings, database: Database) -> None:
    with database.write() as session:
        queue.pause(session, queue.enqueue(session, kind="train", name="x", spec="{}").id)
    with at_work(settings, database) as turns:
        wait_for(lambda: turns.count > 6)
        assert in_a_row(database, lambda worker: worker.beat) == 0


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """What this process asks of databases, as it comes."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield asked
    event.remove(Engine, "before_cursor_execute", note)


def test_a_worker_that_waits_reads_only_what_may_have_changed(
    settings: Settings, database: Database, statements: list[str]
) -> None:
    with at_work(settings, database) as turns:
        wait_for(lambda: turns.count > 12, pause=0.3)
        statements.clear()
        before = turns.count
        wait_for(lambda: turns.count > before + 12, pause=0.3)
        # Five queries a look: in one turn of six or so, not in each.
        assert len(statements) < 3 * (turns.count - before)


def test_what_cannot_be_removed_at_first_ends_no_worker_and_goes_later(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as session:
        job = queue.enqueue(session, kind="train", name="x", spec="{}")
        queue.cancel(session, job.id)
        job.finished_at = now() - timedelta(days=settings.keep_checkpoints_days + 1)
        session.add(Checkpoint(job_id=job.id, directory="1-0-1", attempt=1, epoch=1, step=0, best=True))
    kept = Artifacts(settings.home).checkpoint(job.id, "1-0-1")
    kept.mkdir(parents=True)
    os.utime(kept.parent, (0, 0))
    failed = []

    def rename(path: Path, _target: Path) -> None:
        failed.append(path)
        raise OSError(errno.EIO, "the disk")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", rename)
        with at_work(settings, database, clean_seconds=0.05):
            wait_for(lambda: in_a_row(database, lambda worker: worker.devices))
            assert failed
            assert kept.exists()
            broken.undo()
            wait_for(lambda: not kept.parent.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process by its name, and stops it")
def test_a_process_that_has_ended_its_job_and_does_not_go_is_killed(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as session:
        job_id = queue.enqueue(session, kind="ingest", name="x", spec="{}").id
    with running_consumer(settings, monkeypatch, shutdown_grace_seconds=0.2):
        process = wait_for(suspended_job, seconds=60, pause=0.001)
        with database.write() as session:
            queue.fail(session, Claim(job_id, 1), reason="error", message="x")
        assert not psutil.wait_procs([process], timeout=60)[1]
    with database.read() as session:
        job = queue.find_job(session, job_id)
    assert (job.status, job.crashes) == ("failed", 0)


def suspended_job() -> psutil.Process | None:
    """The process of a job, stopped as soon as there is one."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() == TITLE:
                process.suspend()
                return process
    return None
