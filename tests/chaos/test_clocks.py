"""The wall clock is set by two hours, forth and back: nobody is taken for dead, and what the living write stays."""

from __future__ import annotations

import datetime as standard
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from specs.settings import Settings
from store import queue, tables, workers
from store.artifacts import Artifacts
from store.database import Database
from tests.conftest import wait_for
from workers.consumer import Progress
from workers.heartbeat import Heartbeat

HOURS = [2, -2]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock as all that this process asks shows it; on Linux that moves what psutil calls creation, too."""
    clock, created = time.time, psutil.Process.create_time

    def set_it(hours: float) -> None:
        class Moved(standard.datetime):
            @classmethod
            def now(cls, tz: standard.tzinfo | None = None) -> Moved:
                return cls.fromtimestamp(clock() + 3600 * hours, tz)

        monkeypatch.setattr(time, "time", lambda: clock() + 3600 * hours)
        monkeypatch.setattr(tables, "datetime", Moved)
        if sys.platform == "linux":
            monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + 3600 * hours)

    return set_it


@pytest.mark.parametrize("place", ["here", "elsewhere"])
@pytest.mark.parametrize("hours", HOURS)
def test_a_worker_that_beats_is_alive_whatever_the_clock_says(
    database: Database, set_clock: Callable[[float], None], hours: int, place: str
) -> None:
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
        job_id = queue.enqueue(session, kind="train", name="x", spec="{}").id
        assert queue.claim(session, worker) is not None
        if place == "elsewhere":
            workers.list_workers(session)[0].place = "another machine"
    before = workers.Watch(database, ttl_seconds=60)
    assert before.sweep() == []
    with database.read() as session:
        last = workers.list_workers(session)[0].beat_at
    set_clock(hours)
    # One that has watched all the time, and one that begins now; before a beat by the new clock, and after it.
    for watch in (before, workers.Watch(database, ttl_seconds=60)):
        assert watch.sweep() == []
    heartbeat = Heartbeat(database, worker, ttl_seconds=0.5)
    heartbeat.start()
    wait_for(lambda: moved_by(database, last) == hours)
    for watch in (before, workers.Watch(database, ttl_seconds=60)):
        assert watch.sweep() == []
        assert [each.incarnation for each in watch.alive()] == [worker]
    heartbeat.stop()
    assert not heartbeat.lost.is_set()
    with database.read() as session:
        job = queue.find_job(session, job_id)
    assert (job.status, job.attempt, job.owner) == ("running", 1, worker)


def moved_by(database: Database, last: standard.datetime) -> int:
    """By how many hours the last beat is away from one before."""
    with database.read() as session:
        return round((workers.list_workers(session)[0].beat_at - last).total_seconds() / 3600)


@pytest.mark.parametrize("hours", HOURS)
def test_a_training_does_not_stall_by_the_clock(set_clock: Callable[[float], None], hours: int) -> None:
    progress = Progress(since=time.monotonic())
    assert not progress.stalls(1, 60)
    set_clock(hours)
    assert not progress.stalls(1, 60)


def test_what_a_running_job_writes_stays_when_the_clock_is_set(
    settings: Settings, database: Database, set_clock: Callable[[float], None]
) -> None:
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
        queue.enqueue(session, kind="train", name="x", spec="{}")
        claim = queue.claim(session, worker)
    assert claim is not None
    artifacts = Artifacts(settings.home, owner=claim.name)
    target = artifacts.checkpoint(claim.job_id, "1-0-1")
    with artifacts.new_directory(target) as directory:
        (directory / "state").write_text("x")
        other = stale(settings.home)
        set_clock(2)
        with database.read() as session:
            Artifacts(settings.home).remove_leftovers(but_of=queue.running_claims(session))
        assert not other.exists()
    assert (target / "state").read_text() == "x"


def stale(home: Path) -> Path:
    """What a process left that is no more."""
    return Artifacts(home, owner="job_0-1").new_scratch()
