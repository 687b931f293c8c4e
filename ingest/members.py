"""The files of an archive or a folder, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MEBIBYTE = 1024 * 1024
GIBIBYTE = 1024 * MEBIBYTE

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
