"""A copy of an installation, running or not: `python -m store.backup make FOLDER`, and `restore FOLDER` elsewhere.

The copy holds one state of the database, taken by SQLite's own backup, and the files that this state points at: models,
data sets and content that is still to be read, checkpoints. Those files never change, so it is enough that none is
removed while it is copied: they are linked first, at once. What can be made again (decoded images, graphs, kernels) and
downloads are left out.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from sqlalchemy import URL, select

from formats.files import CHUNK, FileRecord, Frozen, sha256_of
from specs.settings import BadSettings, Settings, load_settings
from store.artifacts import CHECKPOINT_PATTERN, Artifacts, make_private, synchronise
from store.database import Database
from store.errors import StoreError, UnusableStore
from store.ids import ID_PATTERN
from store.migrate import current_revision, open_current
from store.room import room
from store.tables import Checkpoint, Dataset, Model, now
from store.workers import dismiss_all

MANIFEST_NAME = "backup.json"
DATABASE_NAME = "pruneyard.db"
# What a copy may hold, by its path in it; ids and names have no way out of the folder.
KNOWN = re.compile(
    rf"{re.escape(DATABASE_NAME)}|(models|datasets)/{ID_PATTERN.pattern}/[A-Za-z0-9_][A-Za-z0-9._-]*"
    rf"|uploads/{ID_PATTERN.pattern}"
    rf"|checkpoints/{ID_PATTERN.pattern}/{CHECKPOINT_PATTERN.pattern}/[A-Za-z0-9_][A-Za-z0-9._-]*"
)
# So often the state is taken anew because something of it was removed before it could be linked.
TRIES = 5


class Backup(Frozen):
    """What a copy says of itself: its files by their paths, and the version of its database."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    revision: str
    made_at: datetime
    files: dict[str, FileRecord]


def back_up(settings: Settings, database: Database, target: Path) -> Backup:
    """Copies an installation to `target`, which appears whole or not at all; UnusableStore if it cannot be done."""
    if not database.is_sqlite:
        raise UnusableStore(
            "The database is PostgreSQL. Copy it by `pg_dump --format=custom --file=FILE URL`, then the data folder."
        )
    if target.exists():
        raise UnusableStore(f"There is something at {target} already. Name a folder that is not there yet.")
    artifacts = Artifacts(settings.home, owner="backup")
    filling = target.absolute().parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
    scratch = artifacts.new_scratch()
    try:
        with room():
            make_private(filling)
            _take_state(settings.home, filling, scratch)
            files = {path: _copied(scratch / path, filling / path) for path in _files(scratch)}
            synchronise(filling / DATABASE_NAME)
            files[DATABASE_NAME] = _record(filling / DATABASE_NAME)
            backup = Backup(revision=current_revision(database) or "", made_at=now(), files=files)
            (filling / MANIFEST_NAME).write_text(backup.model_dump_json(indent=1), encoding="utf-8")
            synchronise(filling / MANIFEST_NAME)
            filling.rename(target)
            return backup
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(filling, ignore_errors=True)


def restore(settings: Settings, source: Path) -> Backup:
    """Puts a copy back where no installation is; every file is verified before the first is written."""
    if settings.database_url is not None:
        raise UnusableStore(
            "PRUNEYARD_DATABASE_URL is set, and a copy has a database of SQLite. Unset it. (What pg_dump copied is put "
            "back by `pg_restore --dbname=URL FILE`.)"
        )
    if (settings.home / DATABASE_NAME).exists():
        raise UnusableStore("There is an installation in PRUNEYARD_HOME already. Name a data folder that has none.")
    try:
        backup = Backup.model_validate_json((source / MANIFEST_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        raise UnusableStore(f"There is no copy of an installation at {source}.") from error
    for path, record in backup.files.items():
        _verify(source, path, record)
    with room():
        make_private(settings.home)
        # The database last: without it there is no installation, and this can be done again.
        for path in sorted(backup.files, key=lambda path: path == DATABASE_NAME):
            _copied(source / path, settings.home / path)
    return backup


def _take_state(home: Path, filling: Path, scratch: Path) -> None:
    """The database as it is at one moment, and links to all that it points at."""
    for attempt in range(TRIES):
        _copy_database(home / DATABASE_NAME, filling / DATABASE_NAME)
        needed, passing = _pointed_at(filling / DATABASE_NAME)
        missing = [path for path in (*needed, *passing) if not _linked(home / path, scratch / path)]
        if not missing:
            return
        if attempt < TRIES - 1:
            for left in scratch.iterdir():
                shutil.rmtree(left)
    # Checkpoints come and go; a job whose last one is missing begins anew, and one whose upload is says so.
    lost = sorted(set(missing) & set(needed))
    if lost:
        raise UnusableStore(f"These files are gone, and the database still has them: {', '.join(lost)}.")


def _copy_database(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        # A file by itself, with no log beside it.
        copy.execute("PRAGMA journal_mode=DELETE")
        (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        raise UnusableStore(f"The database is damaged: {verdict}.")


def _pointed_at(path: Path) -> tuple[list[str], list[str]]:
    """Folders of models and data sets; checkpoints and unread uploads. No worker is left in this database."""
    copy = Database(URL.create("sqlite", database=str(path)))
    try:
        with copy.write() as session:
            dismiss_all(session)
        with copy.read() as session:
            models = session.scalars(select(Model.id).where(Model.status == "ready"))
            datasets = session.scalars(select(Dataset.id).where(Dataset.status == "ready"))
            unread = select(Dataset).where(Dataset.status == "processing")
            uploads = [row.id for row in session.scalars(unread) if row.spec["source"]["kind"] == "upload"]
            needed = [*(f"models/{id_}" for id_ in models), *(f"datasets/{id_}" for id_ in datasets)]
            rows = session.execute(select(Checkpoint.job_id, Checkpoint.directory))
            passing = [f"checkpoints/{job}/{directory}" for job, directory in rows]
            return needed, [*passing, *(f"uploads/{id_}" for id_ in uploads)]
    finally:
        copy.close()
        with closing(sqlite3.connect(path)) as plain:
            plain.execute("PRAGMA journal_mode=DELETE")


def _linked(source: Path, target: Path) -> bool:
    """Whether a file, or the files of a folder, are there; now they stay, whoever removes them."""
    try:
        if source.is_file():
            target.parent.mkdir(exist_ok=True)
            _link(str(source), str(target))
        else:
            shutil.copytree(source, target, copy_function=_link)
    except (FileNotFoundError, shutil.Error):
        return False
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _copied(source: Path, target: Path) -> FileRecord:
    """Copies a file, durably; what was copied."""
    make_private(target.parent)
    temporary = target.with_name(f"{target.name}.part")
    digest, count = hashlib.sha256(), 0
    with source.open("rb") as reading, temporary.open("wb") as writing:
        while chunk := reading.read(CHUNK):
            digest.update(chunk)
            count += writing.write(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    temporary.replace(target)
    return FileRecord(bytes=count, sha256=digest.hexdigest())


def _record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path))


def _verify(source: Path, path: str, record: FileRecord) -> None:
    file = source / path
    if not KNOWN.fullmatch(path) or not file.is_file():
        raise UnusableStore(f"The copy is damaged: {path[:200]!r} is missing, or nothing that a copy holds.")
    if _record(file) != record:
        raise UnusableStore(f"The copy is damaged: {path} is not what was written.")


def main() -> int:
    os.umask(0o077)  # what this process writes is its user's own
    what, *folder = sys.argv[1:] or [""]
    if what not in {"make", "restore"} or len(folder) != 1:
        sys.stderr.write("usage: python -m store.backup make|restore FOLDER\n")
        return 2
    try:
        backup = _run(load_settings(), Path(folder[0]), make=what == "make")
    except (BadSettings, StoreError, OSError, sqlite3.Error) as error:
        doing = "made" if what == "make" else "put back"
        sys.stderr.write(f"The copy cannot be {doing}:\n{error}\n")
        return 2
    total = sum(record.bytes for record in backup.files.values())
    sys.stdout.write(f"{len(backup.files)} files, {total:,} bytes, database at version {backup.revision}.\n")
    return 0


def _run(settings: Settings, folder: Path, *, make: bool) -> Backup:
    if not make:
        return restore(settings, folder)
    database = open_current(settings)
    try:
        return back_up(settings, database, folder)
    finally:
        database.close()


if __name__ == "__main__":
    sys.exit(main())
