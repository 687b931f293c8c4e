"""From the bytes of an image file to pixels: one written rule, the same in training and in serving.

The rule:

1. Only JPEG, PNG, WebP, BMP and GIF are read, told apart by their content; of an animation, the first frame.
   An image over the pixel limit is refused before it is decoded.
2. The EXIF orientation is applied, so that up is up.
3. 16-bit and 32-bit grey levels are scaled to 8 bits by their type's range (65535 becomes 255).
4. Transparent pixels are laid over black. Palettes become the colours they stand for. CMYK becomes RGB.
5. For a network of one channel colours become luminance (ITU-R 601); for one of three, grey is repeated.
6. The image is resized to size x size with antialiased bilinear sampling, whatever its aspect ratio.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif")
DEFAULT_MAX_PIXELS = 50_000_000

Reason = Literal["empty", "unreadable", "format_not_allowed", "too_large", "truncated"]


class BadImage(ValueError):
    """An image that cannot be used; `reason` is one word for programs, the text is for people."""

    def __init__(self, reason: Reason, message: str, hint: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class ImageShape:
    """What a network wants: `size` x `size` pixels of `channels` (1 or 3) bytes."""

    size: int
    channels: int


def decode_image(data: bytes, shape: ImageShape, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """The pixels of an image file, uint8 of shape (size, size, channels); BadImage if there are none to be had."""
    image = _open(data, max_pixels)
    try:
        return _pixels(image, shape)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise BadImage("truncated", "The image breaks off or is damaged.", "Send the whole file.") from error
    finally:
        image.close()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise BadImage("empty", "The image is empty.", "Send the bytes of an image file.")
    image = _identify(data)
    if image.width * image.height > max_pixels:
        message = f"The image has {image.width} x {image.height} pixels; the limit is {max_pixels:,} in all."
        raise BadImage("too_large", message, "Scale it down before sending it.")
    return image


def _identify(data: bytes) -> Image.Image:
    allowed = ", ".join(FORMATS)
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a decompression bomb at first; our own limit is checked right after.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        message = f"These bytes are not an image of a format on the list: {allowed}."
        raise BadImage("format_not_allowed", message, "Convert it to PNG or JPEG.") from None
    except Image.DecompressionBombError:
        raise BadImage("too_large", "The image has far too many pixels.", "Scale it down before sending it.") from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise BadImage("unreadable", "The header of the image is damaged.", "Send the whole file.") from error


def _pixels(image: Image.Image, shape: ImageShape) -> NDArray[np.uint8]:
    # A JPEG is decoded at the smallest scale of 1/8 steps that is not below twice the size: much faster for photos.
    image.draft(None, (shape.size * 2, shape.size * 2))
    upright = ImageOps.exif_transpose(image)
    flat = _flatten(_to_8_bits(upright)).convert("L" if shape.channels == 1 else "RGB")
    if flat.size != (shape.size, shape.size):
        flat = flat.resize((shape.size, shape.size), Image.Resampling.BILINEAR)
    return np.asarray(flat, dtype=np.uint8).reshape(shape.size, shape.size, shape.channels)


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode not in {"I", "F"} and not image.mode.startswith("I;16"):
        return image
    levels = np.clip(np.asarray(image, dtype=np.float64) / 257.0 + 0.5, 0, 255)
    return Image.fromarray(levels.astype(np.uint8), mode=None)


def _flatten(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    ground = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, rgba)


def count_pixels(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> int:
    """How many pixels an image file has, from its header alone; BadImage as from `decode_image`."""
    with _open(data, max_pixels) as image:
        return image.width * image.height


def resize_pixels(pixels: NDArray[np.uint8], shape: ImageShape) -> NDArray[np.uint8]:
    """Pixels of shape (height, width) or (height, width, 3) by steps 5 and 6 of the rule."""
    return _pixels(Image.fromarray(pixels), shape)
