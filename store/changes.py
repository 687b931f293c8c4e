"""Whether anything was written to the database since one last asked: a question that costs next to nothing.

A worker that waits looks for work some times a second. To ask all its queries each time takes a tenth of a core for
ever, on a laptop's battery too.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from store.database import Database


class Changes:
    """Changes of one database, for one thread. SQLite counts them; of another server they are presumed."""

    def __init__(self, database: Database, *, at_latest: float) -> None:
        """`at_latest`: after so many seconds something counts as changed, as what is asked may depend on time too."""
        self._database = database
        self._at_latest = at_latest
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None
        self._told_at = float("-inf")

    def any(self) -> bool:
        """Whether there may be any since it was last said so. What is read after a yes holds until the next one."""
        version = self._version()
        late = time.monotonic() - self._told_at >= self._at_latest
        if version is not None and version == self._seen and not late:
            return False
        self._seen, self._told_at = version, time.monotonic()
        return True

    def forget(self) -> None:
        """The next answer is yes: what was to be read after the last one could not be."""
        self._told_at = float("-inf")

    def close(self) -> None:
        """Closes its own connection, if it has one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _version(self) -> int | None:
        """A number that others' writes change (https://sqlite.org/pragma.html#pragma_data_version); None: not known."""
        if not self._database.is_sqlite:
            return None
        try:
            # It writes nothing itself: to the connection that did a write is no change.
            if self._connection is None:
                self._connection = self._connect()
            version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            self.close()
            return None
        return version

    def _connect(self) -> sqlite3.Connection:
        path = Path(str(self._database.url.database)).absolute()
        # As a URI, since a connection by path would make a database where there is none.
        return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=0.0, isolation_level=None)
