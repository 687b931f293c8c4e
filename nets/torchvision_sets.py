"""Data sets by the names that torchvision knows them under: found in the folder of downloads or downloaded, and read.

What comes out are image files with the names of their classes, one after the other; a split at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from nets.downloads import download as download_files
from nets.downloads import placed_files, unpack
from nets.errors import NetError, is_out_of_memory
from nets.torchvision_layouts import UNREADABLE, DamagedSet, Layout
from specs.torchvision_sets import TORCHVISION_SETS, TorchvisionSet, TorchvisionSplit

__all__ = ["DamagedSet", "LabelledImage", "SetNotFound", "TorchvisionReading", "open_set", "read_set"]

SWITCHED_OFF = "downloading is switched off"


class SetNotFound(NetError):
    """A set is neither in the folder of downloads nor could it be downloaded; `cause` says why not."""

    def __init__(self, entry: TorchvisionSet, cause: str) -> None:
        place = f"downloads/{entry.folder}".rstrip("/")
        super().__init__(
            f"The data set {entry.name} is not in the folder of downloads and could not be downloaded: {cause}. "
            f"Place {_and(entry.files)} in {place} of the data folder, then try again."
        )
        self.cause = cause


@dataclass(frozen=True)
class LabelledImage:
    """An image file with the name of its class; `split` is None where the set's own splits are not all there.

    `data` is a PNG file made of the published array, or the published file itself. `path` names the image within its
    set and stays the same from one reading to the next.
    """

    path: str
    data: bytes
    label: str
    split: TorchvisionSplit | None


@dataclass(frozen=True)
class TorchvisionReading:
    """The images of a set, and sentences on what is not as published; complete once the last image is read."""

    images: Iterator[LabelledImage]
    notes: list[str]


def open_set(name: str, folder: Path, *, download: bool = True) -> TorchvisionReading:
    """A set that is in `folder`, the folder of downloads, or after this call is.

    Raises UnknownName; SetNotFound, without a network within some 20 seconds; DamagedSet for files that are cut or
    not the published ones, here or while the images are read.
    """
    layout: Layout = resolve_name(TORCHVISION_SETS[name].target)(TORCHVISION_SETS[name])
    notes: list[str] = []
    splits = _provide(layout, folder, notes, download=download)
    return TorchvisionReading(_images(layout, folder, splits, notes), notes)


def read_set(name: str, folder: Path, *, download: bool = True) -> Iterator[LabelledImage]:
    """The images of `open_set`, for callers who want no notes."""
    return open_set(name, folder, download=download).images


def _provide(layout: Layout, folder: Path, notes: list[str], *, download: bool) -> list[TorchvisionSplit]:
    """Sees to it that a set is unpacked, all of it or what there is of it; which splits there are."""
    splits = list(layout.entry.splits)
    missing = [split for split in splits if not layout.is_unpacked(folder, split)]
    placed = placed_files(layout, folder, missing)
    ready = [split for split in missing if layout.published(split).keys() <= placed.keys()]
    if ready != missing:
        cause = download_files(layout, folder, missing, placed) if download else SWITCHED_OFF
        if cause is None:
            return splits
        splits = [split for split in splits if split in ready or split not in missing]
        if not splits:
            raise SetNotFound(layout.entry, cause)
        notes.append(_part_only(layout, splits, cause))
    if ready:
        unpack(layout, folder, ready, placed)
    return splits


def _part_only(layout: Layout, splits: list[TorchvisionSplit], cause: str) -> str:
    absent = {name for split in layout.entry.splits if split not in splits for name in layout.published(split)}
    return (
        f"Only the {_and(splits)} images of {layout.entry.name} are there; {_and(sorted(absent))} could not be "
        f"downloaded: {cause}. The images that are there are split anew."
    )


def _images(layout: Layout, folder: Path, splits: list[TorchvisionSplit], notes: list[str]) -> Iterator[LabelledImage]:
    whole = splits == list(layout.entry.splits)
    for split in splits:
        folder_name, told = (split, split) if whole else (layout.entry.name, None)
        # Each split has a frame of its own, so that its arrays are gone before the next one's are read.
        for label, data, name in _images_of_split(layout, folder, split, notes):
            yield LabelledImage(f"{folder_name}/{name}", data, label, told)


def _images_of_split(
    layout: Layout, folder: Path, split: TorchvisionSplit, notes: list[str]
) -> Iterator[tuple[str, bytes, str]]:
    with _damage_told(layout, folder, split):
        dataset = layout.load(folder, split)
        names = _class_names(layout, dataset)
    published = layout.entry.splits[split]
    if len(dataset) != published:
        notes.append(f"The {split} split has {len(dataset):,} images; as published it has {published:,}.")
    for number in range(len(dataset)):
        with _damage_told(layout, folder, split):
            data, label, name = layout.item(dataset, number)
            label_name = names[label]
        yield label_name, data, name


def _class_names(layout: Layout, dataset: Any) -> dict[int, str]:
    names = layout.class_names(dataset)
    if len(set(names.values())) != layout.entry.classes:
        raise ValueError(f"{len(names)} names for {layout.entry.classes} classes")
    return names


@contextmanager
def _damage_told(layout: Layout, folder: Path, split: TorchvisionSplit) -> Iterator[None]:
    """Within, whatever a loader raises over bad files becomes a DamagedSet that names the file."""
    try:
        yield
    except UNREADABLE as error:
        if is_out_of_memory(error):
            raise
        raise DamagedSet(layout.entry.name, layout.damaged_file(folder, split)) from error


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
