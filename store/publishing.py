"""Files that a transaction makes known: they go again if it fails, but not while that is uncertain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.artifacts import Artifacts
from store.database import Database, Session
from store.errors import InDoubt
from store.queue import Claim, has_succeeded


@contextmanager
def publishing(database: Database, artifacts: Artifacts, target: Path, claim: Claim) -> Iterator[Session]:
    """A transaction that enters what is at `target` and has its job succeed; if it fails, `target` is removed.

    Where the connection was lost before the answer came the database is asked again. InDoubt if it cannot be: then the
    files stay, which costs room, while a row without files would be a loss.
    """
    try:
        with database.write() as session:
            yield session
    except InDoubt:
        with database.write() as session:
            if has_succeeded(session, claim):
                return
        artifacts.remove(target)
        raise
    except BaseException:
        artifacts.remove(target)
        raise
