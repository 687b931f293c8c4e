from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from store.disks import SHARED, shared_kind, warn_of_shared_disk


@dataclass(frozen=True)
class Entry:
    mountpoint: str
    fstype: str


ROOT = Entry("/", "ext4")


@pytest.mark.parametrize(
    ("folder", "mounted", "kind"),
    [
        ("/home/me/var", [ROOT], None),
        ("/home/me/var", [ROOT, Entry("/home", "nfs4")], "nfs4"),
        ("/home/me/var", [Entry("/home", "NFS"), ROOT], "nfs"),
        ("/home/me/var", [ROOT, Entry("/home", "nfs4"), Entry("/home/me", "xfs")], None),
        ("/homely/var", [ROOT, Entry("/home", "nfs4")], None),
        ("/mnt/c/var", [ROOT, Entry("/mnt/c", "9p")], "9p"),
        ("/mnt/c/var", [ROOT, Entry("/mnt/c", "fuse.sshfs")], "fuse.sshfs"),
        # What was mounted later at the same place hides what was there.
        ("/mnt/c/var", [ROOT, Entry("/mnt/c", "autofs"), Entry("/mnt/c", "cifs")], "cifs"),
        ("/mnt/c/var", [ROOT, Entry("/mnt/c", "cifs"), Entry("/mnt/c", "ext4")], None),
        ("/var", [], None),
    ],
)
def test_a_shared_disk_is_told_from_a_local_one(folder: str, mounted: list[Entry], kind: str | None) -> None:
    assert shared_kind(Path(folder), mounted) == kind


def test_kinds_are_written_as_they_are_compared() -> None:
    assert {kind.lower().removeprefix("fuse.") for kind in SHARED} == SHARED


def test_a_local_disk_is_nothing_to_warn_of(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        warn_of_shared_disk(tmp_path)
    assert logs == []
