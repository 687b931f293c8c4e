"""A PostgreSQL server for tests: Debian's, in a folder of its own, reached by a socket that only it has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Self

import pytest
from sqlalchemy import URL

from specs.settings import Settings
from store.database import Database
from store.migrate import migrate
from store.tables import Table

MISSING = "PostgreSQL is missing"
# What a power cut would take goes with the tests anyway.
SETTINGS = (
    "fsync=off",
    "full_page_writes=off",
    "listen_addresses=''",
    "max_connections=200",
    "shared_buffers=16MB",
    "autovacuum=off",
)


@cache
def binaries() -> Path | None:
    """The folder of the newest server's programs, if there is one and a driver for it."""
    if sys.platform == "win32" or find_spec("psycopg") is None:
        return None
    beside = Path(shutil.which("initdb") or "-").resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return next((path for path in (*reversed(debian), beside) if (path / "initdb").exists()), None)


class Server:
    """A server and its databases; use as a context manager. They go with this process, however it ends."""

    def __init__(self) -> None:
        found = binaries()
        if found is None:
            pytest.skip(f"{MISSING}: install Debian's `postgresql`, and the extra `postgresql` of this package")
        self._programs = found
        self._folder = Path(tempfile.mkdtemp(prefix="pruneyard-postgresql-"))
        self._user = self._other_user()
        self._numbers = count()
        self._clean: URL | None = None

    def __enter__(self) -> Self:
        options = ["--no-sync", "--auth=trust", "--username=tests", "--encoding=UTF8", "--locale=C.UTF-8"]
        self._run("initdb", *options, "--pgdata", str(self._data))
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in (*SETTINGS, f"unix_socket_directories='{self._folder}'"))
        ending = 'cat >/dev/null; "$0" -D "$1" -m immediate stop; rm -rf "$2"'
        command = ["sh", "-c", ending, str(self._programs / "pg_ctl"), str(self._data), str(self._folder)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._undertaker = subprocess.Popen(
            command, stdin=subprocess.PIPE, user=self._user, cwd="/", start_new_session=True, **quiet
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._undertaker.communicate()

    def start(self) -> None:
        """Starts the server; it takes connections."""
        self._run("pg_ctl", "--wait", "-D", str(self._data), "-l", str(self._folder / "log"), "start")

    def stop(self, *, mode: str) -> None:
        """Stops the server: `fast` ends all connections in order, `immediate` is a crash."""
        self._run("pg_ctl", "--wait", "-D", str(self._data), "-m", mode, "stop")

    def url(self, database: str | None = "postgres") -> URL:
        """The address of one database."""
        return URL.create("postgresql+psycopg", "tests", database=database, query={"host": str(self._folder)})

    def new_database(self) -> URL:
        """An empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def clean_database(self) -> URL:
        """A database at the newest version without rows: one for all tests, since a new one is made of 900 files."""
        if self._clean is None:
            self._clean = self.new_database()
            database = Database(self._clean)
            migrate(database)
            database.close()
        else:
            names = ", ".join(Table.metadata.tables)
            self.execute(f"TRUNCATE {names} RESTART IDENTITY", database=self._clean.database)
        return self._clean

    def new_home(self, path: Path) -> Settings:
        """A data folder with the clean database."""
        path.mkdir(parents=True, exist_ok=True)
        return Settings(home=path, database_url=self.clean_database().render_as_string(hide_password=False))

    def execute(self, statement: str, *, database: str | None = "postgres") -> list[tuple[object, ...]]:
        """What one statement answers, on a connection that belongs to no test."""
        import psycopg  # noqa: PLC0415 - an extra

        with (
            psycopg.connect(host=str(self._folder), user="tests", dbname=database, autocommit=True) as connection,
            connection.execute(statement) as answer,
        ):
            return answer.fetchall() if answer.description else []

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _other_user(self) -> int | None:
        """The server does not run as root."""
        if os.geteuid() != 0:
            return None
        import pwd  # noqa: PLC0415 - not there on Windows

        known = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
        user = known.get("postgres", known["nobody"])
        os.chown(self._folder, user, -1)
        return user

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        # To a file: the server inherits what it prints to, and a pipe would not end before it does.
        with tempfile.TemporaryFile() as output:
            ended = subprocess.run(command, user=self._user, cwd="/", stdout=output, stderr=output, check=False)
            output.seek(0)
            assert ended.returncode == 0, output.read().decode()
