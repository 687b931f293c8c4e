from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneyard import PruneyardError
from pruneyard.packing import CHUNK_BYTES, Archive, FileChanged, pack

JOINED = "family \U0001f468\u200d\U0001f469.png"
LETTERS = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"], exclude_characters='/\\:*?"<>|')
PART = st.text(LETTERS, min_size=1, max_size=60).filter(lambda text: not text.startswith(".") and text[-1] not in ". ")
NAME = st.lists(PART.filter(lambda text: len(text.encode()) <= 200), min_size=1, max_size=4).map("/".join)
FILES = st.dictionaries(NAME, st.binary(max_size=1500), min_size=1, max_size=8)


def fill(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read(archive: Archive, offset: int = 0) -> bytes:
    return b"".join(archive.read_from(offset))


def contents(stream: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(stream), mode="r:") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]


def written_by_tarfile(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return made.getvalue()


@given(files=FILES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_folder_is_the_tar_stream_that_tarfile_writes_and_any_offset_gives_its_tail(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        try:
            fill(Path(folder), files)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            return  # one name is the folder of another
        archive = pack(folder)
        whole = read(archive)
        assert whole == written_by_tarfile(files)
        assert archive.size == len(whole)
        assert archive.files == len(files)
        offset = data.draw(st.integers(0, archive.size))
        assert read(archive, offset) == whole[offset:]
        count = data.draw(st.integers(0, archive.size))
        assert archive.part(offset, count) == whole[offset : offset + count]


def test_every_offset_gives_the_tail(tmp_path: Path) -> None:
    fill(tmp_path, {"고양이/" + "가" * 40 + ".png": b"1" * 700, "dog/1.png": b"", "dog/2.png": b"2" * 512})
    archive = pack(tmp_path)
    whole = read(archive)
    assert all(read(archive, offset) == whole[offset:] for offset in range(0, archive.size + 1, 7))
    for offset in (-1, archive.size + 1):
        with pytest.raises(ValueError, match="offset"):
            archive.read_from(offset)


def test_big_files_come_in_pieces(tmp_path: Path) -> None:
    content = os.urandom(2 * CHUNK_BYTES + 5)
    fill(tmp_path, {"a/1.png": content})
    archive = pack(tmp_path)
    assert max(map(len, archive.read_from(0))) <= CHUNK_BYTES
    assert contents(read(archive)) == {"a/1.png": content}
    assert archive.part(512 + CHUNK_BYTES - 3, CHUNK_BYTES) == content[CHUNK_BYTES - 3 : 2 * CHUNK_BYTES - 3]


def test_files_beyond_the_old_limit_of_tar_have_the_size_that_was_promised(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    huge = tmp_path / "a" / "huge.bin"
    with huge.open("wb") as file:
        file.truncate(8**11 + 1)
    (tmp_path / "b.png").write_bytes(b"b")
    archive = pack(tmp_path)
    member = tarfile.TarInfo.frombuf(archive.part(1024, 512), "utf-8", "strict")
    assert member.size == 0, "too large for the plain header: the pax header before it says how large"
    assert f"size={8**11 + 1}\n".encode() in archive.part(512, 512)
    after = 3 * 512 + 8**11 + 512
    assert contents(read(archive, after)) == {"b.png": b"b"}


def test_only_visible_regular_files_are_sent(tmp_path: Path) -> None:
    folder, outside = tmp_path / "cats", tmp_path / "outside"
    fill(
        folder, {"cat/1.png": b"1", JOINED: b"2", ".git/config": b"x", "cat/.DS_Store": b"x", "dog/.hidden/2.png": b"x"}
    )
    fill(outside, {"secret.png": b"x"})
    (folder / "cat" / "linked.png").symlink_to(outside / "secret.png")
    (folder / "all").symlink_to(outside)
    os.mkfifo(folder / "cat" / "pipe.png")
    for name in (os.fsdecode(b"caf\xe9.png"), "Icon\r", "a\u200bb.png", "a\u202eb.png"):
        (folder / name).write_bytes(b"x")
    (folder / "empty").mkdir()
    archive = pack(folder)
    assert contents(read(archive)) == {"cat/1.png": b"1", JOINED: b"2"}
    assert archive.left_out == {
        "devices, pipes or sockets": 1,
        "hidden": 3,
        "names that do not print": 4,
        "symbolic links": 2,
    }


def test_the_stream_depends_on_names_and_contents_only(tmp_path: Path) -> None:
    files = {"b/1.png": b"1", "a/2.png": b"22", "a.png": b"3"}
    fill(tmp_path / "one", files)
    fill(tmp_path / "two", dict(reversed(files.items())))
    os.utime(tmp_path / "two" / "a.png", (1, 1))
    (tmp_path / "two" / "b" / "1.png").chmod(0o400)
    assert read(pack(tmp_path / "one")) == read(pack(tmp_path / "two"))
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert read(pack(tmp_path / "link")) == read(pack(str(tmp_path / "one")))


def test_another_tar_reads_it_too(tmp_path: Path) -> None:
    fill(tmp_path / "in", {f"고양이/{'x' * 120}.png": b"1", "dog/2.png": b"22"})
    (tmp_path / "out").mkdir()
    (tmp_path / "made.tar").write_bytes(read(pack(tmp_path / "in")))
    subprocess.run(["tar", "-xf", tmp_path / "made.tar", "-C", tmp_path / "out"], check=True)
    assert read(pack(tmp_path / "out")) == read(pack(tmp_path / "in"))


@pytest.mark.parametrize("content", [b"longer than before", b"", None])
def test_a_file_that_changed_its_size_is_named(tmp_path: Path, content: bytes | None) -> None:
    fill(tmp_path, {"cat/1.png": b"1" * 10, "cat/2.png": b"2"})
    archive = pack(tmp_path)
    changed = tmp_path / "cat" / "1.png"
    changed.unlink()
    if content is not None:
        changed.write_bytes(content)
    with pytest.raises(PruneyardError, match=r"cat/1\.png") as caught:
        read(archive)
    assert isinstance(caught.value, FileChanged) or content is None


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": b"1" * (CHUNK_BYTES + 1)})
    for size in (CHUNK_BYTES, CHUNK_BYTES + 2):
        archive = pack(tmp_path)
        pieces = archive.read_from(0)
        assert len(next(pieces)) == 512
        assert len(next(pieces)) == CHUNK_BYTES
        os.truncate(tmp_path / "a.png", size)
        with pytest.raises(FileChanged, match=r"a\.png"):
            list(pieces)


def archives(folder: Path) -> dict[str, Path]:
    fill(folder / "in", {"cat/1.png": b"1"})
    with zipfile.ZipFile(folder / "a.zip", "w") as made:
        made.write(folder / "in" / "cat" / "1.png")
    for name, mode, form in (
        ("a.tar", "w", tarfile.PAX_FORMAT),
        ("b.tar", "w", tarfile.GNU_FORMAT),
        ("c.tar", "w", tarfile.USTAR_FORMAT),
        ("a.tar.gz", "w:gz", tarfile.PAX_FORMAT),
    ):
        with tarfile.open(folder / name, mode, format=form) as tar:  # type: ignore[call-overload]
            tar.add(folder / "in")
    (folder / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd and so on")
    return {path.name: path for path in folder.iterdir() if path.is_file()}


def test_archive_files_are_sent_as_they_are(tmp_path: Path) -> None:
    for path in archives(tmp_path).values():
        archive, content = pack(path), path.read_bytes()
        assert (archive.size, archive.files, archive.left_out) == (len(content), None, {})
        for offset in (0, 1, 10, len(content)):
            assert read(archive, offset) == content[offset:]
        path.write_bytes(content + b"x")
        with pytest.raises(FileChanged, match=path.name):
            read(archive)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no zip"), (b"\x89PNG\r\n\x1a\n" + bytes(600), "no zip"), (bytes(1024), "no zip"), (None, "No such file")],
)
def test_what_is_no_archive_is_refused_before_anything_is_sent(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "data"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PruneyardError, match=words) as caught:
        pack(path)
    assert str(path) in str(caught.value)


def test_a_folder_with_nothing_to_send_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PruneyardError, match="holds no files"):
        pack(tmp_path)
    fill(tmp_path, {".hidden/1.png": b"1"})
    with pytest.raises(PruneyardError, match=r"holds no files to send \(left out: hidden: 1\)"):
        pack(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PruneyardError, match="neither a file nor a folder"):
        pack(tmp_path / "pipe")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    fill(tmp_path, {"cat/1.png": b"1", "dog/2.png": b"2"})
    (tmp_path / "dog" / "2.png").chmod(0)
    with pytest.raises(PruneyardError, match=r"dog/2\.png"):
        read(pack(tmp_path))
    (tmp_path / "cat").chmod(0)
    with pytest.raises(PruneyardError, match="cat"):
        pack(tmp_path)
    (tmp_path / "cat").chmod(0o700)
