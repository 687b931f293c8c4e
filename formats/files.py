"""Sizes and hashes of the files of a directory, so that a reader can tell whether they are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

CHUNK = 1024 * 1024


class FileRecord(BaseModel):
    """One file: its size in bytes and the SHA-256 of its content in hexadecimal."""

    model_config = ConfigDict(frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DamagedFiles(ValueError):
    """A file is missing, or is not what was written."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def record_files(directory: Path, *, leave_out: str) -> dict[str, FileRecord]:
    """A record of each file of a flat directory but the one that will hold the records."""
    paths = sorted(path for path in directory.iterdir() if path.is_file() and path.name != leave_out)
    return {path.name: FileRecord(bytes=path.stat().st_size, sha256=sha256_of(path)) for path in paths}


def verify_files(directory: Path, records: Mapping[str, FileRecord]) -> None:
    """Raises DamagedFiles unless every recorded file is there, with its size and hash."""
    for name, record in records.items():
        path = directory / name
        if path.parent != directory or not path.is_file():
            raise DamagedFiles(f"{name} is missing")
        if path.stat().st_size != record.bytes or sha256_of(path) != record.sha256:
            raise DamagedFiles(f"{name} is not what was written")
