"""Brings the database to the newest version: `python -m store.migrate [revision]`."""

from __future__ import annotations

import os
import sys
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from formats.logs import configure_logs
from specs.settings import BadSettings, Settings, load_settings
from store.artifacts import make_private
from store.database import Database
from store.errors import OutdatedDatabase, StoreError, UnusableStore

ADVISORY_LOCK = 7_088_119_442
# Whoever starts second waits for the first to migrate, which takes long on a large database or a busy machine.
PATIENCE_SECONDS = 120.0


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(database: Database, revision: str = "head") -> None:
    """Moves the schema up to `revision`, in one transaction; several processes may ask at once, and wait in turn."""
    patient = Database(database.url, busy_seconds=PATIENCE_SECONDS)
    try:
        with patient.writer.begin() as connection:
            if not patient.is_sqlite:
                # What a large table takes is no fault.
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
            command.upgrade(_config(connection), revision)
    finally:
        patient.close()


def downgrade(database: Database, revision: str) -> None:
    """Moves the schema down to `revision` ("base" is the empty database), in one transaction."""
    with database.writer.begin() as connection:
        command.downgrade(_config(connection), revision)


def current_revision(database: Database) -> str | None:
    """The version the database is at."""
    with database.writer.begin() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check_current(database: Database) -> None:
    """Raises OutdatedDatabase unless the database is at the newest version."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if current_revision(database) != newest:
        raise OutdatedDatabase("The database is not at the newest version. Run `pruneyard migrate` first.")


def open_current(settings: Settings) -> Database:
    """The database of an installation whose data folder is there; OutdatedDatabase if it was not migrated."""
    database = _open(settings)
    try:
        check_current(database)
    except SQLAlchemyError as error:
        database.close()
        raise unusable(error) from error
    except BaseException:
        database.close()
        raise
    return database


def _open(settings: Settings) -> Database:
    try:
        make_private(settings.home)
        return Database.of(settings)
    except OSError as error:
        raise UnusableStore(f"The data folder PRUNEYARD_HOME cannot be used: {error.strerror}.") from error
    except (SQLAlchemyError, ImportError) as error:
        raise UnusableStore("PRUNEYARD_DATABASE_URL is not a URL of a database that can be used here.") from error


def unusable(error: SQLAlchemyError) -> UnusableStore:
    """What a database that cannot be opened says, in one line; never its URL, which may hold a password."""
    lines = str(getattr(error, "orig", None) or "it cannot be opened").splitlines()
    return UnusableStore(f"The database cannot be used: {lines[0]}.")


def main() -> int:
    os.umask(0o077)  # what this process writes is its user's own
    try:
        settings = load_settings()
        configure_logs(settings.log_format, settings.log_level)
        database = _open(settings)
        migrate(database, *sys.argv[1:2])
        revision = current_revision(database)
    except SQLAlchemyError as error:
        return _complain(unusable(error))
    except (BadSettings, StoreError, CommandError) as error:
        return _complain(error)
    sys.stdout.write(f"The database is at version {revision}.\n")
    database.close()
    return 0


def _complain(error: Exception) -> int:
    sys.stderr.write(f"The database cannot be migrated:\n{error}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
