"""Data sets: what can be asked for, and the built-in ones. `specs.splits` has the rule of splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints

from specs.options import Fraction, Name, Strict
from specs.registry import Registry
from specs.splits import TEST_FRACTION, share


class UploadSource(Strict):
    """An archive that is uploaded afterwards: PUT /v1/datasets/{id}/content."""

    kind: Literal["upload"] = "upload"


class FolderSource(Strict):
    """A folder on the machine of the service, below one of PRUNEYARD_DATA_ROOTS."""

    kind: Literal["folder"]
    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="Absolute path of the folder; its files are copied."
    )


class TorchvisionSource(Strict):
    """A data set that torchvision knows; its files are looked for in the data folder, then downloaded."""

    kind: Literal["torchvision"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(
        description="Which one; GET /v1/torchvision-datasets lists them.", examples=["mnist"]
    )


Source = Annotated[UploadSource | FolderSource | TorchvisionSource, Discriminator("kind")]


class DatasetSpec(Strict):
    """A data set to be made. One of the same name becomes its next version; the earlier ones stay."""

    name: Name = Field(description="A label, not an id.")
    source: Source = Field(default=UploadSource(), description="Where its images come from.")
    max_rejected: Fraction = Field(
        default=0.01, description="Share of files that may be unusable; with more the data set fails."
    )


@dataclass(frozen=True)
class BuiltinDataset:
    """A data set that a library ships; `class_images` counts the images of each class.

    `target` is an import string of a function that returns pixels, uint8 of shape (N, H, W) or (N, H, W, 3), and
    labels, int64 of shape (N,).
    """

    name: str
    title: str
    classes: tuple[str, ...]
    class_images: tuple[int, ...]
    channels: int
    native_size: int
    image_size: int
    target: str
    source: str

    @property
    def id(self) -> str:
        return f"ds_{self.name}"

    @property
    def images(self) -> int:
        return sum(self.class_images)


def class_split_sizes(dataset: BuiltinDataset, validation_fraction: float) -> dict[str, dict[str, int]]:
    """Images of each class in each split by the rule of `specs.splits`, where no two images are the same."""
    images = zip(dataset.classes, dataset.class_images, strict=True)
    return {name: _parts(count, validation_fraction) for name, count in images}


def split_sizes(dataset: BuiltinDataset, validation_fraction: float) -> dict[str, int]:
    """The same of all classes together."""
    parts = class_split_sizes(dataset, validation_fraction).values()
    return {split: sum(part[split] for part in parts) for split in ("train", "validation", "test")}


def _parts(images: int, validation_fraction: float) -> dict[str, int]:
    test = share(images, TEST_FRACTION)
    validation = share(images - test, validation_fraction)
    return {"train": images - test - validation, "validation": validation, "test": test}


BUILTIN_DATASETS: Registry[BuiltinDataset] = Registry(
    "data set",
    [
        BuiltinDataset(
            name="digits",
            title="Handwritten digits, 8 x 8, 16 grey levels",
            classes=tuple("0123456789"),
            class_images=(178, 182, 177, 183, 181, 182, 181, 179, 174, 180),
            channels=1,
            native_size=8,
            image_size=16,
            target="formats.digits:read_digits",
            source="Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI, 1998 (its test part, as "
            "scikit-learn ships it)",
        )
    ],
)


def find_builtin(reference: str) -> BuiltinDataset | None:
    """The built-in data set of this id or name."""
    return next((entry for entry in BUILTIN_DATASETS.values() if reference in {entry.id, entry.name}), None)
