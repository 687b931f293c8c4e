"""What kind of disk a data folder is on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import psutil
import structlog

# Shared with other machines, or with the host of a virtual one: locks and shared memory do not reach across.
SHARED = {
    "nfs",
    "nfs4",
    "cifs",
    "smb2",
    "smb3",
    "smbfs",
    "afs",
    "afpfs",
    "ceph",
    "lustre",
    "glusterfs",
    "webdav",
    "davfs",
}
SHARED |= {"9p", "drvfs", "virtiofs", "vboxsf", "sshfs", "rclone", "s3fs", "osxfs", "grpcfuse"}

log = structlog.get_logger()


class Mounted(Protocol):
    """A file system and where it is, as psutil tells it."""

    @property
    def mountpoint(self) -> str: ...

    @property
    def fstype(self) -> str: ...


def shared_kind(folder: Path, mounted: Iterable[Mounted]) -> str | None:
    """The kind of the file system that a folder is on, if others share it."""
    place = folder.resolve()
    above = [entry for entry in mounted if place.is_relative_to(entry.mountpoint)]
    # The nearest; the last of those at the same place lies over the others.
    nearest = max(reversed(above), key=lambda entry: len(Path(entry.mountpoint).parts), default=None)
    kind = "" if nearest is None else nearest.fstype.lower()
    return kind if kind.removeprefix("fuse.") in SHARED else None


def warn_of_shared_disk(folder: Path) -> None:
    """Says so if SQLite's locks and its log do not work where the database is (https://sqlite.org/wal.html, 1.)."""
    kind = shared_kind(folder, psutil.disk_partitions(all=True))
    if kind is not None:
        log.warning(
            "the data folder is on a shared file system, where SQLite can lose or damage data; take a local disk",
            kind=kind,
        )
