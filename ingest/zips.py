"""Zip archives, read by their directory (PKWARE, .ZIP File Format Specification 6.3, section 4.3).

The directory is walked twice, in pieces, so that memory does not grow with names and comments. The first walk counts
entries and notes where they begin, before anything is unpacked: no two may share bytes, which is how small archives
come to unpack without end (Fifield, A better zip bomb, WOOT 2019). The second walk unpacks one after the other.
Only names and sizes of the directory count; what stands before each file is not compared with them.
"""

from __future__ import annotations

import stat
import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from ingest.errors import BadArchive
from ingest.members import CHUNK, Member, Meter, Rejected, join_pieces
from ingest.names import clean_folder, clean_path, decode_name, is_junk, shown

END = struct.Struct("<4s4H2LH")
END_64_LOCATOR = struct.Struct("<4sLQL")
END_64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s4B4H3L5H2L")
LENGTHS, LENGTHS_AT = struct.Struct("<3H"), 28
OFFSET = struct.Struct("<L")  # the last field of an entry
LOCAL = struct.Struct("<4s5H3L2H")
END_MAGIC, END_64_LOCATOR_MAGIC, END_64_MAGIC = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
ENTRY_MAGIC, LOCAL_MAGIC = b"PK\x01\x02", b"PK\x03\x04"
LONGEST_ENTRY = ENTRY.size + 3 * 0xFFFF
LONGEST_END = END.size + 0xFFFF
UNKNOWN_16, UNKNOWN_32 = 0xFFFF, 0xFFFFFFFF
EXTRA_64, EXTRA_NAME = 0x0001, 0x7075
ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
PATCHED = 1 << 5
STORED, DEFLATED = 0, 8
NOT_REGULAR = {stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}
PACK_AGAIN = "Pack the files again, for example with zip -r."


class _Directory(NamedTuple):
    """Where the directory begins, its bytes, how many entries it declares, and whether in 64 bits."""

    start: int
    size: int
    entries: int
    is_64: bool

    def declares(self, count: int) -> bool:
        """Whether this is the number declared. Writers that know only 16 bits for it let it overflow."""
        return count == self.entries or (not self.is_64 and count % (1 << 16) == self.entries)


class _Entry(NamedTuple):
    """What the directory tells of one file: sizes and offset in bytes."""

    raw_name: bytes
    extra: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    attributes: int
    offset: int

    @property
    def name(self) -> str:
        """The name; an extra field with its UTF-8 spelling comes first, if it was made for this name."""
        field = _extra_field(self.extra, EXTRA_NAME)
        if field[:5] == b"\x01" + zlib.crc32(self.raw_name).to_bytes(4, "little"):
            return decode_name(field[5:])
        return decode_name(self.raw_name)

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder: by the end of its name, or by its mode."""
        return self.raw_name.endswith((b"/", b"\\")) or stat.S_ISDIR(self.attributes >> 16)


def read_zip(file: BinaryIO, meter: Meter) -> Iterator[Member | Rejected]:
    """The files of a zip archive in the order of its directory; BadArchive as from `read_archive`."""
    directory = _find_directory(file)
    begins = _find_begins(file, directory, meter)
    for entry in _entries(file, directory):
        _refuse(entry)
        path = clean_folder(entry.name) if entry.is_folder else clean_path(entry.name)
        if entry.is_folder or is_junk(path):
            continue
        if entry.size > meter.limits.max_file_bytes:
            yield meter.too_large(path)
            continue
        following = bisect_right(begins, entry.offset)
        end = begins[following] if following < len(begins) else directory.start
        yield Member(path, _content(file, entry, end, meter))


def _find_directory(file: BinaryIO) -> _Directory:
    length = file.seek(0, 2)
    tail = _read(file, max(0, length - LONGEST_END), LONGEST_END)
    at = _find_end(tail)
    end = length - len(tail) + at
    _, disk, first_disk, _, entries, size, start, _ = END.unpack_from(tail, at)
    directory = _Directory(start, size, entries, is_64=False)
    if entries == UNKNOWN_16 or UNKNOWN_32 in {size, start}:
        directory = _find_directory_64(file, end) or directory
    if disk not in {0, UNKNOWN_16} or first_disk not in {0, UNKNOWN_16}:
        raise _damaged("The zip archive is one of several parts.")
    if directory.start + directory.size > end:
        raise _damaged("The directory of the zip archive does not lie where its end says.")
    return directory


def _find_end(tail: bytes) -> int:
    """Where the record lies that ends the archive: the last one whose comment reaches to the end of the file."""
    at = tail.rfind(END_MAGIC)
    while at >= 0:
        if at + END.size <= len(tail) and at + END.size + END.unpack_from(tail, at)[-1] == len(tail):
            return at
        at = tail.rfind(END_MAGIC, 0, at)
    raise _damaged("The zip archive has no directory at its end: it was cut off, or something was added to it.")


def _find_directory_64(file: BinaryIO, end: int) -> _Directory | None:
    """The directory by the 64-bit records before the end; None if there are none."""
    if end < END_64_LOCATOR.size:
        return None
    magic, _, position, disks = END_64_LOCATOR.unpack(_read(file, end - END_64_LOCATOR.size, END_64_LOCATOR.size))
    if magic != END_64_LOCATOR_MAGIC:
        return None
    if disks > 1 or position + END_64.size > end - END_64_LOCATOR.size:
        raise _damaged("The end of the zip archive points outside it.")
    magic, *_, entries, size, start = END_64.unpack(_read(file, position, END_64.size))
    if magic != END_64_MAGIC:
        raise _damaged("The end of the zip archive is damaged.")
    return _Directory(start, size, entries, is_64=True)


def _find_begins(file: BinaryIO, directory: _Directory, meter: Meter) -> Sequence[int]:
    """Where the entries begin in the file, in rising order; 8 bytes of memory for each."""
    if directory.entries > meter.limits.max_files:
        raise meter.too_many_files()
    begins = array("Q")
    for block, at, length in _pieces_of_directory(file, directory):
        meter.count_entry()
        (offset,) = OFFSET.unpack_from(block, at + ENTRY.size - OFFSET.size)
        if offset == UNKNOWN_32:
            offset = _parse_entry(block, at, length).offset
        if offset >= directory.start:  # among others those that no file can have
            raise _damaged("A file lies outside the zip archive.")
        begins.append(offset)
    if not directory.declares(len(begins)):
        raise _damaged(f"The zip archive has {len(begins):,} entries and declares {directory.entries:,}.")
    begins = array("Q", sorted(begins))
    if any(begin == following for begin, following in pairwise(begins)):
        raise _overlapping()
    return begins


def _entries(file: BinaryIO, directory: _Directory) -> Iterator[_Entry]:
    for block, at, length in _pieces_of_directory(file, directory):
        yield _parse_entry(block, at, length)


def _pieces_of_directory(file: BinaryIO, directory: _Directory) -> Iterator[tuple[bytes, int, int]]:
    """Pieces of the directory; in each, where an entry begins and how long it is."""
    position, end = directory.start, directory.start + directory.size
    block, at = b"", 0
    while position < end:
        if len(block) - at < LONGEST_ENTRY and position + len(block) - at < end:
            block, at = _read(file, position, min(CHUNK, end - position)), 0
        if len(block) - at < ENTRY.size or not block.startswith(ENTRY_MAGIC, at):
            raise _damaged("The directory of the zip archive is damaged.")
        length = ENTRY.size + sum(LENGTHS.unpack_from(block, at + LENGTHS_AT))
        if at + length > len(block):
            raise _damaged("The directory of the zip archive breaks off.")
        yield block, at, length
        position, at = position + length, at + length


def _parse_entry(block: bytes, at: int, length: int) -> _Entry:
    fields = ENTRY.unpack_from(block, at)
    flags, method, crc, packed, size = fields[5], fields[6], *fields[9:12]
    name_end = at + ENTRY.size + fields[12]
    name, extra = block[at + ENTRY.size : name_end], block[name_end : at + length - fields[14]]
    attributes, offset = fields[17:]
    if UNKNOWN_32 in {packed, size, offset}:
        size, packed, offset = _sizes_64(extra, size, packed, offset)
    return _Entry(name, extra, flags, method, crc, packed, size, attributes, offset)


def _sizes_64(extra: bytes, *sizes: int) -> list[int]:
    """Size, packed size and offset, each from the 64-bit field where it did not fit into 32 bits."""
    numbers = [number for (number,) in struct.iter_unpack("<Q", _extra_field(extra, EXTRA_64)[: 3 * 8])]
    wide = iter(numbers)
    try:
        return [next(wide) if size == UNKNOWN_32 else size for size in sizes]
    except StopIteration:
        raise _damaged("An entry of the zip archive lacks its 64-bit sizes.") from None


def _extra_field(extra: bytes, wanted: int) -> bytes:
    """The content of an extra field; empty if there is none."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _refuse(entry: _Entry) -> None:
    """Raises for entries that are no plain files, or are packed in a way that is not read."""
    name = shown(entry.name)
    if entry.flags & ENCRYPTED:
        raise BadArchive("encrypted", f'"{name}" is encrypted.', "Pack the files again without a password.")
    if stat.S_IFMT(entry.attributes >> 16) in NOT_REGULAR:
        message = f'"{name}" is a link or a device, not a regular file.'
        raise BadArchive("not_a_regular_file", message, "Pack the files themselves.")
    if entry.method not in {STORED, DEFLATED} or entry.flags & PATCHED:
        message = f'"{name}" is packed by method {entry.method}, which is not read.'
        raise BadArchive("damaged_archive", message, "Pack the files again with the method Deflate, or Store.")


def _content(file: BinaryIO, entry: _Entry, end: int, meter: Meter) -> bytes:
    """The bytes of one file, which must lie before `end`; counted as they come."""
    name = shown(entry.name)
    header = _read(file, entry.offset, LOCAL.size)
    if len(header) < LOCAL.size or not header.startswith(LOCAL_MAGIC):
        raise _damaged(f'"{name}" is not where the directory of the zip archive says.')
    *_, name_length, extra_length = LOCAL.unpack(header)
    start = entry.offset + LOCAL.size + name_length + extra_length
    if start + entry.packed > end:
        raise _overlapping()
    pieces = _pieces(file, start, entry.packed, meter)
    try:
        return join_pieces(_checked(pieces if entry.method == STORED else _inflate(pieces), entry, meter))
    except zlib.error:
        raise _damaged(f'"{name}" cannot be unpacked.') from None


def _pieces(file: BinaryIO, start: int, size: int, meter: Meter) -> Iterator[bytes]:
    file.seek(start)
    while size and (piece := file.read(min(CHUNK, size))):
        meter.count_packed(len(piece))
        size -= len(piece)
        yield piece


def _inflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What deflated bytes unpack to, in chunks of bounded size; zlib.error unless they end where the stream ends."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    for packed in pieces:
        left = packed
        while left:
            yield stream.decompress(left, CHUNK)
            left = stream.unconsumed_tail
    while rest := stream.decompress(b"", CHUNK):
        yield rest
    if not stream.eof or stream.unused_data:
        raise zlib.error("the stream does not end where its bytes do")


def _checked(chunks: Iterator[bytes], entry: _Entry, meter: Meter) -> Iterator[bytes]:
    """The chunks, counted; BadArchive unless they have the size and the checksum that the directory declares."""
    size = crc = 0
    for chunk in chunks:
        meter.count_unpacked(len(chunk))
        size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        if size > entry.size:
            break
        yield chunk
    if size != entry.size:
        raise _damaged(f'"{shown(entry.name)}" does not have the size that the zip archive declares.')
    if crc != entry.crc:
        raise _damaged(f'"{shown(entry.name)}" does not have the checksum that the zip archive declares.')


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _overlapping() -> BadArchive:
    message = "Files of the zip archive share the same bytes."
    return BadArchive("archive_bomb", message, PACK_AGAIN)


def _damaged(message: str) -> BadArchive:
    return BadArchive("damaged_archive", message, PACK_AGAIN)
