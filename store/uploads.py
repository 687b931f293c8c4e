"""Content on its way in: one file a data set, to which an upload adds; what has arrived survives everything.

How much has arrived is the size of the file, so nothing has to be kept in step with it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from store.artifacts import Artifacts
from store.errors import Conflict, StorageFull
from store.room import RESERVE_BYTES, free_bytes, room


class UploadBusy(Conflict):
    """Another request is just adding to this content."""


class WrongOffset(Conflict):
    """A part does not begin where the content that has arrived ends."""

    def __init__(self, received: int) -> None:
        super().__init__(f"{received} bytes have arrived; the next part begins there.")
        self.received = received


def received_bytes(artifacts: Artifacts, dataset_id: str) -> int:
    """How much of a data set's content has arrived."""
    try:
        return artifacts.upload(dataset_id).stat().st_size
    except FileNotFoundError:
        return 0


def check_room(artifacts: Artifacts, expected: int) -> None:
    """Raises StorageFull unless so many bytes fit on the disk, with a reserve for the database."""
    free = free_bytes(artifacts.home)
    if free < expected + RESERVE_BYTES:
        left = max(0, free - RESERVE_BYTES)
        raise StorageFull(
            f"{expected:,} more bytes are to come and the data folder has room for {left:,}. "
            "Delete models or data sets, or free some of the disk, then send the rest: what has arrived is kept.",
            needed=expected,
        )


class OpenUpload:
    """The end of a data set's content, open for more."""

    def __init__(self, artifacts: Artifacts, descriptor: int, size: int) -> None:
        self._artifacts = artifacts
        self._descriptor = descriptor
        self.size = size

    def write(self, data: bytes | bytearray) -> None:
        """Adds bytes; StorageFull if they do not all fit, and then those that did have arrived.

        The reserve stays free: on a disk that is full to the last byte nothing could be deleted any more.
        """
        check_room(self._artifacts, len(data))
        view = memoryview(data)
        with room():
            while view:
                written = os.write(self._descriptor, view)
                self.size += written
                view = view[written:]

    def synchronise(self) -> None:
        """What was added survives a power cut from now on."""
        with room():
            os.fsync(self._descriptor)


@contextlib.contextmanager
def open_upload(
    artifacts: Artifacts, dataset_id: str, *, offset: int | None, check: Callable[[], None] = lambda: None
) -> Iterator[OpenUpload]:
    """Content to add to from `offset` on (None begins anew); WrongOffset or UploadBusy if that cannot be.

    Nobody else can add until the end of the block. `check` is called before anything changes and may raise: what was
    looked at before may have changed while another upload ended.
    """
    path = artifacts.upload(dataset_id)
    with room():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    try:
        _lock(descriptor)
        check()
        _at(descriptor, path, offset)
        yield OpenUpload(artifacts, descriptor, os.lseek(descriptor, 0, os.SEEK_END))
    finally:
        os.close(descriptor)


def _at(descriptor: int, path: Path, offset: int | None) -> None:
    # Removed meanwhile: then this descriptor leads nowhere.
    if not path.exists():
        raise Conflict("The data set takes no content any more.")
    size = os.fstat(descriptor).st_size
    if offset is None:
        os.ftruncate(descriptor, 0)
    elif offset != size:
        raise WrongOffset(size)


def _lock(descriptor: int) -> None:
    """Held until the descriptor closes, which it also does when the process is killed."""
    message = "Another upload of this content is under way."
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - there only on Windows

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise UploadBusy(message) from error
    else:
        import fcntl  # noqa: PLC0415 - not there on Windows

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UploadBusy(message) from error
