"""Built-in data sets: what is known of them without reading them. `specs.splits` has the rule of their splits."""

from __future__ import annotations

from dataclasses import dataclass

from specs.registry import Registry
from specs.splits import TEST_FRACTION, share


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


def split_sizes(dataset: BuiltinDataset, validation_fraction: float) -> dict[str, int]:
    """Images in each split by the rule of `specs.splits`, where no two images are the same."""
    test = [share(count, TEST_FRACTION) for count in dataset.class_images]
    rest = [count - taken for count, taken in zip(dataset.class_images, test, strict=True)]
    validation = sum(share(count, validation_fraction) for count in rest)
    return {"train": sum(rest) - validation, "validation": validation, "test": sum(test)}


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
