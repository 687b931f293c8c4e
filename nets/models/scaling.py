"""How a width factor and an image size shape a convolutional network."""

from __future__ import annotations

from specs.networks.base import ConvolutionalOptions

DIVISOR = 8
LARGEST_SMALL_IMAGE = 64


def scaled_channels(channels: float, width: float, *, divisor: int = DIVISOR) -> int:
    """Channels times width as a multiple of the divisor, at least the divisor and never over a tenth too few.

    The rule of the authors' MobileNet code (`_make_divisible`).
    """
    wanted = channels * width
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * wanted else rounded + divisor


def has_small_stem(options: ConvolutionalOptions, image_size: int) -> bool:
    """Whether the first layers keep the resolution; `auto` decides by the side of the image in pixels."""
    if options.stem == "auto":
        return image_size <= LARGEST_SMALL_IMAGE
    return options.stem == "small"
