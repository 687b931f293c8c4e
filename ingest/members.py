"""The files of an archive or a folder, one after the other."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ingest.errors import BadArchive

MEBIBYTE = 1024 * 1024
GIBIBYTE = 1024 * MEBIBYTE
RATIO_COUNTS_FROM = 64 * MEBIBYTE
CHUNK = MEBIBYTE

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Limits:
    """How much is read before it is refused; sizes in bytes, of what comes out rather than of what is declared."""

    max_files: int = 500_000
    max_file_bytes: int = 50 * MEBIBYTE
    max_total_bytes: int = 20 * GIBIBYTE
    max_ratio: int = 200


@dataclass(frozen=True)
class Member:
    """One regular file: a clean relative path with forward slashes, in NFC, and its content.

    Where label and split are known already they are given; else the layout of all paths tells them.
    """

    path: str
    data: bytes
    label: str | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Rejected:
    """One file that cannot be used, and why: a word and a sentence."""

    path: str
    reason: str
    message: str


def join_pieces(pieces: Iterable[bytes]) -> bytes:
    """All pieces as one, without holding them twice, as `bytes.join` would."""
    joined = io.BytesIO()
    for piece in pieces:
        joined.write(piece)
    return joined.getvalue()


class Meter:
    """Counts what is read and what comes out of it, and raises BadArchive as soon as one of the limits is passed.

    The ratio is that of all bytes unpacked so far to all bytes read for them so far. It says nothing of small
    archives, where one blank image weighs too much, and so counts only once 64 MiB have come out.
    """

    def __init__(self, limits: Limits, of: str = "archive") -> None:
        self.limits = limits
        self._of = of
        self._entries = self._packed = self._unpacked = 0

    def count_entry(self) -> None:
        """One more file, folder or other entry."""
        self._entries += 1
        if self._entries > self.limits.max_files:
            raise self.too_many_files()

    def too_many_files(self) -> BadArchive:
        """The error of more entries than are allowed."""
        message = f"The {self._of} has more than {self.limits.max_files:,} entries."
        return BadArchive("too_many_files", message, "Leave out what is no image, or make several data sets of it.")

    def count_packed(self, size: int) -> None:
        """So many more bytes were read as they are stored."""
        self._packed += size

    def count_unpacked(self, size: int) -> None:
        """So many more bytes came out."""
        self._unpacked += size
        if self._unpacked > RATIO_COUNTS_FROM and self._unpacked > self.limits.max_ratio * self._packed:
            message = f"The {self._of} unpacks to more than {self.limits.max_ratio} times its size."
            raise BadArchive(
                "archive_bomb", message, "Images hardly shrink when packed: pack the image files themselves."
            )
        if self._unpacked > self.limits.max_total_bytes:
            message = f"The {self._of} holds more than {self.limits.max_total_bytes:,} bytes."
            raise BadArchive("too_many_bytes", message, "Scale the images down, or make several data sets of them.")

    def too_large(self, path: str) -> Rejected:
        """The verdict on one file over the limit of a single file."""
        message = f"The file is larger than {self.limits.max_file_bytes:,} bytes."
        return Rejected(path, "too_many_bytes", message)
