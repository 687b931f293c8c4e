"""What is uploaded as a data set: an archive file as it is, or a folder as a tar stream that is made while it is read.

A folder's stream is POSIX pax (IEEE Std 1003.1-2017, pax, "pax interchange format") and depends on names and contents
only: the files in the order of their relative paths, no owner, no times. So its length is known before the first byte
and any offset gives the same tail again, which is what lets a broken upload go on where it broke.
"""

from __future__ import annotations

import os
import stat
import tarfile
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from os import PathLike
from pathlib import Path
from unicodedata import category

from pruneyard.errors import PruneyardError

CHUNK_BYTES = 1024 * 1024
BLOCK = tarfile.BLOCKSIZE
# Names and sizes up to these fit into one block; beyond, tarfile writes a pax header before it.
PLAIN_NAME = tarfile.LENGTH_NAME
PLAIN_SIZE = 8**11 - 1
# zip (also empty, or in segments), gzip, Zstandard. Tar is told by its checksum.
MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
# Categories of characters that are not seen: control, format, surrogate (bytes that are no UTF-8), line separators.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Persian, Hindi and emoji cannot be written without the two joiners.
JOINERS = "\u200c\u200d"


class FileChanged(PruneyardError):
    """A file is not what it was when its folder was listed, so the rest of the stream would be wrong."""

    def __init__(self, path: Path, listed: int) -> None:
        super().__init__(
            f"{path} changed while it was sent: it had {listed} bytes when the upload began.\n"
            "Leave the files as they are until the upload is over, and start it anew."
        )
        self.path = path


class Archive(ABC):
    """Bytes to upload: `size` of them, from `files` files; `left_out` counts what was not taken, by why."""

    path: Path
    size: int
    files: int | None = None
    left_out: Mapping[str, int]

    @abstractmethod
    def read_from(self, offset: int) -> Generator[bytes, None, None]:
        """All bytes from this one on, in pieces of at most 1 MiB; raises FileChanged, PruneyardError."""

    def part(self, offset: int, count: int) -> bytes:
        """So many bytes from this one on; fewer only at the end."""
        found = bytearray()
        with closing(self.read_from(offset)) as pieces:
            for piece in pieces:
                found += piece
                if len(found) >= count:
                    break
        return bytes(memoryview(found)[:count])


def pack(path: str | PathLike[str]) -> Archive:
    """The archive file or the folder at a path, ready to be sent.

    A folder is listed at once, with the sizes of its files; hidden files, symbolic links and what is no regular
    file are left out. Raises PruneyardError when there is nothing to send.
    """
    place = Path(path)
    with _sentences(place):
        return FolderArchive(place) if stat.S_ISDIR(place.stat().st_mode) else ArchiveFile(place)


class ArchiveFile(Archive):
    """A zip, tar, tar.gz or tar.zst file, sent as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out = {}
        with _sentences(path):
            if not path.is_file():
                raise PruneyardError(f"{path} is neither a file nor a folder.")
            self.size = path.stat().st_size
            with path.open("rb") as file:
                start = file.read(BLOCK)
        if not _is_archive(start):
            raise PruneyardError(f"{path} is no zip, tar, tar.gz or tar.zst file. Give one of these, or a folder.")

    def read_from(self, offset: int) -> Generator[bytes, None, None]:
        """The bytes of the file from this one on."""
        return _content(self.path, size=self.size, offset=_within(offset, self.size))


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a folder: relative path with forward slashes, bytes, and where its header stands in the stream."""

    name: str
    size: int
    start: int


class FolderArchive(Archive):
    """A folder as a tar stream; what it keeps in memory is the list of its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        listed, self.left_out = _list_files(path)
        if not listed:
            raise PruneyardError(f"{path} holds no files to send{_in_words(self.left_out)}.")
        self._entries, self._end = _laid_out(listed)
        self.files = len(self._entries)
        self.size = self._end + _padding(self._end + 2 * BLOCK, tarfile.RECORDSIZE) + 2 * BLOCK

    def read_from(self, offset: int) -> Generator[bytes, None, None]:
        """The bytes of the stream from this one on: the same ones whenever they are asked for."""
        return self._read(_within(offset, self.size))

    def _read(self, offset: int) -> Generator[bytes, None, None]:
        first = max(0, bisect_right(self._entries, offset, key=lambda entry: entry.start) - 1)
        for number in range(first, len(self._entries)):
            entry = self._entries[number]
            yield from self._entry(entry, skip=max(0, offset - entry.start))
        yield bytes(self.size - max(offset, self._end))

    def _entry(self, entry: Entry, *, skip: int) -> Generator[bytes, None, None]:
        """Header, content and padding of one file, without the first `skip` bytes."""
        header = _header(entry.name, entry.size)
        yield header[skip:]
        skip = max(0, skip - len(header))
        if skip < entry.size:
            yield from _content(self.path / entry.name, size=entry.size, offset=skip)
        yield bytes(max(0, _padding(entry.size, BLOCK) - max(0, skip - entry.size)))


def _list_files(folder: Path) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """Relative path and size of each file below a folder, and how much was left out for which reason."""
    found: list[tuple[str, int]] = []
    left_out: Counter[str] = Counter()
    waiting = [""]
    while waiting:
        place = waiting.pop()
        with _sentences(folder / place), os.scandir(folder / place) as items:
            for item in items:
                name = f"{place}{item.name}"
                if reason := _reason_to_leave_out(item):
                    left_out[reason] += 1
                elif item.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                else:
                    found.append((name, item.stat(follow_symlinks=False).st_size))
    return sorted(found), dict(sorted(left_out.items()))


def _reason_to_leave_out(item: os.DirEntry[str]) -> str | None:
    return next((reason for reason, applies in REASONS.items() if applies(item)), None)


def _is_special(item: os.DirEntry[str]) -> bool:
    return not item.is_dir(follow_symlinks=False) and not item.is_file(follow_symlinks=False)


def _has_unseen(item: os.DirEntry[str]) -> bool:
    """Whether the name has something that does not print: a service refuses a whole archive for one such name."""
    letters = "" if item.name.isprintable() else item.name
    return any(category(letter) in UNSEEN and letter not in JOINERS for letter in letters)


REASONS: dict[str, Callable[[os.DirEntry[str]], bool]] = {
    "hidden": lambda item: item.name.startswith("."),
    "symbolic links": lambda item: item.is_symlink(),
    "devices, pipes or sockets": _is_special,
    "names that do not print": _has_unseen,
}


def _in_words(left_out: Mapping[str, int]) -> str:
    counts = ", ".join(f"{reason}: {count:,}" for reason, count in left_out.items())
    return f" (left out: {counts})" if counts else ""


def _laid_out(listed: list[tuple[str, int]]) -> tuple[list[Entry], int]:
    """Where each file stands in the stream, and where the last one ends."""
    entries, start = [], 0
    for name, size in listed:
        entries.append(Entry(name, size, start))
        start += _header_bytes(name, size) + size + _padding(size, BLOCK)
    return entries, start


def _header_bytes(name: str, size: int) -> int:
    # Ten times faster than to make the header, which counts where there are half a million.
    plain = name.isascii() and len(name) <= PLAIN_NAME and size <= PLAIN_SIZE
    return BLOCK if plain else len(_header(name, size))


def _header(name: str, size: int) -> bytes:
    made = tarfile.TarInfo(name)
    made.size = size
    return made.tobuf(tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


def _padding(size: int, unit: int) -> int:
    return -size % unit


def _within(offset: int, size: int) -> int:
    if not 0 <= offset <= size:
        raise ValueError(f"offset {offset} is not within 0 and {size}")
    return offset


def _content(path: Path, *, size: int, offset: int) -> Generator[bytes, None, None]:
    with _sentences(path), path.open("rb") as file:
        _require_size(file, path, size)
        file.seek(offset)
        while offset < size:
            piece = file.read(min(CHUNK_BYTES, size - offset))
            if not piece:
                raise FileChanged(path, size)
            offset += len(piece)
            yield piece
        _require_size(file, path, size)


def _require_size(file: BufferedReader, path: Path, size: int) -> None:
    if os.fstat(file.fileno()).st_size != size:
        raise FileChanged(path, size)


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Errors of the file system as sentences that name the file."""
    try:
        yield
    except OSError as error:
        raise PruneyardError(f"{error.filename or path}: {error.strerror or error}.") from error


def _is_archive(start: bytes) -> bool:
    if start.startswith(MAGIC):
        return True
    try:
        tarfile.TarInfo.frombuf(start, encoding="utf-8", errors="surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
