"""Tar archives as a stream that is read once, forwards: ustar and pax (POSIX.1-2008, pax, "ustar Interchange Format")
and what GNU tar adds for long names and large sizes (GNU tar manual, "Basic Tar Format").

The reader is strict: each header has its checksum, numbers are numbers, and the archive ends with its two blocks of
zeros. Links, devices and sparse files are refused, since nothing but plain files makes an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ingest.errors import BadArchive
from ingest.members import CHUNK, Member, Meter, Rejected, join_pieces
from ingest.names import clean_folder, clean_path, decode_name, is_junk, shown

BLOCK = 512
ZEROS = bytes(BLOCK)
MAX_EXTENSION_BYTES = 64 * 1024
# Long name, long link, pax and global pax headers may precede a file, once each; more than that is a game.
MAX_EXTENSIONS = 8
OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
DECIMAL = re.compile(rb"[0-9]{1,20}")
PAX_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ")
REGULAR, FOLDERS = {b"0", b"\0", b"7"}, {b"5"}
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, LABEL = b"L", b"K", {b"x", b"X"}, b"g", b"V"
EXTENSIONS = {LONG_NAME, LONG_LINK, PAX_GLOBAL, *PAX}
SPARSE, SPARSE_PREFIX = b"S", b"GNU.sparse."
NOT_REGULAR = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    SPARSE: "a sparse file",
}
PACK_AGAIN = "Pack the files again, for example with tar -cf, and send the whole archive."

Read = Callable[[int], bytes]


class _Header(NamedTuple):
    """One header: the type of what follows, its name, its size in bytes."""

    kind: bytes
    raw_name: bytes
    size: int

    @property
    def name(self) -> str:
        """The name as text."""
        return decode_name(self.raw_name)

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder: by its type, or, as before 1988, by the end of its name."""
        return self.kind in FOLDERS or (self.kind in REGULAR and self.raw_name.endswith(b"/"))


def is_tar(block: bytes) -> bool:
    """Whether a first block of 512 bytes begins a tar archive (one without any file begins with zeros)."""
    return len(block) == BLOCK and (block == ZEROS or block[257:262] == b"ustar" or _has_checksum(block))


def read_tar(read: Read, meter: Meter) -> Iterator[Member | Rejected]:
    """The files of a tar archive; `read` answers so many bytes, or fewer at the end. BadArchive as `read_archive`."""
    blocks = _Blocks(read)
    while (header := _next_entry(blocks)) is not None:
        meter.count_entry()
        _refuse(header)
        if header.kind == LABEL or header.is_folder:
            clean_folder(header.name)
            continue
        path = clean_path(header.name)
        if is_junk(path):
            blocks.skip(header.size)
        elif header.size > meter.limits.max_file_bytes:
            blocks.skip(header.size)
            yield meter.too_large(path)
        else:
            yield Member(path, blocks.content(header.size))


class _Blocks:
    """The stream cut into blocks: headers, and contents that are filled up to whole blocks."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._first = b"".join(self._pieces(BLOCK))
        if len(self._first) < BLOCK:
            raise _cut_off()
        if not is_tar(self._first):
            raise BadArchive("not_an_archive", "What was unpacked is no tar archive.", PACK_AGAIN)

    def header(self) -> bytes | None:
        """The next header; None at the end of the archive."""
        block, self._first = self._first or self._whole(BLOCK), b""
        if block != ZEROS:
            return block
        if b"".join(self._pieces(BLOCK)).strip(b"\0"):
            raise _damaged("There is a block of zeros between the files of the tar archive.")
        return None

    def content(self, size: int) -> bytes:
        """So many bytes; what fills up the last block is skipped."""
        content = self._whole(size)
        self._whole(-size % BLOCK)
        return content

    def skip(self, size: int) -> None:
        """Reads over a content without keeping it. If it breaks off, so does the next header."""
        for _ in self._pieces(size + -size % BLOCK):
            pass

    def _whole(self, size: int) -> bytes:
        data = join_pieces(self._pieces(size))
        if len(data) < size:
            raise _cut_off()
        return data

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size and (piece := self._read(min(CHUNK, size))):
            size -= len(piece)
            yield piece


def _next_entry(blocks: _Blocks) -> _Header | None:
    """The next header of a file or folder, with what the extensions before it say; None at the end."""
    long_name, records = b"", dict[bytes, bytes]()
    for number in range(MAX_EXTENSIONS + 1):
        block = blocks.header()
        if block is None and number:
            raise _damaged("The tar archive ends where a file was announced.")
        if block is None:
            return None
        header = _parse_header(block)
        if header.kind not in EXTENSIONS:
            return _extend(header, long_name, records)
        data = _extension(blocks, header)
        if header.kind == LONG_NAME:
            long_name = data.partition(b"\0")[0]
        elif header.kind in PAX:
            records = _parse_records(data)
    raise _damaged(f"A file of the tar archive has more than {MAX_EXTENSIONS} headers.")


def _parse_header(block: bytes) -> _Header:
    name = block[:100].partition(b"\0")[0]
    if not _has_checksum(block):
        raise _damaged(f'The header of "{shown(decode_name(name))}" does not have the checksum it declares.')
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    size = _number(block[124:136])
    if size is None:
        raise _damaged(f'The size of "{shown(decode_name(name))}" is not a number from 0.')
    return _Header(block[156:157], name, size)


def _has_checksum(block: bytes) -> bool:
    rest = block[:148] + block[156:]
    total, declared = sum(rest) + 8 * ord(" "), _number(block[148:156])
    # Some old writers added the bytes up as signed numbers.
    return declared == total or declared == total - 256 * sum(byte > 127 for byte in rest)


def _number(field: bytes) -> int | None:
    """A number from 0 in octal digits, or in base 256 after a byte 0x80; None for anything else."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = OCTAL.fullmatch(field)
    return int(digits[1] or b"0", 8) if digits else None


def _extension(blocks: _Blocks, header: _Header) -> bytes:
    if header.size > MAX_EXTENSION_BYTES:
        message = f"A name in the tar archive, or what is noted with it, takes {header.size:,} bytes."
        raise BadArchive("unsafe_name", message, "Rename the file, or pack without extended attributes.")
    return blocks.content(header.size)


def _parse_records(data: bytes) -> dict[bytes, bytes]:
    """The records "LENGTH KEY=VALUE\\n" of a pax header."""
    records = {}
    at = 0
    while at < len(data):
        length = PAX_RECORD.match(data, at)
        end = at + int(length[1]) if length else 0
        key, equals, value = data[length.end() if length else at : end].partition(b"=")
        if not equals or end > len(data) or not value.endswith(b"\n"):
            raise _damaged("A pax header of the tar archive is damaged.")
        records[key] = value[:-1]
        at = end
    return records


def _extend(header: _Header, long_name: bytes, records: dict[bytes, bytes]) -> _Header:
    name = records.get(b"path") or long_name or header.raw_name
    if any(key.startswith(SPARSE_PREFIX) for key in records):
        return _Header(SPARSE, name, header.size)
    size = records.get(b"size")
    if size is not None and not DECIMAL.fullmatch(size):
        raise _damaged(f'The size of "{shown(decode_name(name))}" is not a number from 0.')
    return _Header(header.kind, name, header.size if size is None else int(size))


def _refuse(header: _Header) -> None:
    if header.kind in REGULAR | FOLDERS | {LABEL}:
        return
    kind = NOT_REGULAR.get(header.kind, "of a kind that is not known")
    message = f'"{shown(header.name)}" is {kind}, not a regular file.'
    raise BadArchive("not_a_regular_file", message, "Pack the files themselves: tar -ch --hard-dereference.")


def _cut_off() -> BadArchive:
    return _damaged("The tar archive breaks off.")


def _damaged(message: str) -> BadArchive:
    return BadArchive("damaged_archive", message, PACK_AGAIN)
