"""Archives of images as a stream of files: zip, tar, tar.gz and tar.zst, told apart by their content.

Nothing is ever extracted: no file, folder or link is made, and names stay names. What is kept in memory is one file of
the archive, and for zip eight bytes for each. Limits are held against the bytes that really come out, piece by piece,
whatever sizes the archive declares.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from ingest.errors import BadArchive
from ingest.members import CHUNK, MEBIBYTE, Limits, Member, Meter, Rejected
from ingest.tars import BLOCK, is_tar, read_tar
from ingest.zips import read_zip

MAX_WINDOW = 128 * MEBIBYTE
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04")
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
GZIP = 16 + zlib.MAX_WBITS
# Small pieces: what follows the end of a member is copied for each member, and a member may be 20 bytes.
GZIP_CHUNK = 16 * 1024
KINDS = "zip, tar, tar.gz, tar.zst"
OTHERS = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\xfd7zXZ\x00": "packed by xz",
    b"BZh": "packed by bzip2",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
}
SEND_ARCHIVE = f"Send an archive of one of these kinds: {KINDS}."

Reader = Callable[[BinaryIO, Meter], Iterator[Member | Rejected]]
Read = Callable[[int], bytes]


def read_archive(path: Path, limits: Limits) -> Iterator[Member | Rejected]:
    """The regular files of an archive, in its order, without what desktops add; a file over its limit is rejected.

    BadArchive, at any point of the iteration, if the archive is of no kind on the list, damaged, encrypted, over a
    limit, or has a link, a device or a name that could do harm. What came before is then not to be used either.
    A path may come more than once. An archive in an archive is a file like any other.
    """
    with path.open("rb") as file:
        read = _reader_of(file.read(BLOCK))
        file.seek(0)
        yield from read(file, Meter(limits))


def _reader_of(first: bytes) -> Reader:
    """How to read an archive that begins with these bytes."""
    if first.startswith(ZIP_MAGICS):
        return read_zip
    if first.startswith(GZIP_MAGIC):
        return _read_tar_gz
    if first.startswith(ZSTD_MAGIC) or (first[:1] and 0x50 <= first[0] <= 0x5F and first[1:4] == ZSTD_SKIPPABLE):
        return _read_tar_zst
    if is_tar(first):
        return _read_plain_tar
    found = next((name for magic, name in OTHERS.items() if first.startswith(magic)), "no archive that can be read")
    raise BadArchive("not_an_archive", f"The file is {found}." if first else "The file is empty.", SEND_ARCHIVE)


def _read_plain_tar(file: BinaryIO, meter: Meter) -> Iterator[Member | Rejected]:
    yield from read_tar(_counted(_counted(file.read, meter.count_packed), meter.count_unpacked), meter)


def _read_tar_gz(file: BinaryIO, meter: Meter) -> Iterator[Member | Rejected]:
    packed = _counted(file.read, meter.count_packed)
    yield from _read_to_end(_counted(_Gunzip(packed).read, meter.count_unpacked), meter)


def _read_tar_zst(file: BinaryIO, meter: Meter) -> Iterator[Member | Rejected]:
    packed = _counted(file.read, meter.count_packed)
    yield from _read_to_end(_counted(_unpack_zstd(packed), meter.count_unpacked), meter)


def _read_to_end(read: Read, meter: Meter) -> Iterator[Member | Rejected]:
    yield from read_tar(read, meter)
    # The checksum of the whole comes after the tar archive.
    while read(CHUNK):
        pass


def _counted(read: Read, count: Callable[[int], None]) -> Read:
    def counted(size: int) -> bytes:
        data = read(size)
        count(len(data))
        return data

    return counted


class _Source:
    """What the Zstandard reader wants of a file."""

    def __init__(self, read: Read) -> None:
        self.read = read


def _unpack_zstd(packed: Read) -> Read:
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    stream = unpacker.stream_reader(cast(BinaryIO, _Source(packed)), read_across_frames=True, closefd=False)

    def read(size: int) -> bytes:
        try:
            return stream.read(size)
        except zstandard.ZstdError as error:
            hint = "Pack the files again, with a window of at most 128 MiB (zstd --long=27)."
            raise BadArchive("damaged_archive", f"Zstandard cannot unpack the archive ({error}).", hint) from None

    return read


class _Gunzip:
    """What one or more gzip members unpack to (RFC 1952), each with its checksum verified."""

    def __init__(self, packed: Read) -> None:
        self._read = packed
        self._packed = b""
        self._stream = zlib.decompressobj(GZIP)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        while not self._stream.eof or self._begin_member():
            packed = self._packed or self._read(GZIP_CHUNK)
            try:
                data = self._stream.decompress(packed, size)
            except zlib.error as error:
                raise _damaged_gzip(f"gzip cannot unpack the archive ({error}).") from None
            self._packed = self._stream.unconsumed_tail
            if data:
                return data
            if not packed and not self._stream.eof:
                raise _damaged_gzip("The archive breaks off.")
        return b""

    def _begin_member(self) -> bool:
        """Whether another member follows. Zeros that fill up a block are skipped, and anything else ends the stream."""
        rest = self._stream.unused_data.lstrip(b"\0")
        while len(rest) < len(GZIP_MAGIC) and (more := self._read(GZIP_CHUNK)):
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(GZIP_MAGIC):
            return False
        self._stream, self._packed = zlib.decompressobj(GZIP), rest
        return True


def _damaged_gzip(message: str) -> BadArchive:
    return BadArchive(
        "damaged_archive", message, "Pack the files again, for example with tar -czf, and send all of it."
    )
