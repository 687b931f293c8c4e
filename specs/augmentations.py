"""Changes made to training images, each a pure function of (seed, epoch, index), and the list of them that a job names.

The list is applied in its order. What mixes two images comes last, as it changes the target too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError, PydanticKnownError

from specs.options import Entry, Options, choice, named
from specs.registry import Registry

MAX_AUGMENTATIONS = 4
Probability = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Concentration = Annotated[float, Field(strict=True, ge=0.01, le=100, allow_inf_nan=False)]
Reach = Annotated[int, Field(strict=True, ge=1, le=64)]


class AugmentationOptions(Options):
    """A change of training images."""

    mixes: ClassVar[bool] = False


class NoneOptions(AugmentationOptions):
    """Images as they are."""


class ShiftOptions(AugmentationOptions):
    """Each image moved by up to `pixels` along each axis, the border filled with black."""

    pixels: Reach = Field(default=2, description="Largest shift along an axis, in pixels.")


class FlipOptions(AugmentationOptions):
    """Left and right exchanged in some of the images."""

    p: Probability = Field(default=0.5, description="Probability for each image.")


class CropFlipOptions(AugmentationOptions):
    """A window of the image's size out of the image with its reflection around it, then a flip of every other one."""

    pixels: Reach | None = Field(
        default=None, description="Width of the reflection around the image; by default an eighth of its side."
    )


class AutoOptions(AugmentationOptions):
    """`crop-flip` for colour images; for grey ones, which may be letters or digits, its crop without the flip."""

    crop: bool = Field(
        default=True, strict=True, description="Whether to crop: trainings of a few epochs learn more without."
    )


class RandAugmentOptions(AugmentationOptions):
    """Operations drawn for each image out of fourteen: geometry, brightness, contrast, colour, sharpness, levels."""

    operations: Annotated[int, Field(strict=True, ge=1, le=4)] = Field(
        default=2, description="How many are applied to each image, one after the other."
    )
    magnitude: Annotated[int, Field(strict=True, ge=0, le=30)] = Field(
        default=9, description="Strength of all of them, 30 being the strongest."
    )


class EraseOptions(AugmentationOptions):
    """A rectangle painted over with the mean colour of the training split in some of the images."""

    p: Probability = Field(default=0.5, description="Probability for each image.")
    largest: Annotated[float, Field(strict=True, ge=0.02, le=1, allow_inf_nan=False)] = Field(
        default=0.33, description="Largest share of the image that is painted over; the smallest is 0.02."
    )


class MixingOptions(AugmentationOptions):
    """A change that mixes each image and its target with those of a partner from the training split."""

    mixes: ClassVar[bool] = True


class MixupOptions(MixingOptions):
    """A weighted sum of each image and a partner, of pixels and of targets."""

    alpha: Concentration = Field(
        default=0.2, description="The share of the image follows Beta(alpha, alpha): the lower, the nearer 0 and 1."
    )


class CutmixOptions(MixingOptions):
    """A rectangle of a partner pasted into each image; targets weigh as much as the areas."""

    alpha: Concentration = Field(
        default=1.0, description="The share of the image follows Beta(alpha, alpha): the lower, the nearer 0 and 1."
    )


def _entry(name: str, title: str, options: type[Options], place: str, source: str = "") -> Entry:
    return Entry(name, title, named(options, name), f"nets.{place}:{name.replace('-', '_')}", source)


AUGMENTATIONS: Registry[Entry] = Registry(
    "augmentation",
    [
        _entry("none", "None", NoneOptions, "augmentations"),
        _entry("shift", "Random shift", ShiftOptions, "augmentations"),
        _entry("flip", "Random horizontal flip", FlipOptions, "augmentations"),
        _entry(
            "crop-flip",
            "Random crop and flip",
            CropFlipOptions,
            "augmentations",
            "He et al., arXiv 1512.03385, section 4.2; reflection instead of black as in Zagoruyko, Komodakis: "
            "Wide Residual Networks, arXiv 1605.07146, section 3",
        ),
        _entry("auto", "By the images", AutoOptions, "augmentations"),
        _entry(
            "randaugment",
            "RandAugment",
            RandAugmentOptions,
            "randaugment",
            "Cubuk, Zoph, Shlens, Le: RandAugment, arXiv 1909.13719; strengths as in torchvision",
        ),
        _entry(
            "erase",
            "Random erasing",
            EraseOptions,
            "augmentations",
            "Zhong et al.: Random Erasing Data Augmentation, arXiv 1708.04896",
        ),
        _entry(
            "mixup",
            "Mixup",
            MixupOptions,
            "mixing",
            "Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond Empirical Risk Minimization, arXiv 1710.09412",
        ),
        _entry(
            "cutmix",
            "CutMix",
            CutmixOptions,
            "mixing",
            "Yun et al.: CutMix: Regularization Strategy to Train Strong Classifiers, arXiv 1905.04899",
        ),
    ],
)


def _as_list(value: Any) -> Any:
    chosen = value if isinstance(value, list | tuple) else [value]
    if not chosen:
        # Pydantic's own check counts what is left after bad items are gone, and would tell of them twice.
        raise PydanticKnownError("too_short", {"field_type": "List", "min_length": 1, "actual_length": 0})
    return chosen


def _in_order(chosen: tuple[AugmentationOptions, ...]) -> tuple[AugmentationOptions, ...]:
    names = [options.name for options in chosen]
    if any(options.mixes for options in chosen[:-1]):
        mixing = " and ".join(sorted(name for name, entry in AUGMENTATIONS.items() if _mixes(entry)))
        message = f"Of {mixing} only one can be named, and only as the last."
        raise PydanticCustomError("mixing_not_last", "{message}", {"message": message, "hint": "Move it to the end."})
    if len(set(names)) < len(names):
        message = "An augmentation is named twice."
        raise PydanticCustomError("named_twice", "{message}", {"message": message, "hint": "Name each once."})
    return chosen


def _mixes(entry: Entry) -> bool:
    return issubclass(entry.options, MixingOptions)


if TYPE_CHECKING:
    Augmentations = tuple[AugmentationOptions, ...]
else:
    _one = choice(AUGMENTATIONS)
    _length = Field(max_length=MAX_AUGMENTATIONS, json_schema_extra={"minItems": 1})
    _many = Annotated[tuple[_one, ...], _length, AfterValidator(_in_order)]
    Augmentations = Annotated[_many, BeforeValidator(_as_list, json_schema_input_type=_one | _many)]
