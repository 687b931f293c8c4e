"""From the bytes of an image file to pixels: one written rule, the same in training and in serving.

The rule:

1. Only JPEG, PNG, WebP, BMP and GIF are read, told apart by their content; of an animation, the first frame.
   An image over the pixel limit, or with a side over 65,535 pixels, is refused before it is decoded.
2. The EXIF orientation is applied, so that up is up.
3. 16-bit and 32-bit grey levels are scaled to 8 bits by their type's range (65535 becomes 255).
4. Transparent pixels are laid over black. Palettes become the colours they stand for. CMYK becomes RGB.
5. For a network of one channel colours become luminance (ITU-R 601); for one of three, grey is repeated.
6. The image is resized to size x size with antialiased bilinear sampling, whatever its aspect ratio.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Named here, these are the only readers that Pillow loads; asked for WebP it would else load all it has.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif")
DEFAULT_MAX_PIXELS = 50_000_000
# Of a longer side resizing takes far more memory than the pixels do; most formats have no longer ones.
MAX_SIDE = 65_535
# A progressive JPEG has some ten. Each goes over all pixels, though it may take no more than some bytes.
MAX_SCANS = 100
END_OF_PICTURE = 0xD9
SCAN = b"\xff\xda"
# ITU T.81, B.1.1.3: what begins a part of a JPEG. Others may stand within a scan, and have no length for a decoder.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_BARE_MARKERS = b"\xd8"
# Far more than pictures have; to count on takes as long as to decode.
MAX_PARTS = 10_000
# Pillow decodes runs of a BMP in Python, which takes a second for some millions of pixels.
MAX_RUN_PIXELS = 1 << 20

Reason = Literal["empty", "unreadable", "format_not_allowed", "too_large", "truncated"]

# Pillow warns of a decompression bomb before it refuses one; our own limit is checked right after. To silence it
# around each call would not do: warnings.catch_warnings is not safe among threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# What Pillow raises on hostile files.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    AssertionError,  # of a palette that is not there
    struct.error,
    zlib.error,
)

# How files of each format begin: the first bytes, and what stands at a place further on.
_MARKS = (
    ("JPEG", b"\xff\xd8\xff", 0, b""),
    ("PNG", b"\x89PNG\r\n\x1a\n", 0, b""),
    ("WEBP", b"RIFF", 8, b"WEBPVP8"),
    ("BMP", b"BM", 0, b""),
    ("GIF", b"GIF8", 4, b"7a"),
    ("GIF", b"GIF8", 4, b"9a"),
)

# How to turn an image by its EXIF orientation, and where Pillow finds one.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTED_BY = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})

# 8 bits for each level of 16: rounded, and 65535 becomes 255.
_EIGHT_BITS = (np.arange(1 << 16) / 257.0 + 0.5).astype(np.uint8)

# Pixels looked at together, so that what is computed on the way stays small.
_BLOCK_PIXELS = 1 << 18


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
    with _opened(data, max_pixels) as image:
        return _pixels(image, shape)


def decode_small(
    data: bytes, shape: ImageShape, *, at_most: int, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[np.uint8] | None:
    """The same of an image file of up to `at_most` pixels, whose header is read only once; None of a larger one."""
    with _opened(data, max_pixels) as image:
        return None if image.width * image.height > at_most else _pixels(image, shape)


def decode_original(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, least_side: int | None = None
) -> NDArray[np.uint8]:
    """The pixels of an image file by steps 1 to 4 of the rule, uint8 of shape (height, width, channels).

    There is 1 channel if the image shows grey only, whatever its mode, else there are 3. The whole file is decoded,
    so what breaks off is found: BadImage. With `least_side` a JPEG may come at a smaller scale, no side of it
    shorter than that.
    """
    with _opened(data, max_pixels) as image:
        if least_side is not None:
            image.draft(None, (least_side, least_side))
        upright = _upright(image)
        flat = _flatten(_to_8_bits(upright))
        return _without_equal_channels(np.asarray(_in_mode(flat, "L" if flat.mode in {"1", "L"} else "RGB")))


def pixel_hash(pixels: NDArray[np.uint8]) -> bytes:
    """What an image shows, in 32 bytes: the SHA-256 of "HxWxC:" and the pixels, uint8 of shape (H, W, C)."""
    height, width, channels = pixels.shape
    digest = hashlib.sha256(b"%dx%dx%d:" % (height, width, channels))
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def image_format(data: bytes) -> str | None:
    """Which of FORMATS the first bytes are those of; None if they are of no format on the list."""
    for name, start, place, mark in _MARKS:
        if data.startswith(start) and data.startswith(mark, place):
            return name
    return None


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image, not yet decoded; what goes wrong with it inside of the block becomes BadImage."""
    image = _open(data, max_pixels)
    try:
        yield image
    except _DAMAGE as error:
        if "out of memory" in str(error):  # Pillow's word for its decoders; the image may be sound
            raise MemoryError("There is not enough memory to decode the image.") from error
        raise BadImage("truncated", "The image breaks off or is damaged.", "Send the whole file.") from error
    finally:
        image.close()


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise BadImage("empty", "The image is empty.", "Send the bytes of an image file.")
    image = _identify(data)
    limit = f"{max_pixels:,} in all" if image.width * image.height > max_pixels else None
    if limit is None and max(image.size) > MAX_SIDE:
        limit = f"{MAX_SIDE:,} along a side"
    if limit is not None:
        image.close()
        message = f"The image has {image.width} x {image.height} pixels; the limit is {limit}."
        raise BadImage("too_large", message, "Scale it down before sending it.")
    slow = _why_slow(image, data)
    if slow is not None:
        image.close()
        raise BadImage("too_large", slow, "Convert it to PNG, or to JPEG as cameras write it.")
    return image


def _why_slow(image: Image.Image, data: bytes) -> str | None:
    """Why it would take far longer to decode than others of as many pixels, if it would."""
    # Not as Pillow says: it calls a JPEG that other pictures follow, as phones write them, an MPO.
    if image_format(data) == "JPEG" and data.count(SCAN) > MAX_SCANS and _has_many_scans(data):
        return f"The image has more than {MAX_SCANS} scans, each over all of its pixels."
    tiles: list[Any] = getattr(image, "tile", [])
    runs = bool(tiles) and tiles[0][0] == "bmp_rle"
    if runs and image.width * image.height > MAX_RUN_PIXELS:
        return f"The image is a BMP of runs with more than {MAX_RUN_PIXELS:,} pixels."
    return None


def _has_many_scans(data: bytes) -> bool:
    """Whether the first picture of a JPEG has; pictures within it, or a film after it, are none of its scans."""
    scans = parts = at = 0
    while scans <= MAX_SCANS and parts <= MAX_PARTS:
        found = _MARKER.search(data, at)
        if found is None or data[found.end() - 1] == END_OF_PICTURE:
            return False
        at, marker = found.end(), data[found.end() - 1]
        parts += 1
        scans += marker == SCAN[1]
        if marker not in _BARE_MARKERS:
            at += int.from_bytes(data[at : at + 2], "big")
    return True


def _identify(data: bytes) -> Image.Image:
    name = image_format(data)
    if name is None:
        message = f"These bytes are not an image of a format on the list: {', '.join(FORMATS)}."
        raise BadImage("format_not_allowed", message, "Convert it to PNG or JPEG.")
    try:
        return Image.open(io.BytesIO(data), formats=(name,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage("too_large", "The image has far too many pixels.", "Scale it down before sending it.") from None
    except _DAMAGE as error:
        raise BadImage("unreadable", "The header of the image is damaged.", "Send the whole file.") from error


def _pixels(image: Image.Image, shape: ImageShape) -> NDArray[np.uint8]:
    # A JPEG is decoded at the smallest scale of 1/8 steps that is not below twice the size: much faster for photos.
    image.draft(None, (shape.size * 2, shape.size * 2))
    flat = _in_mode(_flatten(_to_8_bits(_upright(image))), "L" if shape.channels == 1 else "RGB")
    if flat.size != (shape.size, shape.size):
        flat = flat.resize((shape.size, shape.size), Image.Resampling.BILINEAR)
    return np.asarray(flat, dtype=np.uint8).reshape(shape.size, shape.size, shape.channels)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    if _ORIENTED_BY.isdisjoint(image.info):
        return image
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in this mode; itself if it is, where Pillow would make a copy."""
    return image if image.mode == mode else image.convert(mode)


def _without_equal_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (H, W) or (H, W, 3) as (H, W, 1) if they are grey, else as (H, W, 3)."""
    if pixels.ndim == 2:
        return pixels[..., None]
    middle = len(pixels) // 2
    # One row tells most colour images at once.
    if _is_grey(pixels[middle : middle + 1]) and _is_grey(pixels):
        return np.ascontiguousarray(pixels[..., :1])
    return pixels


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    rows = max(1, _BLOCK_PIXELS // pixels.shape[1])
    blocks = (pixels[start : start + rows] for start in range(0, len(pixels), rows))
    return all((block[..., :1] == block[..., 1:]).all() for block in blocks)


def _to_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(_EIGHT_BITS[np.asarray(image)])
    if image.mode not in {"I", "F"}:
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
