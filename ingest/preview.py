"""A picture of a data set: a row for each class with its name, its number of images and a few of them."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from formats.datasets import POOL, Index, Pack
from formats.images import decode_original
from ingest.decoding import Batches, PixelBudget

MAX_ROWS = 40
IMAGES_A_ROW = 8
THUMBNAIL = 64
MAX_PIXELS = 400_000_000

_GAP = 8
_MARGIN = 20
_LABEL_WIDTH = 210
_ROW = THUMBNAIL + _GAP
_LABEL_SIZE = 16
_COUNT_SIZE = 13
_GROUND = (250, 250, 250)
_FRAME = (226, 226, 226)
_INK = (28, 28, 28)
_PALE_INK = (105, 105, 105)

# Fonts of common systems, by the names of their files: Pillow finds them where each system keeps its fonts.
_SYSTEM_FONTS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "segoeui.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansKR-Regular.otf",
    "NanumGothic.ttf",
    "malgun.ttf",
    "AppleSDGothicNeo.ttc",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "PingFang.ttc",
)
_NO_CHARACTER = "\U0010ffff"
# They have no picture of their own.
_WITHOUT_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Row:
    """One class: its name, how many images it has, and some of them, uint8 (H, W, 1) or (H, W, 3) each."""

    label: str
    count: int
    images: Sequence[NDArray[np.uint8]]


def preview_rows(pack: Pack, classes: Sequence[str], *, max_pixels: int, threads: int) -> list[Row]:
    """Rows of the first 40 classes, with images of the pool: the first 8 in the order of the index, thus any 8.

    Large images take time: beyond 400 million pixels in all, no more are looked at (but one of each class is).
    """
    chosen = _chosen(pack.index, min(len(classes), MAX_ROWS))
    budget = PixelBudget()

    def thumbnails(numbers: list[int]) -> list[NDArray[np.uint8]]:
        return [_decode_thumbnail(pack.image(number), budget, max_pixels) for number in numbers]

    batches = Batches(thumbnails, size=lambda number: int(pack.index.length[number]), threads=threads)
    small = iter(chain.from_iterable(batches.run(number for numbers in chosen for number in numbers)))
    counts = np.bincount(pack.index.label, minlength=len(classes)).tolist()
    return [Row(classes[label], counts[label], [next(small) for _ in numbers]) for label, numbers in enumerate(chosen)]


def _chosen(index: Index, classes: int) -> list[list[int]]:
    """Numbers of the images to show of each class: first one of each class, then another, while pixels last."""
    pool = np.flatnonzero(index.split == POOL)
    candidates = [pool[index.label[pool] == label][:IMAGES_A_ROW].tolist() for label in range(classes)]
    chosen: list[list[int]] = [[] for _ in candidates]
    left = MAX_PIXELS
    for turn in range(IMAGES_A_ROW):
        for numbers, picked in zip(candidates, chosen, strict=True):
            if turn < len(numbers) and (turn == 0 or left > 0):
                picked.append(numbers[turn])
                left -= int(index.width[numbers[turn]]) * int(index.height[numbers[turn]])
    return chosen


def _decode_thumbnail(data: bytes, budget: PixelBudget, max_pixels: int) -> NDArray[np.uint8]:
    pixels = budget.decode(
        data, lambda limit: decode_original(data, max_pixels=limit, least_side=THUMBNAIL), max_pixels=max_pixels
    )
    if max(pixels.shape) <= THUMBNAIL:
        return pixels
    small = _thumbnail(_as_image(pixels))
    return np.asarray(small).reshape(small.height, small.width, -1)


def draw_preview(rows: Sequence[Row], *, more_classes: int = 0) -> bytes:
    """The picture as a PNG file: up to 40 rows of up to 8 images, and how many classes are not shown."""
    shown = rows[:MAX_ROWS]
    more_classes += len(rows) - len(shown)
    width = 2 * _MARGIN + _LABEL_WIDTH + IMAGES_A_ROW * _ROW - _GAP
    height = 2 * _MARGIN + len(shown) * _ROW - _GAP + (_ROW // 2 if more_classes else 0)
    picture = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(picture)
    for number, row in enumerate(shown):
        top = _MARGIN + number * _ROW
        _draw_label(draw, row, number, top)
        for place, image in enumerate(row.images[:IMAGES_A_ROW]):
            _draw_thumbnail(picture, image, (_MARGIN + _LABEL_WIDTH + place * _ROW, top))
    if more_classes:
        words = "and 1 more class" if more_classes == 1 else f"and {more_classes:,} more classes"
        draw.text((_MARGIN, height - _MARGIN), words, _PALE_INK, _default_font(_COUNT_SIZE), anchor="ls")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _draw_label(draw: ImageDraw.ImageDraw, row: Row, number: int, top: int) -> None:
    middle = top + THUMBNAIL // 2
    text = " ".join(row.label.split())
    font = _font_for(text, _LABEL_SIZE)
    if font is None:
        text, font = f"class {number}", _default_font(_LABEL_SIZE)
    draw.text((_MARGIN, middle - 3), _shortened(text, font), _INK, font, anchor="ls")
    count = "1 image" if row.count == 1 else f"{row.count:,} images"
    draw.text((_MARGIN, middle + 17), count, _PALE_INK, _default_font(_COUNT_SIZE), anchor="ls")


def _draw_thumbnail(picture: Image.Image, pixels: NDArray[np.uint8], corner: tuple[int, int]) -> None:
    """One image in the middle of its square, as large as fits with its own proportions."""
    small = _thumbnail(_as_image(pixels))
    left = corner[0] + (THUMBNAIL - small.width) // 2
    top = corner[1] + (THUMBNAIL - small.height) // 2
    picture.paste(_FRAME, (corner[0], corner[1], corner[0] + THUMBNAIL, corner[1] + THUMBNAIL))
    picture.paste(small, (left, top))


def _as_image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _thumbnail(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    if longer <= THUMBNAIL:
        # Whole pixels stay squares, so that 8 x 8 digits look as crisp as they are.
        times = THUMBNAIL // longer
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    width, height = (max(1, round(side * THUMBNAIL / longer)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _shortened(text: str, font: Font) -> str:
    """As much of a text as fits into its column, with an ellipsis if it is not all."""
    room = _LABEL_WIDTH - 2 * _GAP
    if font.getlength(text) <= room:
        return text
    end = len(text)
    while end and font.getlength(text[:end] + "…") > room:
        end -= 1
    return text[:end].rstrip() + "…"


def _font_for(text: str, size: int) -> Font | None:
    """A font that has every character of the text; None if there is none, rather than boxes for what it lacks."""
    if not text or not text.translate(_WITHOUT_JOINERS).isprintable():
        return None
    if _covers(_default_font(size), text):
        return _default_font(size)
    return next((font for font in _system_fonts(size) if _covers(font, text)), None)


@cache
def _default_font(size: int) -> Font:
    return ImageFont.load_default(size)


@cache
def _system_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    fonts = []
    for name in _SYSTEM_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(fonts)


def _covers(font: Font, text: str) -> bool:
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.isascii()
    if not features.check("raqm") and any(unicodedata.bidirectional(one) in {"R", "AL"} for one in text):
        return False  # without raqm it would come out backwards
    box = _drawn(font, _NO_CHARACTER)
    return all(_drawn(font, one) != box for one in set(text.translate(_WITHOUT_JOINERS)) - {" "})


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
