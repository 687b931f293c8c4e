"""Folders of this machine as a stream of files, and which folders may be read.

Links are never followed, and nothing but regular files is read. Where the platform can (not on Windows), each folder
is opened below the one that is open already, so that a folder that becomes a link meanwhile leads nowhere else.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ingest.errors import BadArchive, IngestError
from ingest.members import CHUNK, Limits, Member, Meter, Rejected, join_pieces
from ingest.names import clean_path, decode_name, is_junk, shown

MAX_DEPTH = 64
HAS_HANDLES = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
# Without O_NONBLOCK opening a FIFO that was put in place of a file would wait for ever.
FILE_FLAGS = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
FOLDER_FLAGS = FILE_FLAGS | getattr(os, "O_DIRECTORY", 0)


class OutsideRoots(IngestError):
    """A path that does not lie below a folder that may be read. Whether anything is there is not told."""

    def __init__(self, path: str) -> None:
        message = f'"{shown(path)}" does not lie below a folder that may be read.'
        super().__init__("outside_roots", message, "Name a folder below one of those, or let its parent be read.")


def resolve_below(path: str, roots: Sequence[Path]) -> Path:
    """The real path, without links, of one that leads to or below one of the roots; OutsideRoots for any other."""
    try:
        resolved = Path(path).resolve()
        if any(resolved.is_relative_to(root.resolve()) for root in roots):
            return resolved
    except (OSError, ValueError, RuntimeError):  # a name with NUL, too long, links in a circle
        pass
    raise OutsideRoots(path)


class _Folder(NamedTuple):
    """An open folder: where it is, its path in the data set, its depth, and the handle to open what is in it."""

    path: Path
    inside: str
    depth: int
    handle: int | None

    def open_file(self, name: str) -> BinaryIO:
        """Opens a file of this folder, unless it is a link."""
        where = self.path / name if self.handle is None else name
        return os.fdopen(os.open(where, FILE_FLAGS, dir_fd=self.handle), "rb", buffering=0)


def read_folder(folder: Path, limits: Limits) -> Iterator[Member | Rejected]:
    """The regular files below a folder, in the order of their paths, without what desktops add.

    Rejected for links, devices and pipes, for what cannot be read, has an unsafe name, lies too deep, or is over the
    limit of a file. BadArchive(not_an_archive) if the folder itself cannot be read; and if another limit is passed.
    """
    meter = Meter(limits, of="folder")
    try:
        with _opened(folder) as top:
            yield from _walk(top, meter)
    except OSError:
        message = f'"{shown(str(folder))}" is not a folder that can be read.'
        raise BadArchive("not_an_archive", message, "Name a folder, and let the service read it.") from None


@contextmanager
def _opened(path: Path, parent: _Folder | None = None, inside: str = "") -> Iterator[_Folder]:
    below = parent.handle if parent else None
    where = path if below is None else path.name
    handle = os.open(where, FOLDER_FLAGS, dir_fd=below) if HAS_HANDLES else None
    try:
        yield _Folder(path, inside, parent.depth + 1 if parent else 0, handle)
    finally:
        if handle is not None:
            os.close(handle)


def _walk(folder: _Folder, meter: Meter) -> Iterator[Member | Rejected]:
    entries = []
    with os.scandir(folder.path if folder.handle is None else folder.handle) as found:
        for entry in found:
            meter.count_entry()
            entries.append(entry)
    for entry in sorted(entries, key=lambda entry: entry.name):
        raw = folder.inside + decode_name(os.fsencode(entry.name))
        try:
            path = clean_path(raw)
        except BadArchive as error:
            yield Rejected(shown(raw), error.reason, error.message)
            continue
        if not is_junk(path):
            yield from _read(folder, entry, path, meter)


def _read(folder: _Folder, entry: os.DirEntry[str], path: str, meter: Meter) -> Iterator[Member | Rejected]:
    try:
        if _is_junction(entry):
            yield _not_regular(path)
        elif not entry.is_dir(follow_symlinks=False):
            yield _read_file(folder, entry, path, meter)
        elif folder.depth >= MAX_DEPTH:
            yield Rejected(path, "too_deep", f"The folder lies more than {MAX_DEPTH} folders deep.")
        else:
            with _opened(folder.path / entry.name, folder, path + "/") as below:
                yield from _walk(below, meter)
    except OSError as error:
        yield Rejected(path, "unreadable", f"This cannot be read: {error.strerror}.")


def _is_junction(entry: os.DirEntry[str]) -> bool:
    """Whether this is the other kind of link to folders that Windows has, which Python takes for a folder."""
    if sys.platform == "win32":
        return entry.stat(follow_symlinks=False).st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT
    return False


def _read_file(folder: _Folder, entry: os.DirEntry[str], path: str, meter: Meter) -> Member | Rejected:
    if not entry.is_file(follow_symlinks=False):
        return _not_regular(path)
    with folder.open_file(entry.name) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            return _not_regular(path)
        if found.st_size > meter.limits.max_file_bytes:
            return meter.too_large(path)
        data = join_pieces(_pieces(file, meter))
    # The file may have grown meanwhile.
    return meter.too_large(path) if len(data) > meter.limits.max_file_bytes else Member(path, data)


def _pieces(file: BinaryIO, meter: Meter) -> Iterator[bytes]:
    """The content of a file, counted, of which one byte over the limit is enough."""
    left = meter.limits.max_file_bytes + 1
    while left and (piece := file.read(min(CHUNK, left))):
        meter.count_packed(len(piece))
        meter.count_unpacked(len(piece))
        left -= len(piece)
        yield piece


def _not_regular(path: str) -> Rejected:
    return Rejected(path, "not_a_regular_file", "This is a link, a device or a pipe, not a regular file.")
