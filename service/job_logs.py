"""The log of a job: what its processes printed, those of all attempts one after the other."""

from __future__ import annotations

import os
from codecs import utf_8_decode
from pathlib import Path

# As much as is read at once, and the longest line.
CHUNK = 64 * 1024


def tail(path: Path, most: int) -> bytes:
    """The last bytes of a log; none if nothing was printed yet."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - most))
            return log.read(most)
    except FileNotFoundError:
        return b""


def lines_after(path: Path, offset: int, *, finished: bool) -> list[tuple[int, str]]:
    """Some of the lines that begin at an offset in bytes, each with the offset of its end.

    The last one may still be being written: without a line break it counts only if the log is `finished`.
    """
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(min(offset, size))
            chunk = log.read(CHUNK)
    except FileNotFoundError:
        return []
    end = offset + len(chunk)
    found = []
    for line in chunk.splitlines(keepends=True):
        last = offset + len(line) == end
        # What ends with a carriage return may go on with a line feed.
        whole = not last or line.endswith(b"\n") or (finished and end >= size)
        if not whole and len(line) < CHUNK:
            break
        bare = line.rstrip(b"\r\n")
        text, read = utf_8_decode(bare, "replace", whole)  # half a character at the end of a part is of the next
        offset += len(line) - len(bare) + read
        found.append((offset, text))
    return found
