"""The data set of a job, ready to train on: built in, or decoded once and mapped by every job that asks for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import structlog

from formats.arrays import ARRAY_NAME, DecodedArray, open_array
from formats.datasets import DatasetManifest, Pack, read_dataset
from formats.files import DamagedFiles
from formats.images import ImageShape
from ingest.arrays import build
from ingest.errors import IngestError
from ingest.splits import job_splits
from nets.datasets import Dataset, Moments, assemble, load
from nets.pixels import Pixels
from specs.datasets import find_builtin
from store import datasets
from store.artifacts import Artifacts
from workers.run import Run

log = structlog.get_logger()


def load_data(run: Run, dataset_id: str, *, image_size: int | None, seed: int, validation_fraction: float) -> Dataset:
    """The data set of this id, split for a job; `image_size` None takes the one that the set suggests."""
    builtin = find_builtin(dataset_id)
    if builtin is not None:
        size = image_size or builtin.image_size
        return load(builtin, image_size=size, seed=seed, validation_fraction=validation_fraction)
    with _files_of(run, dataset_id) as directory:
        return _brought(run, directory, image_size, seed=seed, validation_fraction=validation_fraction)


def look_of(run: Run, dataset_id: str, *, image_size: int | None) -> dict[str, int]:
    """What a network must know of the data (nets.datasets.Dataset.look), before any image is read."""
    builtin = find_builtin(dataset_id)
    if builtin is not None:
        size = image_size or builtin.image_size
        return {"classes": len(builtin.classes), "channels": builtin.channels, "image_size": size}
    with _files_of(run, dataset_id) as directory:
        manifest = read_dataset(directory)
    size = image_size or manifest.image_size
    return {"classes": len(manifest.classes), "channels": manifest.channels, "image_size": size}


@contextlib.contextmanager
def _files_of(run: Run, dataset_id: str) -> Iterator[Path]:
    """The folder of a data set that is there; damage is told as the job's reason."""
    with run.database.read() as session:
        datasets.get(session, dataset_id)
    try:
        yield run.artifacts.dataset(dataset_id)
    except DamagedFiles as error:
        # What it was caused by may say where the files are.
        what = str(error).removesuffix(f": {error.__cause__}")
        log.error("the files of a data set are damaged", dataset=dataset_id, error=str(error))
        message = f"The files of the data set {dataset_id} are damaged or gone: {what}."
        raise IngestError("bad_data", message, "Delete it and upload it again.") from error


def _brought(run: Run, directory: Path, image_size: int | None, *, seed: int, validation_fraction: float) -> Dataset:
    manifest = read_dataset(directory)
    shape = ImageShape(image_size or manifest.image_size, manifest.channels)
    array = decoded(run, manifest, directory, shape)
    with Pack(directory) as pack:
        return assemble(
            Pixels(array.pixels),
            Moments(array.sums, array.squares),
            labels=pack.index.label.astype(np.int64),
            splits=job_splits(pack.index, seed=seed, validation_fraction=validation_fraction),
            classes=manifest.classes,
            fingerprint=manifest.fingerprint,
        )


def decoded(run: Run, manifest: DatasetManifest, directory: Path, shape: ImageShape) -> DecodedArray:
    """The images of a set at this size, from the cache or made now."""
    path = run.artifacts.array(manifest.id, size=shape.size, channels=shape.channels)
    found = _cached(run.artifacts, path, manifest)
    if found is None:
        _decode(run, directory, path, shape)
        found = open_array(path, verify=False)  # its hash has just been taken
        _make_room(run, keep=path)
    with contextlib.suppress(OSError):
        os.utime(path / ARRAY_NAME)
    return found


def _cached(artifacts: Artifacts, path: Path, manifest: DatasetManifest) -> DecodedArray | None:
    """What is there already; if that is of no use it is removed."""
    if not path.exists():
        return None
    try:
        array = open_array(path)
        if array.manifest.fingerprint == manifest.fingerprint:
            return array
        error = "they are of another data set"
    except DamagedFiles as damage:
        error = str(damage)
    log.warning("decoded images are of no use and made again", path=path.name, error=error)
    artifacts.remove(path)
    return None


def _decode(run: Run, directory: Path, path: Path, shape: ImageShape) -> None:
    try:
        with run.artifacts.new_directory(path) as filling:
            build(directory, filling, shape, run.on_files)
    except OSError:
        # Another job may have made the same in the meantime: then its directory stands in the way of ours.
        if not path.exists():
            raise


def _make_room(run: Run, *, keep: Path) -> None:
    """Removes decoded images, the least recently used first, until the folder is within its quota."""
    quota = run.settings.array_cache_bytes
    kept = sorted(_used(run.artifacts), key=lambda entry: entry[0], reverse=True)
    total = 0
    for _, size, path in kept:
        total += size
        if total > quota and path != keep:
            log.info("decoded images removed: the folder is full", path=path.name)
            # A job that has them mapped keeps them until it ends; where the system refuses, they stay.
            run.artifacts.remove(path)


def _used(artifacts: Artifacts) -> list[tuple[float, int, Path]]:
    """When each decoded array was last used, its bytes and where it is."""
    found = []
    for path in artifacts.arrays():
        with contextlib.suppress(OSError):
            size = sum(file.stat().st_size for file in path.iterdir())
            found.append(((path / ARRAY_NAME).stat().st_mtime, size, path))
    return found
