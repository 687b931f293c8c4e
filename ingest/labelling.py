"""Which class and which given split each image that was read belongs to, and which files do not count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ingest.errors import BadDataset
from ingest.layouts import Placement, place
from ingest.members import Rejected
from ingest.names import shown
from ingest.reading import Reading
from ingest.records import SPLIT_CODES, UNKNOWN

# Files that often lie among images and are none: they are left out of account if nothing names them.
COMPANIONS = {
    *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf"),
    *(".log", ".ini", ".cfg", ".py", ".ipynb", ".sh"),
}
COMPANION_NAMES = {"readme", "license", "licence", "copying", "notice", "changelog"}


@dataclass(frozen=True)
class Labelling:
    """`kept` tells, bool (N,), which images have a class; labels and splits are in the records by now."""

    kind: str
    kept: NDArray[np.bool_]
    rejected: list[Rejected]
    ignored: int
    warnings: list[str]


def label_images(reading: Reading) -> Labelling:
    """Writes label and split of each image into the records; BadDataset if that cannot be told."""
    unusable = [file for file in reading.unusable if reading.manifests or not _is_companion(file)]
    ignored = reading.ignored + len(reading.unusable) - len(unusable)
    if not len(reading.records):
        raise _no_images([*reading.rejected, *unusable])
    kept = reading.records.column("label") != UNKNOWN
    if kept.all():
        return Labelling("given", kept, [*reading.rejected, *unusable], ignored, [])
    return _label_by_layout(reading, unusable, ignored)


def _label_by_layout(reading: Reading, unusable: list[Rejected], ignored: int) -> Labelling:
    label, split = reading.records.column("label"), reading.records.column("split")
    unlabelled = np.flatnonzero(label == UNKNOWN)
    paths = reading.records.paths().take(unlabelled)
    layout = place([*paths, *(file.path for file in unusable)], reading.manifests)
    rejected = [*reading.rejected]
    # An image that is left out of account may be one that could not be used anyway.
    ignored += layout.placements.count(None)
    for row, placement in zip(unlabelled.tolist(), layout.placements, strict=False):
        if isinstance(placement, Placement):
            label[row], split[row] = reading.records.number_of(placement.label), SPLIT_CODES[placement.split]
        elif placement is not None:
            rejected.append(placement)
    rejected += [
        file for file, placement in zip(unusable, layout.placements[len(paths) :], strict=True) if placement is not None
    ]
    known = {file.path for file in reading.rejected}
    rejected += [file for file in layout.missing if file.path not in known]
    return Labelling(layout.kind, label != UNKNOWN, rejected, ignored, layout.warnings)


def _is_companion(file: Rejected) -> bool:
    path = PurePosixPath(file.path)
    named = path.suffix.casefold() in COMPANIONS or path.name.casefold() in COMPANION_NAMES
    return file.reason == "format_not_allowed" and named


def _no_images(rejected: Sequence[Rejected]) -> BadDataset:
    hint = "Send images as JPEG, PNG, WebP, BMP or GIF files."
    if not rejected:
        return BadDataset("no_images", "There is no image.", hint)
    first = min(rejected, key=lambda file: file.path)
    message = f'None of {len(rejected):,} files can be used; the first is "{shown(first.path)}": {first.message}'
    return BadDataset("no_images", message, hint)
