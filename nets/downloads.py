"""Getting the files of a torchvision set into their place: those placed by hand first, then torchvision's mirrors.

Whatever is unpacked or downloaded is made in a folder of its own and moved into place when it is whole, so that a
process that is killed leaves nothing half done behind that looks whole. Nothing is unpacked whose MD5 is not the
published one: ours is the first check, torchvision's the second.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from torchvision.datasets.utils import check_integrity  # type: ignore[import-untyped]

from nets.errors import is_out_of_memory
from nets.torchvision_layouts import DamagedSet, Layout
from specs.torchvision_sets import TorchvisionSplit

KNOCK_SECONDS = 15.0
STALL_SECONDS = 30.0
STALE_SECONDS = 6 * 3600
INCOMING = ".incoming-"
OURS_TO_TELL = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}

Placed = Mapping[str, Path]


def placed_files(layout: Layout, folder: Path, splits: Iterable[TorchvisionSplit]) -> dict[str, Path]:
    """Where the published files of these splits lie below `folder`, by name; those that are not there are left out.

    They are looked for in the set's own folder and in one of the set's name, then anywhere two levels deep, where only
    the MD5 tells whose they are: MNIST, Fashion-MNIST and Kuzushiji-MNIST share their file names. DamagedSet for a
    file in the set's own folders that is not the published one.
    """
    own = [folder / layout.entry.folder, folder / layout.entry.name]
    found = {}
    for name, md5 in _published(layout, splits).items():
        path = _in_own_folder(layout, folder, own, layout.forms(name, md5)) or _anywhere(folder, name, md5)
        if path is not None:
            found[name] = path
    return found


def _published(layout: Layout, splits: Iterable[TorchvisionSplit]) -> dict[str, str]:
    return {name: md5 for split in splits for name, md5 in layout.published(split).items()}


def _in_own_folder(layout: Layout, folder: Path, own: Sequence[Path], forms: Mapping[str, str | None]) -> Path | None:
    for name, md5 in forms.items():
        for path in (place / name for place in own):
            if path.is_file():
                if not layout.is_whole(path, md5):
                    raise DamagedSet(layout.entry.name, path.relative_to(folder).as_posix())
                return path
    return None


def _anywhere(folder: Path, name: str, md5: str) -> Path | None:
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        for path in sorted(folder.glob(pattern)):
            if not path.relative_to(folder).parts[0].startswith(".") and check_integrity(path, md5):
                return path
    return None


def unpack(layout: Layout, folder: Path, splits: Sequence[TorchvisionSplit], placed: Placed) -> None:
    """Unpacks placed files, by torchvision, into the folders that it reads from; what is absent it downloads."""
    with _incoming(folder) as incoming:
        for name in _published(layout, splits):
            if name in placed:
                _link(placed[name], incoming / layout.entry.folder / placed[name].name)
        for split in reversed(splits):  # the test split is the smaller one, and often brings the rest along
            if not layout.is_unpacked(incoming, split):
                layout.load(incoming, split, download=True)
        _move(incoming, folder)


def download(layout: Layout, folder: Path, splits: Sequence[TorchvisionSplit], placed: Placed) -> str | None:
    """Unpacks what is placed and downloads the rest; None, or in a few words why it cannot be had.

    Errors of the disk and of memory are raised as they are.
    """
    cause = why_unreachable(layout.addresses())
    if cause is not None:
        return cause
    with stalls_end():
        try:
            unpack(layout, folder, splits, placed)
        except (OSError, HTTPException, RuntimeError) as error:
            if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in OURS_TO_TELL):
                raise
            return in_a_few_words(error)
    return None


def why_unreachable(addresses: Sequence[str], *, seconds: float = KNOCK_SECONDS) -> str | None:
    """None as soon as one of the addresses answers anything at all, else why none did within so many seconds.

    Torchvision waits for each address of each mirror in turn, and for names without end; this is what bounds it.
    """
    answers: Queue[str | None] = Queue()
    for address in addresses:
        # A thread that waits for a name cannot be stopped; as a daemon it keeps nobody from leaving.
        Thread(target=_knock, args=(address, seconds, answers), daemon=True).start()
    cause: str | None = None
    end = time.monotonic() + seconds
    for _ in addresses:
        try:
            cause = answers.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:
            return f"no answer within {seconds:g} s"
        if cause is None:
            return None
    return cause


def _knock(address: str, seconds: float, answers: Queue[str | None]) -> None:
    request = Request(address, method="HEAD", headers={"User-Agent": "pruneyard"})  # noqa: S310 - torchvision's own
    try:
        with urlopen(request, timeout=seconds):  # noqa: S310
            answers.put(None)
    except HTTPError:
        answers.put(None)
    except (OSError, HTTPException, ValueError) as error:
        answers.put(in_a_few_words(error))


def in_a_few_words(error: BaseException) -> str:
    """The cause of a failed download: torchvision wraps it in several lines, urllib in brackets."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    lines = str(error).strip().splitlines() or [type(error).__name__]
    words = re.sub(r"^<urlopen error (?:\[Errno -?\d+\] )?(.*)>$", r"\1", lines[-1].strip())
    return words.rstrip(".")[:200]


@contextmanager
def stalls_end() -> Iterator[None]:
    """Within, a connection that brings nothing for half a minute ends; torchvision itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _incoming(folder: Path) -> Iterator[Path]:
    """A folder beside the finished ones for what is being made; afterwards it is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    for left_behind in folder.glob(f"{INCOMING}*"):
        if time.time() - _last_change(left_behind) > STALE_SECONDS:
            shutil.rmtree(left_behind, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=INCOMING, dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _last_change(folder: Path) -> float:
    # A download under way writes to its file all the time; unpacked files bear the times of their archive.
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _move(source: Path, target: Path) -> None:
    """Moves what is in a folder into another; a folder that is not there yet comes whole or not at all."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        try:
            path.replace(place)
        except OSError:
            if not (path.is_dir() and place.is_dir()):
                raise
            _move(path, place)
