"""PostgreSQL: how it is connected to, what its errors mean, and what SQLite's single writer gives for nothing.

No wait is without end: connecting, locks, statements and transactions that nobody goes on with all have their time,
and a server that is gone without a word is found out by TCP.
"""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, func, select
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from store.errors import InDoubt, StorageFull, StoreBusy, Unstorable

STATEMENT_SECONDS = 60.0
# A process that was stopped in the middle of a transaction holds its locks no longer than this.
IDLE_SECONDS = 60.0
CONNECT_SECONDS = 5.0
CONNECT_PAUSE = 0.1
# Of libpq, where the URL does not say otherwise.
CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
POOL_SIZE = 16

DISK_FULL = "53100"
# https://www.postgresql.org/docs/current/errcodes-appendix.html
BUSY = {
    "25006": "The database takes no writes just now.",
    "25P03": "The transaction was idle for too long.",
    "40001": "Another transaction came first.",
    "40P01": "Two transactions waited for each other.",
    "53200": "The database server has no memory left.",
    "53300": "The database server has no connection left.",
    "55P03": "The database is held by another process.",
    "57014": "The database took too long.",
}


def with_driver(url: URL) -> URL:
    """The URL with the driver that this package is installed with, where it names none."""
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgres", "postgresql"} else url


def make_engine(url: URL, *, busy_seconds: float) -> Engine:
    """An engine whose connections are looked at before they are used, and replaced if they were lost."""
    given = {name: value for name, value in CONNECTION.items() if name not in url.query}
    engine = create_engine(
        url, pool_pre_ping=True, pool_size=POOL_SIZE, pool_timeout=busy_seconds, max_overflow=0, connect_args=given
    )
    event.listen(engine, "do_connect", partial(_connect, busy_seconds=busy_seconds))
    return engine


def _connect(dialect: Any, _record: Any, arguments: Any, parameters: Any, *, busy_seconds: float) -> Any:
    """A connection; a server that is just starting again is waited for."""
    end = time.monotonic() + min(busy_seconds, CONNECT_SECONDS)
    while True:
        try:
            connection = dialect.connect(*arguments, **parameters)
            _bound_waits(connection, busy_seconds)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() > end:
                raise
        else:
            return connection
        time.sleep(CONNECT_PAUSE)


def _bound_waits(connection: Any, busy_seconds: float) -> None:
    bounds = {
        "lock_timeout": busy_seconds,
        "statement_timeout": STATEMENT_SECONDS,
        "idle_in_transaction_session_timeout": IDLE_SECONDS,
    }
    with connection.cursor() as cursor:
        for name, seconds in bounds.items():
            cursor.execute("SELECT set_config(%s, %s, false)", (name, f"{int(seconds * 1000)}ms"))
    connection.commit()


def translated(error: DBAPIError) -> Exception:
    """What the store says of a driver's error; the error itself where it is one of the program."""
    state = getattr(error.orig, "sqlstate", None) or ""
    if state == DISK_FULL:
        return StorageFull("There is no room left for the database.")
    if state in BUSY:
        return StoreBusy(BUSY[state])
    if error.connection_invalidated or state[:2] == "08" or state[:3] == "57P":
        return InDoubt("The connection to the database was lost.")
    if isinstance(error, OperationalError) and not state:
        return StoreBusy("The database cannot be reached.")
    if isinstance(error, DataError):
        return Unstorable("A text holds the character NUL, or a number is too large: the database cannot keep it.")
    return error


def wait_in_turn(session: Session, name: str) -> None:
    """Whoever gives the same name waits until this transaction ends. SQLite has one writer at a time as it is."""
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        session.execute(select(func.pg_advisory_xact_lock(number)))
