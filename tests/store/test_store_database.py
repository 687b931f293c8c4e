"""The database: migrations up and down, transactions, and being held by somebody else."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from specs.settings import Settings
from store import queue
from store.database import Database
from store.errors import OutdatedDatabase, StoreBusy
from store.migrate import check_current, current_revision, downgrade, migrate
from store.tables import Table
from tests.postgresql import Server

sqlite = pytest.mark.parametrize("kind", ["sqlite"])


@pytest.fixture
def empty(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database without tables."""
    server: Server | None = request.getfixturevalue("postgresql") if kind == "postgresql" else None
    database = Database(server.new_database() if server else f"sqlite:///{tmp_path / 'empty.db'}")
    yield database
    database.close()


def test_migrations_make_the_tables_that_the_code_describes(empty: Database) -> None:
    with pytest.raises(OutdatedDatabase):
        check_current(empty)
    migrate(empty)
    check_current(empty)
    with empty.writer.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    migrate(empty)


def test_migrations_go_down_and_up_again(empty: Database) -> None:
    migrate(empty)
    downgrade(empty, "base")
    assert current_revision(empty) is None
    with empty.writer.begin() as connection:
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    migrate(empty)
    with empty.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")


def test_several_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def open_it(path: Path, together: threading.Barrier) -> None:
        database = Database(f"sqlite:///{path}")
        together.wait()
        try:
            database.probe()
        except BaseException as error:
            errors.append(error)
        database.close()

    for number in range(20):
        together = threading.Barrier(6)
        path = tmp_path / f"{number}.db"
        threads = [threading.Thread(target=open_it, args=(path, together)) for _ in range(together.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_a_migration_waits_for_whoever_writes(tmp_path: Path) -> None:
    """Longer than a request would."""
    database = Database(f"sqlite:///{tmp_path / 'busy.db'}", busy_seconds=0.1)
    written = threading.Event()

    def write_for_long() -> None:
        with database.write() as session:
            session.execute(text("CREATE TABLE other (id INTEGER)"))
            written.set()
            time.sleep(1)

    writing = threading.Thread(target=write_for_long)
    writing.start()
    assert written.wait(10)
    migrate(database)
    writing.join()
    check_current(database)
    database.close()


def test_several_processes_may_migrate_at_once(empty: Database) -> None:
    errors: list[BaseException] = []

    def bring_up() -> None:
        try:
            own = Database(empty.url)
            migrate(own)
            check_current(own)
            own.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=bring_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@sqlite
def test_a_transaction_that_reads_first_waits_for_the_writer(settings: Settings, database: Database) -> None:
    """Begun deferred it would fail at once: "database is locked"."""
    other = Database.of(settings)
    inside, finish = threading.Event(), threading.Event()

    def hold() -> None:
        with other.write() as session:
            queue.enqueue(session, kind="train", name="held", spec="{}")
            inside.set()
            finish.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(5)
    threading.Timer(0.3, finish.set).start()
    with database.write() as session:
        assert len(queue.list_jobs(session)) == 1
        queue.enqueue(session, kind="train", name="waited", spec="{}")
    thread.join()
    other.close()
    with database.read() as session:
        assert [job.name for job in queue.list_jobs(session)] == ["waited", "held"]


@sqlite
def test_a_database_that_stays_held_is_busy_not_broken(settings: Settings) -> None:
    database = Database(f"sqlite:///{settings.home / 'pruneyard.db'}", busy_seconds=0.2)
    with sqlite3.connect(settings.home / "pruneyard.db", isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy), database.write() as session:
            queue.enqueue(session, kind="train", name="x", spec="{}")
        with database.read() as session:
            assert queue.list_jobs(session) == []
        holder.execute("ROLLBACK")
    with database.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")
    database.close()
    holder.close()


def test_a_reader_sees_one_state(database: Database) -> None:
    with database.read() as session:
        assert queue.count_jobs(session)["queued"] == 0
        with database.write() as other:
            queue.enqueue(other, kind="train", name="x", spec="{}")
        assert queue.count_jobs(session)["queued"] == 0
    with database.read() as session:
        assert queue.count_jobs(session)["queued"] == 1


def test_readers_cannot_write(database: Database) -> None:
    with database.read() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")
    with database.read() as session:
        assert queue.list_jobs(session) == [], "nothing is committed by a reading block"


@sqlite
def test_the_database_is_set_up_for_several_processes(database: Database) -> None:
    with database.write() as session:
        pragmas = {
            name: session.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.parametrize("name", ["with spaces", "üñí 첫", "per%41cent %(x)s", "quest?ion=1#mark", "a&b;c"])
def test_a_data_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    database = Database.of(Settings(home=home))
    migrate(database)
    check_current(database)
    database.close()
    assert (home / "pruneyard.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {name}
