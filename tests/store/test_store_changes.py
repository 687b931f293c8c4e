from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from specs.settings import Settings
from store import queue
from store.changes import Changes
from store.database import Database
from tests.conftest import new_home
from tests.postgresql import Server

FOR_EVER = 3600.0
WRITES = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version = 7')"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """SQLite only, which counts them."""
    return new_home(tmp_path / "home")


@pytest.fixture
def changes(database: Database) -> Iterator[Changes]:
    with closing(Changes(database, at_latest=FOR_EVER)) as changes:
        yield changes


def enqueue(database: Database) -> None:
    with database.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")


def test_what_was_written_is_told_once(database: Database, changes: Changes) -> None:
    assert changes.any(), "nothing was read yet"
    assert not changes.any()
    with database.read() as session:
        queue.count_jobs(session)
    assert not changes.any()
    enqueue(database)
    assert changes.any()
    assert not changes.any()


def test_others_write_too(settings: Settings, database: Database, changes: Changes) -> None:
    changes.any()
    with closing(Database.of(settings)) as other:
        enqueue(other)
    assert changes.any()
    subprocess.run([sys.executable, "-c", WRITES, settings.home / "pruneyard.db"], check=True)
    assert changes.any()
    assert not changes.any()


def test_what_is_rolled_back_is_no_change(database: Database, changes: Changes) -> None:
    changes.any()
    with pytest.raises(ZeroDivisionError), database.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")
        session.flush()
        raise ZeroDivisionError
    assert not changes.any()


def test_after_some_time_and_what_could_not_be_read_it_is_asked_again(database: Database) -> None:
    with closing(Changes(database, at_latest=0.2)) as changes:
        assert changes.any()
        assert not changes.any()
        changes.forget()
        assert changes.any()
        time.sleep(0.25)
        assert changes.any()
        assert not changes.any()


def test_of_a_database_that_cannot_be_asked_they_are_presumed(settings: Settings) -> None:
    settings.home.joinpath("pruneyard.db").rename(settings.home / "elsewhere")
    database = Database.of(settings)
    with closing(database), closing(Changes(database, at_latest=FOR_EVER)) as changes:
        assert changes.any()
        assert changes.any()
        assert not (settings.home / "pruneyard.db").exists(), "asking makes none"
        (settings.home / "elsewhere").rename(settings.home / "pruneyard.db")
        assert changes.any()
        assert not changes.any()


def test_a_server_does_not_count_them(postgresql: Server) -> None:
    database = Database(postgresql.new_database())
    with closing(database), closing(Changes(database, at_latest=FOR_EVER)) as changes:
        assert changes.any()
        assert changes.any()
