"""From a stream of files to a data set on disk: read, told apart, split, counted and described.

What is made depends on the content of the files only: neither on their order nor on the names of files, as long as
these tell the same classes and splits. Only where the bytes of an image stand in the pack depends on the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from formats.datasets import (
    PACK_NAME,
    POOL,
    PREVIEW_NAME,
    SPLIT_WORDS,
    DatasetManifest,
    Index,
    Pack,
    RejectedFile,
    SplitCounts,
    fingerprint,
    write_dataset,
    write_index,
    write_paths,
)
from formats.images import DEFAULT_MAX_PIXELS
from ingest import statistics
from ingest.decoding import default_threads
from ingest.errors import BadDataset
from ingest.labelling import Labelling, label_images
from ingest.members import Member, Rejected
from ingest.names import shown
from ingest.preview import draw_preview, preview_rows
from ingest.reading import Reading, Report, drop_from_pack, read_images
from ingest.records import Table
from ingest.splits import Assignment, assign_splits, job_splits
from specs.splits import VALIDATION_FRACTION

MAX_REJECTED_LISTED = 1000


@dataclass(frozen=True)
class Request:
    """What data set to make: its id and name, where it comes from, and the bounds of what is put up with.

    `max_rejected` is the share of files that may be unusable, `max_pixels` a bound on each image. `notes` are
    sentences of whoever supplies the files, read once these have come to an end; they become warnings.
    """

    id: str
    name: str
    source: Mapping[str, Any] = field(default_factory=dict)
    max_rejected: float = 0.01
    max_pixels: int = DEFAULT_MAX_PIXELS
    notes: Sequence[str] = ()
    threads: int = field(default_factory=default_threads)


def make_dataset(
    members: Iterable[Member | Rejected], directory: Path, request: Request, report: Report
) -> DatasetManifest:
    """Fills an empty directory with the data set that these files make and returns what `dataset.json` says.

    BadDataset, with all files that could not be used, if they make none; whatever the stream raises otherwise. The
    directory is then to be thrown away. `report` gets the phases "reading", "describing" and "writing".
    """
    pack = directory / PACK_NAME
    reading = read_images(members, pack, max_pixels=request.max_pixels, threads=request.threads, report=report)
    report("describing", 0, len(reading.records))
    with _naming([*reading.rejected, *reading.unusable]):
        labelling = label_images(reading)
    with _naming(labelling.rejected):
        _check_rejected(labelling, request)
        drop_from_pack(pack, reading.records.column("length").astype(np.int64), labelling.kept)
        classes, table = _classes(reading), reading.records.table(labelling.kept)
        del reading  # what is left of the records is as large as the index
        assignment = assign_splits(table, classes)
    index = _write_images(directory, table, assignment)
    report("writing", 0, len(index))
    (directory / PREVIEW_NAME).write_bytes(_preview(directory, index, classes, request))
    manifest = write_dataset(directory, _describe(request, classes, table, index, assignment, labelling))
    report("writing", len(index), len(index))
    return manifest


@contextmanager
def _naming(rejected: Iterable[Rejected]) -> Iterator[None]:
    """Gives a BadDataset out of the block the files that could not be used."""
    try:
        yield
    except BadDataset as error:
        error.rejected = tuple(_sorted(rejected))
        raise


def _sorted(rejected: Iterable[Rejected]) -> list[Rejected]:
    return sorted(rejected, key=lambda file: (file.path, file.reason, file.message))


def _check_rejected(labelling: Labelling, request: Request) -> None:
    count = len(labelling.rejected)
    total = int(labelling.kept.sum()) + count
    if count <= request.max_rejected * total:
        return
    first = _sorted(labelling.rejected)[0]
    message = (
        f"{count:,} of {total:,} files cannot be used, more than the share of {request.max_rejected:g} that is put "
        f'up with; the first is "{shown(first.path)}": {first.message}'
    )
    raise BadDataset("too_many_rejected", message, "Repair or remove these files, or raise max_rejected.")


def _classes(reading: Reading) -> tuple[str, ...]:
    classes = tuple(sorted(reading.records.names))
    if len(classes) < 2:
        message = f'There is only one class, "{classes[0]}".'
        raise BadDataset("one_class_only", message, "Sort the images into two classes or more.")
    return classes


def _write_images(directory: Path, table: Table, assignment: Assignment) -> Index:
    index = Index(
        offset=table.offset,
        length=table.length,
        label=table.label,
        split=assignment.codes,
        file_sha256=table.file_sha256,
        pixel_sha256=table.pixel_sha256,
        width=table.width,
        height=table.height,
        channels=table.channels,
    )
    write_index(directory, index)
    write_paths(directory, table.paths)
    return index


def _preview(directory: Path, index: Index, classes: Sequence[str], request: Request) -> bytes:
    with Pack(directory, index) as pack:
        rows = preview_rows(pack, classes, max_pixels=request.max_pixels, threads=request.threads)
    return draw_preview(rows, more_classes=len(classes) - len(rows))


def _describe(
    request: Request, classes: tuple[str, ...], table: Table, index: Index, assignment: Assignment, labelling: Labelling
) -> DatasetManifest:
    splits = job_splits(index, seed=0, validation_fraction=VALIDATION_FRACTION)
    counts = SplitCounts(train=len(splits.train), validation=len(splits.validation), test=len(splits.test))
    mean, std = statistics.brightness(table, assignment.codes == POOL)
    class_images = statistics.class_images(table, classes)
    rejected = [RejectedFile(**vars(file)) for file in _sorted(labelling.rejected)[:MAX_REJECTED_LISTED]]
    return DatasetManifest(
        id=request.id,
        name=request.name,
        classes=classes,
        channels=statistics.channels_of(table),
        image_size=statistics.suggested_size(table),
        images=len(table),
        class_images=class_images,
        splits=counts,
        class_splits=statistics.class_splits(table, splits, classes),
        splits_from=assignment.source,
        layout=labelling.kind,
        file_formats=statistics.file_formats(table),
        sizes=statistics.sizes_of(table),
        mean=mean,
        std=std,
        duplicates=statistics.duplicates_of(table),
        conflicts=statistics.conflicts_of(table, assignment.codes, classes),
        imbalance=max(class_images.values()) / min(class_images.values()),
        rejected_count=len(labelling.rejected),
        rejected=tuple(rejected),
        ignored=labelling.ignored,
        warnings=(*request.notes, *labelling.warnings, *assignment.warnings),
        fingerprint=_fingerprint(index, classes),
        source=dict(request.source),
        created=datetime.now(UTC),
    )


def _fingerprint(index: Index, classes: Sequence[str]) -> str:
    labels = [classes[label] for label in index.label.tolist()]
    return fingerprint(index.pixel_sha256, labels, [SPLIT_WORDS[code] for code in index.split.tolist()])
