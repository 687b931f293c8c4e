"""Brings the database to the newest version: `python -m store.migrate [revision]`."""

from __future__ import annotations

import sys
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from formats.logs import configure_logs
from specs.settings import BadSettings, Settings, load_settings
from store.artifacts import make_private
from store.database import Database
from store.errors import OutdatedDatabase

ADVISORY_LOCK = 7_088_119_442


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(database: Database, revision: str = "head") -> None:
    """Moves the schema up to `revision`, in one transaction; several processes may ask at once."""
    with database.writer.begin() as connection:
        if not database.is_sqlite:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
        command.upgrade(_config(connection), revision)


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
    make_private(settings.home)
    database = Database.of(settings)
    try:
        check_current(database)
    except BaseException:
        database.close()
        raise
    return database


def main() -> int:
    try:
        settings = load_settings()
    except BadSettings as error:
        sys.stderr.write(f"The database cannot be migrated:\n{error}\n")
        return 2
    configure_logs()
    make_private(settings.home)
    database = Database.of(settings)
    migrate(database, *sys.argv[1:2])
    sys.stdout.write(f"The database is at version {current_revision(database)}.\n")
    database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
