"""From the paths of a data set to labels and splits: by its folders, or by a manifest.

    cat/1.jpg  dog/2.jpg                                  folders: each is a class, with whatever is below it
    train/cat/1.jpg  val/cat/2.jpg  test/dog/3.jpg        splits: folders of classes (val may be called
                                                          valid, validation or dev; also training, testing)
    manifest.csv  images/1.jpg                            manifest: see `ingest.manifests`

Leading folders that all paths share are left out of account as long as a folder is left above every image. The order
of the paths does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ingest.errors import BadDataset
from ingest.manifests import MAX_LABEL, SPLIT_WORDS, clean_label, is_manifest, read_manifest
from ingest.members import Rejected, Split
from ingest.names import shown

__all__ = ["Layout", "Placement", "is_manifest", "place"]

Kind = Literal["folders", "splits", "manifest"]
SHOWN_CLASSES = 10
LAYOUTS = (
    "Put images into one folder for each class (cat/1.jpg, dog/2.jpg), or such folders into train, val and test, "
    "or add a manifest.csv with the columns path and label."
)


@dataclass(frozen=True)
class Placement:
    """The class of an image, and its split if the data set has splits."""

    label: str
    split: Split | None


@dataclass(frozen=True)
class Layout:
    """What was made of the paths, in their order: a placement, a verdict, or None for what is left out of account.

    `missing` are files that the manifest names and that are not there, sorted by path.
    """

    kind: Kind
    placements: list[Placement | Rejected | None]
    missing: list[Rejected] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def place(paths: Sequence[str], manifests: Mapping[str, bytes]) -> Layout:
    """Labels and splits of all files of a data set, given their clean paths and the content of its manifest, if any.

    Paths of manifests may be among them. BadDataset(bad_manifest) if there are two manifests or the one is not clear,
    BadDataset(no_images) if no file has a label.
    """
    if len(manifests) > 1:
        message = f"There are {len(manifests)} manifests: {_listed(manifests)}."
        raise BadDataset("bad_manifest", message, "Leave one, with the paths of all images.")
    images = [path for path in paths if not is_manifest(path)]
    layout = _by_manifest(images, *next(iter(manifests.items()))) if manifests else _by_folders(images)
    if not any(isinstance(placement, Placement) for placement in layout.placements):
        raise _nothing_placed(images, layout)
    placed = iter(layout.placements)
    return replace(
        layout,
        placements=[None if is_manifest(path) else next(placed) for path in paths],
        warnings=layout.warnings + _warn_of_case(layout.placements),
    )


def _nothing_placed(images: Sequence[str], layout: Layout) -> BadDataset:
    if layout.kind != "manifest" or not images:
        message = f"None of the {len(images):,} images has a label." if images else "There is no image."
        return BadDataset("no_images", message, LAYOUTS)
    if not layout.missing:
        return BadDataset("no_images", "The manifest names no image.", "Give it a row for each image.")
    first = shown(layout.missing[0].path)
    message = f'The manifest names {len(layout.missing):,} files and none of them is there; the first is "{first}".'
    return BadDataset("no_images", message, "Paths count from the folder in which the manifest is.")


def _by_manifest(paths: Sequence[str], name: str, content: bytes) -> Layout:
    known = set(paths)
    missing: dict[str, Rejected] = {}
    placed: dict[str, Placement | Rejected] = {}
    for row in read_manifest(name, content):
        placement = Placement(row.label, row.split)
        if row.path not in known:
            message = f"Row {row.number:,} of the manifest names a file that is not there."
            missing.setdefault(row.path, Rejected(row.path, "missing", message))
        elif placed.setdefault(row.path, placement) != placement:
            placed[row.path] = Rejected(row.path, "two_labels", "The manifest gives it two different labels or splits.")
    placements = [placed.get(path) for path in paths]
    warnings = _warn_of_ignored(placements, "not named in the manifest")
    return Layout("manifest", placements, [missing[path] for path in sorted(missing)], warnings)


def _by_folders(paths: Sequence[str]) -> Layout:
    parts = _below_shared_folders([path.split("/") for path in paths])
    firsts = {part[0] for part in parts if len(part) > 1}
    splits = {name: SPLIT_WORDS[name.casefold()] for name in firsts if name.casefold() in SPLIT_WORDS}
    trains = any(len(part) > 2 and splits.get(part[0]) == "train" for part in parts)
    if trains and len(splits) == len(firsts):
        placed = [_place_image(path, part[1:], splits.get(part[0])) for path, part in zip(paths, parts, strict=True)]
        return Layout("splits", placed, warnings=_warn_of_ignored(placed))
    placed = [_place_image(path, part, None) for path, part in zip(paths, parts, strict=True)]
    return Layout("folders", placed, warnings=_warn_of_ignored(placed) + _warn_of_splits(splits))


def _below_shared_folders(parts: list[list[str]]) -> list[list[str]]:
    """The parts of paths without the leading folders that all share; files outside any folder do not count in that."""
    inside = [part for part in parts if len(part) > 1]
    depth = 0
    while inside and all(len(part) > depth + 2 for part in inside) and len({part[depth] for part in inside}) == 1:
        depth += 1
    return [part[depth:] if len(part) > 1 else part for part in parts]


def _place_image(path: str, parts: list[str], split: Split | None) -> Placement | Rejected | None:
    if len(parts) < 2:
        return None
    label = clean_label(parts[0])
    if label is None:
        message = f'"{shown(parts[0])}" is no name for a class: it must have 1 to {MAX_LABEL} printable characters.'
        return Rejected(path, "bad_label", message)
    return Placement(label, split)


def _warn_of_ignored(
    placements: Sequence[Placement | Rejected | None], why: str = "in no folder of a class"
) -> list[str]:
    count = sum(placement is None for placement in placements)
    return [f"Left out: {count:,} {'image' if count == 1 else 'images'} {why}."] if count else []


def _warn_of_splits(splits: Mapping[str, Split]) -> list[str]:
    """A warning where folders that look like splits were taken as classes, except for one alone, such as train."""
    if len(set(splits.values())) < 2:
        return []
    return [
        f"Taken as classes, not as splits: {_listed(splits)}. They are splits only if there is a train folder, "
        "no other folder beside them, and folders of classes below."
    ]


def _warn_of_case(placements: Iterable[Placement | Rejected | None]) -> list[str]:
    spellings = defaultdict(set)
    for label in {placement.label for placement in placements if isinstance(placement, Placement)}:
        spellings[label.casefold()].add(label)
    alike = [label for labels in spellings.values() if len(labels) > 1 for label in labels]
    return [f"Different classes whose names differ only by case: {_listed(alike)}."] if alike else []


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = [f"and {len(ordered) - SHOWN_CLASSES:,} more"] if len(ordered) > SHOWN_CLASSES else []
    return ", ".join([f'"{shown(name)}"' for name in ordered[:SHOWN_CLASSES]] + more)
