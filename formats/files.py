"""Sizes and hashes of the files of a directory, so that a reader can tell whether they are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

CHUNK = 1024 * 1024


class FileRecord(BaseModel):
    """One file: its size in bytes and the SHA-256 of its content in hexadecimal."""

    model_config = ConfigDict(frozen=True)

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """A part of what is written down; fields that a later version may add are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Recorded(Frozen):
    """What a directory says of itself, in a JSON file beside the files that it records."""

    files: dict[str, FileRecord] = {}

    @property
    def bytes(self) -> int:
        """Bytes stored in the directory, the JSON file not counted."""
        return sum(record.bytes for record in self.files.values())


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


R = TypeVar("R", bound=Recorded)


def write_recorded(directory: Path, name: str, manifest: R) -> R:
    """Records the files of a directory, writes the manifest beside them as `name` and returns what it says."""
    whole = manifest.model_copy(update={"files": record_files(directory, leave_out=name)})
    (directory / name).write_text(whole.model_dump_json(indent=1), encoding="utf-8")
    return whole


def read_recorded(directory: Path, name: str, kind: type[R], *, max_bytes: int) -> R:
    """What the manifest of a directory says; DamagedFiles if it says nothing, or is longer than any is."""
    path = directory / name
    try:
        if path.stat().st_size > max_bytes:
            raise DamagedFiles(f"{name} is too large")
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DamagedFiles(f"{name} cannot be read: {error}") from error
