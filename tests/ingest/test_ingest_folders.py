"""Folders: their regular files are read, links lead nowhere, and only what lies below the roots may be named."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from ingest.errors import BadArchive, IngestError
from ingest.folders import MAX_DEPTH, OutsideRoots, read_folder, resolve_below
from ingest.members import Limits, Member, Rejected

POSIX_ONLY = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and modes of POSIX")


def write(folder: Path, *paths: str) -> None:
    """Files whose content is their path."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)


def read(folder: Path, limits: Limits | None = None) -> dict[str, bytes | str]:
    """What comes of each file, in order: its content, or the reason why it was rejected."""
    found = list(read_folder(folder, limits or Limits()))
    outcomes = {file.path: file.data if isinstance(file, Member) else file.reason for file in found}
    assert len(outcomes) == len(found)
    return outcomes


def test_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    paths = ["cat/1.jpg", "cat/10.jpg", "cat/deep/er/2.jpg", "dog/1.jpg", "top.jpg"]
    write(tmp_path, *reversed(paths))
    assert list(read(tmp_path).items()) == [(path, path.encode()) for path in paths]


def test_names_are_made_clean(tmp_path: Path) -> None:
    write(tmp_path, "cafe\u0301/1.jpg")
    assert list(read(tmp_path)) == ["caf\u00e9/1.jpg"]


def test_what_desktops_add_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, ".git/1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "__MACOSX/cat/1.jpg", "cat/1.jpg")
    assert list(read(tmp_path)) == ["cat/1.jpg"]


@POSIX_ONLY
def test_links_are_rejected_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "folder"
    write(outside, "secret.jpg")
    write(folder, "cat/1.jpg")
    (folder / "cat/file.jpg").symlink_to(outside / "secret.jpg")
    (folder / "cat/gone.jpg").symlink_to(outside / "gone.jpg")
    (folder / "cat/circle").symlink_to(folder)
    (folder / "dog").symlink_to(outside, target_is_directory=True)
    links = dict.fromkeys(["cat/file.jpg", "cat/gone.jpg", "cat/circle", "dog"], "not_a_regular_file")
    assert read(folder) == {"cat/1.jpg": b"cat/1.jpg"} | links


@POSIX_ONLY
def test_pipes_and_sockets_are_rejected_and_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "cat/1.jpg")
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    # The path by which a socket is made must be short.
    monkeypatch.chdir(tmp_path / "cat")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        assert read(tmp_path) == {
            "cat/1.jpg": b"cat/1.jpg",
            "cat/pipe.jpg": "not_a_regular_file",
            "cat/socket.jpg": "not_a_regular_file",
        }


@POSIX_ONLY
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_file_that_is_swapped_while_the_folder_is_read_is_not_followed(kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_text("secret")
    folder = tmp_path / "folder"
    write(folder, "1.jpg", "2.jpg")
    found = read_folder(folder, Limits())
    assert isinstance(next(found), Member)
    # The folder was listed before its first file came: what stands there now was not there then.
    (folder / "2.jpg").unlink()
    if kind == "link":
        (folder / "2.jpg").symlink_to(secret)
    else:
        os.mkfifo(folder / "2.jpg")
    (rejected,) = found
    assert isinstance(rejected, Rejected)
    assert rejected.reason in {"unreadable", "not_a_regular_file"}


@POSIX_ONLY
def test_a_folder_that_is_swapped_while_it_is_read_leads_nowhere_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "folder"
    write(outside, "2.jpg", "deep/3.jpg")
    write(folder, "cat/1.jpg", "cat/2.jpg", "cat/deep/3.jpg", "dog/2.jpg")
    found = read_folder(folder, Limits())
    assert isinstance(next(found), Member)
    for name in ("cat", "dog"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(outside, target_is_directory=True)
    outcomes = {file.path: file.data if isinstance(file, Member) else file.reason for file in found}
    assert outcomes == {"cat/2.jpg": b"cat/2.jpg", "cat/deep/3.jpg": b"cat/deep/3.jpg", "dog": "unreadable"}


@POSIX_ONLY
def test_what_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "2.jpg")
    found = read_folder(tmp_path, Limits())
    assert isinstance(next(found), Member)
    (tmp_path / "2.jpg").unlink()
    (rejected,) = found
    assert isinstance(rejected, Rejected)
    assert (rejected.path, rejected.reason) == ("2.jpg", "unreadable")


@POSIX_ONLY
def test_unsafe_names_are_rejected_one_by_one(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg", "cat/2\n.jpg", "dog\x1b/1.jpg", "a\\..\\b.jpg")
    assert read(tmp_path) == {
        "a\\..\\b.jpg": "unsafe_name",
        "cat/1.jpg": b"cat/1.jpg",
        "cat/2\ufffd.jpg": "unsafe_name",
        "dog\ufffd": "unsafe_name",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere take only names in UTF-8")
def test_names_in_another_encoding_stay_apart(tmp_path: Path) -> None:
    for number in range(0xA0, 0xB0):
        (tmp_path / os.fsdecode(bytes([number]))).write_bytes(bytes([number]))
    assert sorted(read(tmp_path).values()) == [bytes([number]) for number in range(0xA0, 0xB0)]


def test_folders_too_deep_are_rejected(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(MAX_DEPTH + 3):
        folder = folder / "d"
        folder.mkdir()
        (folder / "1.jpg").touch()
    outcomes = list(read(tmp_path).values())
    assert (outcomes.count(b""), outcomes.count("too_deep")) == (MAX_DEPTH, 1)


def test_limits_hold(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/long_name.jpg")
    assert list(read(tmp_path, Limits(max_file_bytes=9)).values()) == [b"cat/1.jpg", b"cat/2.jpg", "too_many_bytes"]
    assert len(read(tmp_path, Limits(max_files=5, max_total_bytes=35))) == 3
    for limits, reason in [(Limits(max_files=4), "too_many_files"), (Limits(max_total_bytes=34), "too_many_bytes")]:
        with pytest.raises(BadArchive, match="The folder") as raised:
            read(tmp_path, limits)
        assert raised.value.reason == reason


def test_files_over_their_limit_do_not_count_in_all(tmp_path: Path) -> None:
    write(tmp_path, "cat/1.jpg", "dog/long_name.jpg")
    assert len(read(tmp_path, Limits(max_file_bytes=9, max_total_bytes=9))) == 2


def test_large_files_are_read_whole(tmp_path: Path) -> None:
    data = os.urandom(3 * 1024 * 1024 + 1)
    (tmp_path / "1.jpg").write_bytes(data)
    assert read(tmp_path, Limits(max_file_bytes=len(data))) == {"1.jpg": data}
    assert read(tmp_path, Limits(max_file_bytes=len(data) - 1)) == {"1.jpg": "too_many_bytes"}


def test_no_folder_is_told(tmp_path: Path) -> None:
    write(tmp_path, "file")
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(BadArchive, match=path.name) as raised:
            read(path)
        assert raised.value.reason == "not_an_archive"


@POSIX_ONLY
def test_a_folder_that_became_a_link_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "real/1.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(BadArchive):
        read(tmp_path / "link")


@POSIX_ONLY
def test_no_handle_stays_open(tmp_path: Path) -> None:
    write(tmp_path, "a/b/1.jpg", "a/b/2.jpg", "c/1.jpg")
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(3):
        read(tmp_path)
        found = read_folder(tmp_path, Limits())
        next(found)
        found.close()  # type: ignore[attr-defined]
    assert len(list(Path("/dev/fd").iterdir())) == before


# Which folders may be read.


def test_what_lies_below_a_root_may_be_read(tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    for path in (roots[0], roots[1] / "cats", roots[1] / "cats" / ".." / "dogs"):
        assert resolve_below(str(path), roots) == path.resolve()


def test_what_lies_elsewhere_may_not_and_nothing_is_told_of_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(tmp_path, "root/1.jpg", "there/1.jpg", "root_too/1.jpg")
    outside = ["there", "gone", "root_too", "root/../there", "root/..", "there/1.jpg", "there/1.jpg/2.jpg"]
    messages = set()
    for path in [f"{tmp_path}/{name}" for name in outside] + ["/", "", "\0", "a" * 10_000, "~", "root"]:
        with pytest.raises(OutsideRoots) as raised:
            resolve_below(path, [root])
        error = raised.value
        assert isinstance(error, IngestError)
        assert (error.reason, error.__cause__) == ("outside_roots", None)
        messages.add(error.message[error.message.rindex('"') :] + error.hint)
    assert len(messages) == 1


def test_nothing_may_be_read_without_roots(tmp_path: Path) -> None:
    with pytest.raises(OutsideRoots):
        resolve_below(str(tmp_path), [])


@POSIX_ONLY
def test_links_are_resolved_before_the_path_is_judged(tmp_path: Path) -> None:
    write(tmp_path, "root/cats/1.jpg", "there/1.jpg")
    root, way_in, way_out = tmp_path / "root", tmp_path / "way_in", tmp_path / "root/way_out"
    way_out.symlink_to(tmp_path / "there")
    way_in.symlink_to(root)
    (root / "circle").symlink_to(root / "circle")
    assert resolve_below(str(way_in / "cats"), [root]) == root / "cats"
    assert resolve_below(str(root / "cats"), [way_in]) == root / "cats"
    for path in (way_out, way_out / "1.jpg", root / "circle", way_out / ".." / "root" / ".." / "there"):
        with pytest.raises(OutsideRoots):
            resolve_below(str(path), [root])
