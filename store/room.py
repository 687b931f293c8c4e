"""Room on the disk of the data folder: whether there is enough of it, and errors that say that there is not."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from store.errors import StorageFault, StorageFull

# Stays free for the database: on a disk that is full to the last byte nothing could be deleted any more.
RESERVE_BYTES = 64 * 1024 * 1024
# As what safetensors tells of an error of the system, which it does in words only, has this one in it.
FULL_IN_WORDS = f"os error {112 if os.name == 'nt' else errno.ENOSPC}"


def free_bytes(folder: Path) -> int:
    """How much more fits on the disk of a folder, the reserve included."""
    return shutil.disk_usage(folder).free


def bytes_in(folder: Path) -> int:
    """What the files of a folder take; of those that just go, nothing."""
    total = 0
    for path in folder.glob("**/*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


@contextmanager
def room(filling: Path | None = None) -> Iterator[None]:
    """Turns the errors of a full disk into StorageFull and those of a broken one into StorageFault.

    What is in `filling` by then is the least that would have been needed.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(filling) from error
        # More than this user or this process may store: more room on the disk would change nothing.
        if error.errno in {errno.EDQUOT, errno.EFBIG}:
            raise StorageFull("No more may be stored in the data folder.") from error
        if error.errno == errno.EIO:
            raise StorageFault("The disk of the data folder failed to read or write.") from error
        raise
    except SafetensorError as error:
        if FULL_IN_WORDS in str(error):
            raise _full(filling) from error
        raise


def _full(filling: Path | None) -> StorageFull:
    needed = 0 if filling is None else bytes_in(filling)
    return StorageFull("There is no room left on the disk of the data folder.", needed=needed)
