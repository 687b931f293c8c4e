"""Artifacts on disk, reached by id: models, checkpoints, data sets, decoded images, exported graphs.

A directory appears whole or not at all: it is written under a temporary name, its files and itself are
synchronised to the disk, it is renamed, and its parent is synchronised. Only then may a row point at it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from store.errors import NotFound
from store.ids import ID_PATTERN
from store.room import room

CHECKPOINT_PATTERN = re.compile(r"[0-9]{1,9}-[0-9]{1,9}-[0-9]{1,9}")
GRAPH_PATTERN = re.compile(r"[0-9a-f]{64}")
TEMPORARY_PATTERN = re.compile(r"\.(?:.+\.)?([^.]+)\.[0-9a-f]+\.tmp")
STALE_SECONDS = 3600.0


def make_private(directory: Path) -> Path:
    """The directory, made if need be, readable by its owner only."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


class Artifacts:
    """The artifacts of one data folder; `owner` names whoever writes, so that what it leaves behind can be told."""

    def __init__(self, home: Path, *, owner: str = "-") -> None:
        self.home = home.absolute()
        self._owner = owner

    def model(self, model_id: str) -> Path:
        """Where a model's files are."""
        return self.home / "models" / _checked(model_id)

    def models(self) -> list[Path]:
        """All that is where models' files are."""
        return list(self.home.glob("models/[!.]*"))

    def checkpoint(self, job_id: str, directory: str) -> Path:
        """Where a checkpoint's files are."""
        if not CHECKPOINT_PATTERN.fullmatch(directory):
            raise NotFound("checkpoint")
        return self.home / "checkpoints" / _checked(job_id) / directory

    def checkpoints(self, job_id: str) -> Path:
        """Where all checkpoints of a job are."""
        return self.home / "checkpoints" / _checked(job_id)

    def of_jobs(self) -> list[Path]:
        """All folders in which jobs have checkpoints."""
        return list(self.home.glob("checkpoints/[!.]*"))

    def of_attempts(self) -> list[Path]:
        """All checkpoints that are there whole."""
        return list(self.home.glob("checkpoints/[!.]*/[!.]*"))

    def dataset(self, dataset_id: str) -> Path:
        """Where a data set's files are."""
        return self.home / "datasets" / _checked(dataset_id)

    def datasets(self) -> list[Path]:
        """All that is where data sets' files are."""
        return list(self.home.glob("datasets/[!.]*"))

    def array(self, dataset_id: str, *, size: int, channels: int) -> Path:
        """Where the images of a data set are, decoded at this size."""
        return self.home / "arrays" / f"{_checked(dataset_id)}-{size}-{channels}"

    def arrays(self, dataset_id: str = "") -> list[Path]:
        """Decoded images that are there: of one data set, or of all."""
        prefix = f"{_checked(dataset_id)}-" if dataset_id else ""
        return [path for path in self.home.glob(f"arrays/{prefix}*") if not path.name.startswith(".")]

    def upload(self, dataset_id: str) -> Path:
        """The file that takes the content of a data set as it comes in."""
        return make_private(self.home / "uploads") / _checked(dataset_id)

    def uploads(self) -> list[Path]:
        """All such files."""
        return [path for path in self.home.glob("uploads/*") if ID_PATTERN.fullmatch(path.name)]

    def downloads(self) -> Path:
        """Where files of known data sets are kept: downloaded ones, and ones that users place there."""
        return make_private(self.home / "downloads")

    def job_log(self, job_id: str) -> Path:
        """Where the output of a job's process goes."""
        return make_private(self.home / "logs") / f"{_checked(job_id)}.log"

    @contextmanager
    def new_directory(self, target: Path) -> Iterator[Path]:
        """An empty directory to fill; at the end of the block it becomes `target`, durably."""
        filling = self._temporary(target)
        try:
            with room(filling):
                make_private(target.parent)
                filling.mkdir(mode=0o700)
                yield filling
                for path in filling.iterdir():
                    synchronise(path)
                synchronise(filling)
                filling.rename(target)
                try:
                    synchronise(target.parent)
                except OSError:
                    target.rename(filling)  # as long as it may still be lost it is not there
                    raise
        finally:
            shutil.rmtree(filling, ignore_errors=True)

    def new_scratch(self) -> Path:
        """An empty directory for what nobody is to find; whoever asks for it removes it, or it goes when it is old."""
        scratch = self._temporary(self.home / "scratch" / "try")
        with room():
            make_private(scratch.parent)
            scratch.mkdir(mode=0o700)
        return scratch

    def remove(self, target: Path) -> None:
        """Removes a directory: at once out of sight, then its files."""
        doomed = self._temporary(target)
        try:
            with room():
                target.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)

    def _temporary(self, target: Path) -> Path:
        """A name beside `target` that tells whose it is, whether it is being filled or removed."""
        return target.parent / f".{target.name}.{self._owner}.{secrets.token_hex(8)}.tmp"

    def remove_leftovers_of(self, owner: str) -> None:
        """Removes what a writer that is no more left half written; `*` stands for any part of its name."""
        for path, writer in self._temporaries():
            if fnmatchcase(writer, owner):
                _remove(path)

    def remove_leftovers(self, *, but_of: Collection[str] = ()) -> int:
        """Removes what was left so long ago, but not by writers that are at work; how many there were.

        How old they are is told by a clock that somebody may have set, so it is not asked about writers that are known.
        """
        found = [path for path, writer in self._temporaries() if writer not in but_of]
        doomed = [path for path in found if _is_stale(path)]
        for path in doomed:
            _remove(path)
        return len(doomed)

    def _temporaries(self) -> Iterator[tuple[Path, str]]:
        """All that bears a temporary name, and whose it is."""
        # Others clean up too: `Path.glob` raises an error where a folder vanishes just then, and this does not.
        for folder, names, files in chain.from_iterable(os.walk(top) for top in self.home.glob("*")):
            found = [match for name in (*names, *files) if (match := TEMPORARY_PATTERN.fullmatch(name))]
            names[:] = [name for name in names if not TEMPORARY_PATTERN.fullmatch(name)]
            yield from ((Path(folder, match[0]), match[1]) for match in found)

    def kernels(self) -> Path:
        """Where networks are kept as a runtime compiled them: a cache, which may be emptied at any time."""
        return make_private(self.home / "kernels")

    def graphs(self) -> GraphCache:
        """Exported graphs, kept by key."""
        return GraphCache(make_private(self.home / "graphs"), temporary=self._temporary)


class GraphCache:
    """Exported graphs without weights: a cache, so a damaged or missing file is merely made again."""

    def __init__(self, directory: Path, *, temporary: Callable[[Path], Path]) -> None:
        """`temporary` names what is not yet whole, so that it can be told whose it was."""
        self._directory = directory
        self._temporary = temporary

    def get(self, key: str) -> bytes | None:
        """The graph kept under this key."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """Keeps a graph under this key."""
        temporary = self._temporary(self._path(key))
        with room():
            temporary.write_bytes(data)
            synchronise(temporary)
            temporary.replace(self._path(key))

    def _path(self, key: str) -> Path:
        if not GRAPH_PATTERN.fullmatch(key):
            raise NotFound("graph")
        return self._directory / f"{key}.onnx.zst"


def _checked(identifier: str) -> str:
    if not ID_PATTERN.fullmatch(identifier):
        raise NotFound("artifact")
    return identifier


def synchronise(path: Path) -> None:
    """Has the system write a file or a directory to the disk before it goes on."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle on directories to synchronise
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Removes a file or a directory as far as that is possible."""
    with suppress(OSError):
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False
