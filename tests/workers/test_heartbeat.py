"""The heartbeat: a worker that cannot beat must know, whatever the reason."""

from __future__ import annotations

import sqlite3

import pytest

from specs.settings import Settings
from store import workers
from store.database import Database
from store.migrate import downgrade
from tests.conftest import wait_for
from workers.heartbeat import Heartbeat


@pytest.fixture
def heartbeat(database: Database) -> Heartbeat:
    """The heartbeat of a registered worker, beating every 50 ms."""
    with database.write() as session:
        incarnation = workers.register(session, ["cpu"])
    made = Heartbeat(database, incarnation, ttl_seconds=0.5)
    made.start()
    return made


def _beats(database: Database) -> int:
    with database.read() as session:
        return workers.list_workers(session)[0].beat


def test_it_beats_until_it_is_stopped(database: Database, heartbeat: Heartbeat) -> None:
    wait_for(lambda: _beats(database) >= 3)
    heartbeat.stop()
    assert not heartbeat.lost.is_set()


def test_a_worker_that_others_declared_dead_hears_of_it(database: Database, heartbeat: Heartbeat) -> None:
    with database.write() as session:
        (worker,) = workers.list_workers(session)
        workers.sign_off(session, worker.incarnation)
    wait_for(heartbeat.lost.is_set)
    heartbeat.stop()


def test_a_database_that_breaks_for_good_ends_the_worker(database: Database, heartbeat: Heartbeat) -> None:
    wait_for(lambda: _beats(database) >= 1)
    downgrade(database, "base")
    wait_for(heartbeat.lost.is_set)
    heartbeat.stop()


def test_a_database_that_is_held_for_a_moment_does_not(
    settings: Settings, database: Database, heartbeat: Heartbeat
) -> None:
    with sqlite3.connect(settings.home / "pruneyard.db", isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        before = _beats(database)
        holder.execute("ROLLBACK")
    holder.close()
    wait_for(lambda: _beats(database) > before + 2)
    assert not heartbeat.lost.is_set()
    heartbeat.stop()
