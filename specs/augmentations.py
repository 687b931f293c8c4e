"""Changes made to training images, each a pure function of (seed, epoch, index)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from specs.options import Entry, Options, choice, named
from specs.registry import Registry


class NoneOptions(Options):
    """Images as they are."""


class ShiftOptions(Options):
    """Each image moved by up to `pixels` along each axis, the border filled with black."""

    pixels: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        default=2, description="Largest shift along an axis, in pixels."
    )


def _entries() -> list[Entry]:
    return [
        Entry("none", "None", named(NoneOptions, "none"), "nets.augmentations:none"),
        Entry("shift", "Random shift", named(ShiftOptions, "shift"), "nets.augmentations:shift"),
    ]


AUGMENTATIONS: Registry[Entry] = Registry("augmentation", _entries())

if TYPE_CHECKING:
    Augmentation = Options
else:
    Augmentation = choice(AUGMENTATIONS)
