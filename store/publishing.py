"""Files that a transaction makes known: they go again if it fails, but not while that is uncertain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.artifacts import Artifacts
from store.database import Database, Session
from store.errors import StoreError
from store.queue import Claim, has_succeeded


@contextmanager
def publishing(database: Database, artifacts: Artifacts, target: Path, claim: Claim) -> Iterator[Session]:
    """A transaction that enters what is at `target` and has its job succeed; if it fails, `target` is removed.

    Where an error came in place of the answer the database is asked again. If it cannot be, the files stay, which costs
    room until they are removed as orphans, while a row without files would be a loss.
    """
    try:
        with database.write() as session:
            yield session
    except BaseException as error:
        with database.write() as session:
            entered = has_succeeded(session, claim)
        if not entered:
            artifacts.remove(target)
        if not entered or not isinstance(error, StoreError):
            raise
