"""Builders of good, hostile and damaged archives.

`GOOD_ARCHIVES[name]` builds an archive of `GOOD_FILES`. `HOSTILE[name]` is (builder, reason with which what it builds
must be refused). Each builds its bytes in less than two seconds, and is refused under the default `Limits`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import zstandard

Builder = Callable[[], bytes]

MEBIBYTE = 1024 * 1024
BLOCK = 512
IMAGE = random.Random(0).randbytes(3000)
GOOD_FILES = {f"{label}/{number}.jpg": IMAGE[number:] for label in ("cat", "dog") for number in range(5)}
REGULAR = stat.S_IFREG | 0o644


# Zip archives of raw parts, in which everything can be a lie.


@dataclass(frozen=True)
class ZipEntry:
    """One file as its headers tell of it; what is None is told truly. `data` is as it lies in the archive."""

    name: bytes
    data: bytes = IMAGE
    method: int = zipfile.ZIP_STORED
    flags: int = 0x800
    crc: int | None = None
    packed: int | None = None
    size: int | None = None
    mode: int = REGULAR
    extra: bytes = b""
    offset: int | None = None

    def fields(self) -> tuple[int, int, int, int, int, int, int]:
        """What local header and directory have in common: flags, method, time, date, checksum and sizes."""
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        packed = len(self.data) if self.packed is None else self.packed
        return self.flags, self.method, 0, 0x21, crc, packed, packed if self.size is None else self.size


def local_part(entry: ZipEntry) -> bytes:
    """The header of an entry and its data."""
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, *entry.fields(), len(entry.name), 0)
    return header + entry.name + entry.data


def directory_part(entry: ZipEntry, offset: int) -> bytes:
    """The entry as it stands in the directory."""
    offset = offset if entry.offset is None else entry.offset
    lengths = (len(entry.name), len(entry.extra), 0, 0, 0)
    header = struct.pack("<4s2H", b"PK\x01\x02", 20 | 3 << 8, 20)
    header += struct.pack("<4H3L5H2L", *entry.fields(), *lengths, entry.mode << 16, offset)
    return header + entry.name + entry.extra


def end_part(entries: int, size: int, start: int, disk: int = 0) -> bytes:
    """The record that ends a zip archive."""
    return struct.pack("<4s4H2LH", b"PK\x05\x06", disk, disk, entries, entries, size, start, 0)


def end_64_part(entries: int, size: int, start: int, at: int | None = None) -> bytes:
    """The records that come before the end of a large archive; they lie behind the directory unless told otherwise."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, size, start)
    return record + struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size if at is None else at, 1)


ANY_END = end_part(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def zip_of(*entries: ZipEntry) -> bytes:
    """A zip archive of these entries."""
    body, directory = b"", b""
    for entry in entries:
        directory += directory_part(entry, len(body))
        body += local_part(entry)
    return body + directory + end_part(len(entries), len(directory), len(body))


def good_zip(compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The good files as Python packs them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in GOOD_FILES.items():
            archive.writestr(name, data)
    return file.getvalue()


def zip_with(**lies: object) -> bytes:
    """A zip archive of one good file and one of which something is not true."""
    return zip_of(ZipEntry(b"cat/1.jpg"), ZipEntry(**({"name": b"cat/2.jpg"} | lies)))  # type: ignore[arg-type]


@cache
def deflated_zeros(mebibytes: int) -> bytes:
    """Zeros, about a thousandth of their size."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(bytes(mebibytes * MEBIBYTE)) + packer.flush()


def zip_bomb() -> bytes:
    """A zip archive that unpacks to a thousand times its size, each file within the limit of a file."""
    size = 40 * MEBIBYTE
    zeros = ZipEntry(b"", deflated_zeros(40), zipfile.ZIP_DEFLATED, size=size, crc=zlib.crc32(bytes(size)))
    return zip_of(*(replace(zeros, name=b"cat/%d.jpg" % number) for number in range(4)))


def zip_overlapping_offsets() -> bytes:
    """A hundred entries for the same bytes."""
    return zip_of(*(ZipEntry(b"cat/%d.jpg" % number, offset=0) for number in range(100)))


def zip_overlapping_quoted() -> bytes:
    """The data of the first entry hold the header of the second (Fifield, section 4)."""
    second = ZipEntry(b"cat/2.jpg")
    first = ZipEntry(b"cat/1.jpg", local_part(second))
    body = local_part(first)
    directory = directory_part(first, 0) + directory_part(second, len(body) - len(local_part(second)))
    return body + directory + end_part(2, len(directory), len(body))


def zip_overlapping_directory() -> bytes:
    """An entry whose data reach into the directory."""
    return zip_of(ZipEntry(b"cat/1.jpg", packed=len(IMAGE) + 60, size=len(IMAGE) + 60))


def zip_of_a_million(*, declared: bool) -> bytes:
    """A million entries for the same empty file, of which 16 bits of the number are declared, or all."""
    count = 1_000_000
    entry = ZipEntry(b"a", b"")
    body, directory = local_part(entry), directory_part(entry, 0) * count
    if not declared:
        return body + directory + end_part(count % (1 << 16), len(directory), len(body))
    return body + directory + end_64_part(count, len(directory), len(body)) + ANY_END


def zip_by_its_end(entries: int, size: int, start: int) -> bytes:
    """A zip archive without directory, whose end tells of one."""
    body = local_part(ZipEntry(b"1.jpg"))
    return body + end_64_part(entries, size, start, len(body)) + ANY_END


def zip_with_deflated(data: bytes, end: int = zlib.Z_FINISH, behind: bytes = b"") -> bytes:
    """A zip archive with a deflated file whose stream ends in this way."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush(end) + behind
    return zip_with(data=packed, method=8, size=len(data), crc=zlib.crc32(data))


def zip_by_lzma() -> bytes:
    """A zip archive packed by a method that is not read."""
    return good_zip(zipfile.ZIP_LZMA)


# Tar archives of raw blocks.


def tar_header(name: bytes = b"cat/1.jpg", size: int | bytes = 0, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A ustar header with its checksum; a size given as bytes stands there as it is."""
    field = b"%011o\0" % size if isinstance(size, int) else size
    block = name.ljust(100, b"\0")[:100] + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0" + b" " * 8
    block = (block + kind + link.ljust(100, b"\0") + b"ustar\x0000").ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def tar_part(data: bytes = IMAGE, **header: object) -> bytes:
    """A header, with the size of the data unless told otherwise, and the data."""
    return tar_header(**({"size": len(data)} | header)) + data + bytes(-len(data) % BLOCK)  # type: ignore[arg-type]


def tar_of(*parts: bytes) -> bytes:
    """A tar archive of one good file and these parts."""
    return tar_part() + b"".join(parts) + bytes(2 * BLOCK)


def pax_part(**records: bytes) -> bytes:
    """A pax header with these records; two underscores in a key stand for a dot."""
    data = b""
    for key, value in records.items():
        text = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(text)
        while length != len(text) + len(b"%d" % length):
            length = len(text) + len(b"%d" % length)
        data += b"%d" % length + text
    return tar_part(data, name=b"pax", kind=b"x")


def good_tar(form: int = tarfile.PAX_FORMAT) -> bytes:
    """The good files as Python packs them."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in GOOD_FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def tar_bomb() -> bytes:
    """Zeros in good order; they become a bomb when they are packed."""
    return tar_of(*(tar_header(size=40 * MEBIBYTE) + bytes(40 * MEBIBYTE) for _ in range(3)))


def tar_of_bad_checksum() -> bytes:
    """A tar archive whose second header has another name than when its checksum was made."""
    return tar_of(tar_part().replace(b"cat/1", b"cat/2"))


def zstd_of_large_window() -> bytes:
    """A good tar archive that wants 512 MiB to be unpacked."""
    options = zstandard.ZstdCompressionParameters.from_level(1, window_log=29)
    packer = zstandard.ZstdCompressor(compression_params=options).compressobj()
    return packer.compress(good_tar()) + packer.flush()


def half(build: Builder) -> bytes:
    """The first half of an archive."""
    data = build()
    return data[: len(data) // 2]


def zst(data: bytes) -> bytes:
    """Packed by Zstandard, with a checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


GOOD_ARCHIVES: Mapping[str, Builder] = {
    "zip_deflated": good_zip,
    "zip_stored": partial(good_zip, zipfile.ZIP_STORED),
    "tar_ustar": partial(good_tar, tarfile.USTAR_FORMAT),
    "tar_gnu": partial(good_tar, tarfile.GNU_FORMAT),
    "tar_pax": good_tar,
    "tar_gz": lambda: gzip.compress(good_tar()),
    "tar_zst": lambda: zst(good_tar()),
}

UNSAFE_NAMES: Mapping[str, bytes] = {
    "climbing": b"../../canary.jpg",
    "climbing_inside": b"cat/../../canary.jpg",
    "climbing_by_backslash": b"cat\\..\\..\\canary.jpg",
    "climbing_folder": b"../canary/",
    "absolute": b"/tmp/canary.jpg",
    "absolute_by_backslash": b"\\\\server\\share\\canary.jpg",
    "drive": b"C:\\canary.jpg",
    "drive_relative": b"C:canary.jpg",
    "nul": b"cat/1.jpg\0.png",
    "newline": b"cat/1\n.jpg",
    "escape": b"cat/\x1b[2J.jpg",
    "right_to_left": "cat/\u202egpj.exe".encode(),
    "surrogate": b"cat/\xed\xa0\x80\x7f.jpg",
    "empty": b".",
    "long_part": b"cat/" + b"a" * 300 + b".jpg",
    "long": b"cat/" * 1200 + b"1.jpg",
    "65_kilobytes": b"a" * 65_000,
}

HOSTILE: dict[str, tuple[Builder, str]] = {
    "empty": (bytes, "not_an_archive"),
    "text": (lambda: b"path,label\n" * 100, "not_an_archive"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(1000), "not_an_archive"),
    "rar": (lambda: b"Rar!\x1a\x07\x01\x00" + bytes(1000), "not_an_archive"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(1000), "not_an_archive"),
    "tar_xz": (lambda: lzma.compress(good_tar()), "not_an_archive"),
    "tar_bz2": (lambda: bz2.compress(good_tar()), "not_an_archive"),
    "text_gz": (lambda: gzip.compress(b"path,label\n" * 100), "not_an_archive"),
    "text_zst": (lambda: zst(b"path,label\n" * 100), "not_an_archive"),
    "zip_bomb": (zip_bomb, "archive_bomb"),
    "zip_overlapping_offsets": (zip_overlapping_offsets, "archive_bomb"),
    "zip_overlapping_quoted": (zip_overlapping_quoted, "archive_bomb"),
    "zip_overlapping_directory": (zip_overlapping_directory, "archive_bomb"),
    "zip_million": (partial(zip_of_a_million, declared=True), "too_many_files"),
    "zip_million_undeclared": (partial(zip_of_a_million, declared=False), "too_many_files"),
    "zip_lost_entries": (
        lambda: zip_of(ZipEntry(b"1.jpg"))[:-12] + b"\x02" + zip_of(ZipEntry(b"1.jpg"))[-11:],
        "damaged_archive",
    ),
    "zip_size_too_small": (partial(zip_with, size=100), "damaged_archive"),
    "zip_size_too_large": (partial(zip_with, size=len(IMAGE) + 1), "damaged_archive"),
    "zip_packed_too_small": (
        lambda: zip_with(data=deflated_zeros(1), method=8, packed=100, size=MEBIBYTE),
        "damaged_archive",
    ),
    "zip_lying_bomb": (lambda: zip_with(data=deflated_zeros(80), method=8, size=100), "damaged_archive"),
    "zip_stream_without_end": (partial(zip_with_deflated, IMAGE, zlib.Z_SYNC_FLUSH), "damaged_archive"),
    "zip_bytes_behind_stream": (partial(zip_with_deflated, IMAGE, behind=b"??"), "damaged_archive"),
    "zip_declares_a_million": (partial(zip_by_its_end, 1_000_000, 0, 0), "too_many_files"),
    "zip_wrong_checksum": (partial(zip_with, crc=1), "damaged_archive"),
    "zip_not_deflated": (partial(zip_with, method=8, size=5000), "damaged_archive"),
    "zip_by_lzma": (zip_by_lzma, "damaged_archive"),
    "zip_offset_of_64_bits": (
        partial(zip_with, offset=0xFFFFFFFF, extra=struct.pack("<2HQ", 1, 8, 2**64 - 1)),
        "damaged_archive",
    ),
    "zip_directory_of_64_bits": (partial(zip_by_its_end, 1, 46, 2**64 - 1), "damaged_archive"),
    "zip_of_no_64_bit_sizes": (partial(zip_with, offset=0xFFFFFFFF), "damaged_archive"),
    "zip_in_parts": (lambda: local_part(ZipEntry(b"1.jpg")) + end_part(0, 0, 0, disk=1), "damaged_archive"),
    "zip_of_no_header": (lambda: zip_of(ZipEntry(b"1.jpg", offset=7)), "damaged_archive"),
    "zip_offset_beyond": (partial(zip_with, offset=1_000_000), "damaged_archive"),
    "zip_directory_beyond": (lambda: local_part(ZipEntry(b"1.jpg")) + end_part(1, 46, 100_000), "damaged_archive"),
    "zip_with_more_behind": (lambda: good_zip() + b"more", "damaged_archive"),
    "zip_encrypted": (partial(zip_with, flags=0x801), "encrypted"),
    "zip_encrypted_directory": (partial(zip_with, flags=0x2801), "encrypted"),
    "zip_symlink": (partial(zip_with, data=b"/etc/passwd", mode=stat.S_IFLNK | 0o777), "not_a_regular_file"),
    "zip_fifo": (partial(zip_with, data=b"", mode=stat.S_IFIFO), "not_a_regular_file"),
    "zip_device": (partial(zip_with, data=b"", mode=stat.S_IFCHR), "not_a_regular_file"),
    "tar_symlink": (lambda: tar_of(tar_header(b"cat/2.jpg", kind=b"2", link=b"/etc/passwd")), "not_a_regular_file"),
    "tar_through_symlink": (
        lambda: tar_of(tar_header(b"dog", kind=b"2", link=b"/tmp"), tar_part(name=b"dog/canary.jpg")),
        "not_a_regular_file",
    ),
    "tar_hard_link": (lambda: tar_of(tar_header(b"cat/2.jpg", kind=b"1", link=b"cat/1.jpg")), "not_a_regular_file"),
    "tar_hard_link_to_symlink": (
        lambda: tar_of(
            tar_header(b"a/b/link", kind=b"2", link=b"../../.."), tar_header(b"c", kind=b"1", link=b"a/b/link")
        ),
        "not_a_regular_file",
    ),
    "tar_char_device": (lambda: tar_of(tar_header(kind=b"3")), "not_a_regular_file"),
    "tar_block_device": (lambda: tar_of(tar_header(kind=b"4")), "not_a_regular_file"),
    "tar_fifo": (lambda: tar_of(tar_header(kind=b"6")), "not_a_regular_file"),
    "tar_sparse": (lambda: tar_of(tar_part(kind=b"S")), "not_a_regular_file"),
    "tar_sparse_pax": (lambda: tar_of(pax_part(GNU__sparse__size=b"999"), tar_part()), "not_a_regular_file"),
    "tar_unknown_kind": (lambda: tar_of(tar_part(kind=b"Z")), "not_a_regular_file"),
    "tar_pax_of_70_kilobytes": (lambda: tar_of(pax_part(path=b"a" * 70_000), tar_part()), "unsafe_name"),
    "tar_attribute_of_70_kilobytes": (
        lambda: tar_of(pax_part(SCHILY__xattr__user=b"a" * 70_000), tar_part()),
        "unsafe_name",
    ),
    "tar_long_name_of_70_kilobytes": (lambda: tar_of(tar_part(b"a" * 70_000, kind=b"L"), tar_part()), "unsafe_name"),
    "tar_size_negative": (lambda: tar_of(tar_header(size=b"\xff" * 12)), "damaged_archive"),
    "tar_size_negative_octal": (lambda: tar_of(tar_header(size=b"-0000000777\0")), "damaged_archive"),
    "tar_size_negative_pax": (lambda: tar_of(pax_part(size=b"-512"), tar_part()), "damaged_archive"),
    "tar_size_huge": (lambda: tar_of(tar_header(size=b"\x80" + b"\xff" * 11)), "damaged_archive"),
    "tar_size_huge_pax": (lambda: tar_of(pax_part(size=b"9" * 19), tar_part()), "damaged_archive"),
    "tar_size_no_number": (lambda: tar_of(tar_header(size=b"0o000000017\0")), "damaged_archive"),
    "tar_bad_checksum": (tar_of_bad_checksum, "damaged_archive"),
    "tar_pax_damaged": (lambda: tar_of(tar_part(b"999 path=a\n", kind=b"x"), tar_part()), "damaged_archive"),
    "tar_of_many_headers": (lambda: tar_of(pax_part(path=b"a.jpg") * 1000, tar_part()), "damaged_archive"),
    "tar_header_without_file": (lambda: tar_of(pax_part(path=b"a.jpg")), "damaged_archive"),
    "tar_zeros_between": (lambda: tar_of(bytes(BLOCK), tar_part()), "damaged_archive"),
    "tar_without_end": (lambda: tar_of()[: -2 * BLOCK], "damaged_archive"),
    "tar_gz_bomb": (lambda: gzip.compress(tar_bomb(), 1), "archive_bomb"),
    "tar_gz_bomb_behind": (lambda: gzip.compress(good_tar()) + gzip.compress(bytes(100 * MEBIBYTE), 1), "archive_bomb"),
    "tar_zst_bomb": (lambda: zst(tar_bomb()), "archive_bomb"),
    "tar_gz_wrong_checksum": (lambda: gzip.compress(good_tar())[:-8] + bytes(8), "damaged_archive"),
    "tar_gz_without_checksum": (lambda: gzip.compress(good_tar())[:-8], "damaged_archive"),
    "tar_zst_wrong_checksum": (lambda: zst(good_tar())[:-4] + bytes(4), "damaged_archive"),
    "tar_zst_large_window": (zstd_of_large_window, "damaged_archive"),
}
HOSTILE |= {f"half_of_{name}": (partial(half, build), "damaged_archive") for name, build in GOOD_ARCHIVES.items()}
HOSTILE |= {f"zip_name_{name}": (partial(zip_with, name=raw), "unsafe_name") for name, raw in UNSAFE_NAMES.items()}
HOSTILE |= {
    f"tar_name_{name}": (lambda raw=raw: tar_of(pax_part(path=raw), tar_part()), "unsafe_name")  # type: ignore[misc]
    for name, raw in UNSAFE_NAMES.items()
}
