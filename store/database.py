"""The database: one `with database.write() as session:` block is one transaction.

SQLite: WAL, full synchronisation (a job that was answered 202 survives a power cut), foreign keys on,
and each writing transaction begins IMMEDIATE: one that reads first and writes later would otherwise fail with
"database is locked" without waiting, when another one wrote in between (https://sqlite.org/lang_transaction.html).
PostgreSQL: store/postgresql.py.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from specs.settings import Settings
from store import postgresql
from store.errors import StorageFault, StorageFull, StoreBusy

__all__ = ["Database", "Session"]

BUSY_SECONDS = 5.0
FULL = "There is no room left for the database. Free some of the disk of the data folder, then ask again."
SAFE_SQLITE = (3, 51, 3)
SAFE_BACKPORTS = ((3, 44, 6), (3, 50, 7))

log = structlog.get_logger()


class Database:
    """Engines for one URL: a single writing connection, and several that only read."""

    def __init__(self, url: str | URL, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self._busy_seconds = busy_seconds
        self.url = postgresql.with_driver(make_url(url))
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writer = self._sqlite_engine(pool_size=1, begin="BEGIN IMMEDIATE")
            self._reader = self._sqlite_engine(pool_size=16, begin="BEGIN")
        else:
            self._writer = postgresql.make_engine(self.url, busy_seconds=self._busy_seconds)
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ")

    @classmethod
    def of(cls, settings: Settings) -> Database:
        """The database of an installation: the one its settings name, else SQLite in its data folder."""
        if settings.database_url is not None:
            return cls(settings.database_url)
        # Not written as text: a folder's name may hold what has a meaning in a URL.
        return cls(URL.create("sqlite", database=str(settings.home.absolute() / "pruneyard.db")))

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write: committed at the end of the block, rolled back if an error leaves it."""
        with _sentences(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one state of the database and writes nothing."""
        with _sentences(), Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    def probe(self) -> None:
        """Raises StoreBusy or StorageFull unless a write transaction can be had."""
        with self.write() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Closes all connections."""
        self._writer.dispose()
        self._reader.dispose()

    @property
    def writer(self) -> Engine:
        """For migrations only."""
        return self._writer

    def _sqlite_engine(self, *, pool_size: int, begin: str) -> Engine:
        engine = create_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=self._busy_seconds,
            connect_args={"timeout": self._busy_seconds, "check_same_thread": False},
        )
        event.listen(engine, "connect", partial(_prepare_connection, seconds=self._busy_seconds))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine


def _prepare_connection(connection: Any, _record: Any, *, seconds: float) -> None:
    # The driver would begin transactions by its own rules; we begin them ourselves.
    connection.isolation_level = None
    _enter_wal(connection, seconds)
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        "journal_size_limit=67108864",
        "trusted_schema=OFF",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _enter_wal(connection: Any, seconds: float) -> None:
    """Of several that change a new database to WAL at once SQLite has one fail, and does not have it wait."""
    end = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(0.01)


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise StoreBusy("All connections to the database are in use.") from error
    except DBAPIError as error:
        raise _translated(error) from error


def _translated(error: DBAPIError) -> Exception:
    if not isinstance(error.orig, sqlite3.Error):
        return postgresql.translated(error)
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreBusy("The database is held by another process.")
    if code == sqlite3.SQLITE_FULL or getattr(error.orig, "errno", None) == errno.ENOSPC:
        return StorageFull(FULL, needed=0)
    if code == sqlite3.SQLITE_IOERR:
        return StorageFault("The disk of the database failed to read or write.")
    return error


def warn_of_old_sqlite() -> None:
    """Says so if this SQLite has the WAL-reset bug (3.7.0 to 3.51.2, https://sqlite.org/wal.html#walresetbug)."""
    version = sqlite3.sqlite_version_info
    fixed = version >= SAFE_SQLITE or any(version[:2] == safe[:2] and version >= safe for safe in SAFE_BACKPORTS)
    if not fixed:
        log.warning(
            "sqlite has a rare bug that can damage a database used by several processes; update Python or SQLite",
            version=sqlite3.sqlite_version,
            fixed_in="3.51.3",
        )
