"""Faults of the disk, one at a chosen operation: what this process opens, writes, synchronises, renames and commits.

Operations are counted below our own code: in `os`, in `io` and in the connections of sqlite3. What is written without
Python (by safetensors, by SQLite itself) is not seen; a disk that is really full has that too (test_full_disks.py).
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import Engine, event

# "lost answer": the commit is done, and whoever asked for it hears of an error.
KINDS = ("EIO", "ENOSPC", "lost answer")
SQLITE_CODES = {"EIO": sqlite3.SQLITE_IOERR, "ENOSPC": sqlite3.SQLITE_FULL, "lost answer": sqlite3.SQLITE_IOERR}


@dataclass
class Faults:
    """Fails the `at`-th operation below `folder` (from 1; 0: none), or all from then on; use as a context manager.

    Of "lost answer" only commits are counted.
    """

    folder: Path
    kind: str = "EIO"
    at: int = 0
    forever: bool = False
    count: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Self:
        self._patch = pytest.MonkeyPatch()
        for name in ("open", "write", "fsync", "mkdir", "rename", "replace", "link"):
            self._patch.setattr(os, name, self._failing(name, getattr(os, name)))
        opening = self._open(io.open)
        for module in (io, builtins):
            self._patch.setattr(module, "open", opening)
        event.listen(Engine, "do_connect", self._connect)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        event.remove(Engine, "do_connect", self._connect)

    def strikes(self, operation: str) -> bool:
        """Counts an operation; whether it is one that is to fail."""
        if self.kind == "lost answer" and operation != "commit":
            return False
        self.count += 1
        struck = bool(self.at) and (self.count == self.at or (self.forever and self.count > self.at))
        self.failed[operation] += struck
        return struck

    def _failing(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            # With `dir_fd` a directory is opened to be removed: that works to the end.
            # A folder that is there already is made anew without an effect.
            idle = "dir_fd" in options or (name == "mkdir" and Path(first).exists())
            if not idle and self._is_ours(first) and self.strikes(name):
                raise self._error()
            return real(first, *rest, **options)

        return call

    def _is_ours(self, file: Any) -> bool:
        """Descriptors are opened below the folder here; other paths are those of the interpreter itself."""
        if isinstance(file, int):
            return file > 2
        return Path(os.fsdecode(file)).is_relative_to(self.folder)

    def _error(self) -> OSError:
        number = getattr(errno, self.kind)
        return OSError(number, os.strerror(number))

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if isinstance(file, int) or not self._is_ours(file) or not set(mode) & set("wax+"):
                return real(file, mode, *rest, **options)
            if self.strikes("open"):
                raise self._error()
            return Writing(real(file, mode, *rest, **options), self)

        return call

    def _connect(self, _dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        faults = self

        class Connection(sqlite3.Connection):
            def commit(self) -> None:
                struck = faults.strikes("commit")
                if not struck or faults.kind == "lost answer":
                    super().commit()
                if struck:
                    error = sqlite3.OperationalError("injected")
                    error.sqlite_errorcode = SQLITE_CODES[faults.kind]
                    raise error

        options["factory"] = Connection


class Writing:
    """A file that is written to; half of what a failing write was given is written."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        if self._faults.strikes("write"):
            self._file.write(data[: len(data) // 2])
            raise self._faults._error()
        written: int = self._file.write(data)
        return written
