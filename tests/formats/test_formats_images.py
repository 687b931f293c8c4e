"""The image rule, step by step."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from formats.images import (
    FORMATS,
    MAX_SIDE,
    BadImage,
    ImageShape,
    count_pixels,
    decode_image,
    decode_original,
    image_format,
    pixel_hash,
    resize_pixels,
)
from tests.conftest import png

GREY = ImageShape(16, 1)
COLOUR = ImageShape(16, 3)


def gradient(width: int = 16, height: int = 16) -> Image.Image:
    """Dark at the left, bright at the right."""
    row = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.tile(row, (height, 1)))


def read(image: Image.Image, shape: ImageShape = GREY, kind: str = "PNG") -> NDArray[np.uint8]:
    return decode_image(png(image, kind=kind), shape)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_on_the_list_is_read(kind: str) -> None:
    pixels = decode_image(png(gradient().convert("RGB"), kind=kind), COLOUR)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(gradient())[..., None]).max() <= 16


def test_an_image_of_the_right_size_is_left_alone() -> None:
    assert (read(gradient())[..., 0] == np.asarray(gradient())).all()


def test_colours_become_luminance_and_grey_is_repeated() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert read(red)[0, 0, 0] == 76  # 0.299 x 255, ITU-R 601
    grey = read(gradient(), COLOUR)
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()


def test_transparent_pixels_lie_over_black() -> None:
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert read(image).max() == 0
    image.putalpha(128)
    assert abs(int(read(image)[0, 0, 0]) - 128) <= 1
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert decode_image(png(palette), GREY).min() == 255
    assert decode_image(png(palette, transparency=1), GREY).max() == 0


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (257, 1), (65535, 255), (32896, 128)])
def test_sixteen_bits_are_scaled_by_their_range(level: int, expected: int) -> None:
    image = Image.fromarray(np.full((4, 4), level, dtype=np.uint16))
    assert (decode_image(png(image), GREY) == expected).all()


def test_cmyk_becomes_rgb() -> None:
    black = Image.new("CMYK", (16, 16), (0, 0, 0, 255))
    white = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    assert read(black, kind="JPEG").max() <= 2
    assert read(white, kind="JPEG").min() >= 253


@pytest.mark.parametrize("orientation", range(1, 9))
def test_up_is_up_whatever_the_camera_did(orientation: int) -> None:
    upright = np.asarray(gradient())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright.T, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (decode_image(png(stored, exif=exif), GREY)[..., 0] == upright).all()


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("L", (8, 8), level) for level in (200, 0, 0)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(file.getvalue(), GREY).min() == 200


def test_arrays_go_through_the_same_rule_as_files() -> None:
    image = gradient(37, 21)
    assert (resize_pixels(np.asarray(image), GREY) == read(image)).all()
    colours = np.asarray(gradient(37, 21).convert("RGB"))
    assert (resize_pixels(colours, COLOUR) == read(Image.fromarray(colours), COLOUR)).all()


def test_pixels_are_counted_before_they_are_decoded() -> None:
    with pytest.raises(BadImage) as caught:
        decode_image(png(Image.new("1", (1000, 1001))), GREY, max_pixels=1_000_000)
    assert caught.value.reason == "too_large"
    assert decode_image(png(Image.new("1", (1000, 1000))), GREY, max_pixels=1_000_000).shape == (16, 16, 1)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(FORMATS))
def test_spoilt_files_are_bad_images_and_nothing_else(data: st.DataObject, kind: str) -> None:
    whole = bytearray(png(gradient(20, 20).convert("RGB"), kind=kind))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    spoilt = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        assert decode_image(spoilt, COLOUR, max_pixels=100_000).shape == (16, 16, 3)
    except BadImage as error:
        assert str(error)
        assert error.hint


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_a_bad_image(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode_image(data, GREY)


def original(image: Image.Image, kind: str = "PNG", **options: Any) -> NDArray[np.uint8]:
    return decode_original(png(image, kind=kind, **options))


COLOURS = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)


def test_an_original_keeps_its_size_and_pixels() -> None:
    for kind in ("PNG", "BMP"):
        assert (original(Image.fromarray(COLOURS), kind) == COLOURS).all()
    webp = original(Image.fromarray(COLOURS), "WEBP", lossless=True)
    assert (webp == COLOURS).all()
    assert original(Image.fromarray(COLOURS), "JPEG").shape == (9, 5, 3)
    assert original(Image.fromarray(COLOURS[:1, :1])).shape == (1, 1, 3)


GREY_LEVELS = COLOURS[..., 0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_what_shows_grey_has_one_channel_whatever_its_mode(mode: str) -> None:
    pixels = original(Image.fromarray(GREY_LEVELS).convert(mode))
    assert pixels.shape == (9, 5, 1)
    assert (pixels[..., 0] == GREY_LEVELS).all()


def test_grey_is_also_what_has_one_bit_or_sixteen() -> None:
    assert original(Image.fromarray(GREY_LEVELS).convert("1")).shape == (9, 5, 1)
    sixteen = Image.fromarray(GREY_LEVELS.astype(np.uint16) * 257)
    assert (original(sixteen)[..., 0] == GREY_LEVELS).all()


def test_one_pixel_of_colour_makes_an_image_of_three_channels() -> None:
    pixels = np.zeros((600, 1000, 3), dtype=np.uint8)
    assert original(Image.fromarray(pixels)).shape == (600, 1000, 1)
    pixels[599, 999, 2] = 1
    assert (original(Image.fromarray(pixels)) == pixels).all()


def test_an_original_is_upright_opaque_and_of_the_first_frame() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert (original(Image.fromarray(np.rot90(COLOURS)), exif=exif) == COLOURS).all()
    clear = Image.fromarray(COLOURS)
    clear.putalpha(0)
    assert original(clear).max() == 0
    black = Image.new("CMYK", (2, 2), (0, 0, 0, 255))
    assert original(black, "JPEG").shape == (2, 2, 1)
    frames = [Image.new("L", (8, 8), level) for level in (200, 0)]
    for kind in ("GIF", "PNG", "WEBP"):
        still = original(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert still.min() == 200


def many_frames(kind: str) -> bytes:
    frames = [Image.new("L", (8, 8), level % 256) for level in range(200, 1000)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], lossless=True)
    return file.getvalue()


@pytest.mark.parametrize("data", [many_frames("GIF"), many_frames("WEBP"), many_frames("GIF")[:2000]])
def test_of_many_frames_only_the_first_is_looked_at(data: bytes) -> None:
    assert (decode_original(data) == 200).all()


def test_originals_agree_with_what_networks_get() -> None:
    image = gradient(24, 24)
    assert (original(image) == decode_image(png(image), ImageShape(24, 1))).all()
    colours = Image.fromarray(np.resize(COLOURS, (24, 24, 3)))
    assert (original(colours) == decode_image(png(colours), ImageShape(24, 3))).all()


def test_a_jpeg_may_come_smaller_but_not_below_the_side_asked_for() -> None:
    data = png(gradient(640, 480), kind="JPEG")
    assert decode_original(data).shape == (480, 640, 1)
    height, width, _ = decode_original(data, least_side=64).shape
    assert 64 <= height < 480
    assert 64 <= width < 640
    assert decode_original(data, least_side=1000).shape == (480, 640, 1)


def test_a_pixel_hash_is_of_shape_and_pixels_only() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    expected = hashlib.sha256(b"2x3x1:" + bytes(range(6))).digest()
    assert pixel_hash(grey) == expected
    assert pixel_hash(grey.reshape(3, 2, 1)) != expected
    assert pixel_hash(np.asfortranarray(grey)) == expected
    rgb = Image.fromarray(np.repeat(grey, 3, axis=2))
    assert pixel_hash(original(rgb)) == pixel_hash(original(rgb.convert("L"))) == expected
    assert pixel_hash(original(rgb, "BMP")) == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_told_by_content(kind: str) -> None:
    data = png(gradient(), kind=kind)
    assert image_format(data) == kind
    assert image_format(data[1:]) is None


def posing() -> dict[str, bytes]:
    """Files of formats that are not read, whatever they are called."""
    image = gradient().convert("RGB")
    pillow = {kind: png(image, kind=kind) for kind in ("TIFF", "PDF", "EPS", "PPM", "ICO", "TGA", "JPEG2000", "SGI")}
    header = {
        "FITS": b"SIMPLE  =                    T".ljust(2880),
        "PSD": b"8BPS\x00\x01" + bytes(40),
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "HTML": b"<!doctype html><img src='x'>",
        "HEIC": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        "RIFF": b"RIFF\x24\x00\x00\x00WAVEfmt ",
        "zip": b"PK\x03\x04" + bytes(26),
    }
    return pillow | header


@pytest.mark.parametrize("kind", posing())
def test_formats_not_on_the_list_are_named_so(kind: str) -> None:
    for decode in (decode_original, lambda data: decode_image(data, GREY)):
        with pytest.raises(BadImage) as caught:
            decode(posing()[kind])
        assert caught.value.reason == "format_not_allowed"


@pytest.mark.parametrize("kind", FORMATS)
def test_what_breaks_off_is_found_at_every_length(kind: str) -> None:
    data = png(Image.fromarray(np.resize(COLOURS, (40, 40, 3))), kind=kind)
    for length in range(0, len(data) // 2, max(1, len(data) // 100)):
        with pytest.raises(BadImage):
            decode_original(data[:length])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def handmade_png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG of one bit a pixel, with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    blank = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(blank) for _ in range(height)) + packer.flush()
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded() -> None:
    bomb = handmade_png(50_000, 50_000)
    assert len(bomb) < 400_000
    for decode in (decode_original, count_pixels, lambda data: decode_image(data, GREY)):
        with pytest.raises(BadImage) as caught:
            decode(bomb)
        assert caught.value.reason == "too_large"


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
def test_a_side_that_would_take_far_more_memory_than_its_pixels_is_refused(size: tuple[int, int]) -> None:
    for decode in (decode_original, count_pixels, lambda data: decode_image(data, GREY)):
        with pytest.raises(BadImage, match="65,535 along a side") as caught:
            decode(handmade_png(*size))
        assert caught.value.reason == "too_large"
    assert decode_image(handmade_png(*(min(side, MAX_SIDE) for side in size)), GREY).shape[2] == 1


@pytest.mark.parametrize("warned", ["default", "error"])
def test_the_limit_is_the_same_however_warnings_are_treated(warned: Literal["default", "error"]) -> None:
    large = handmade_png(10_000, 10_000)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter(warned)
        with pytest.raises(BadImage) as caught:
            decode_original(large)
    assert caught.value.reason == "too_large"


def test_text_that_unpacks_to_more_than_a_file_should_hold_is_refused() -> None:
    text = b"a\x00\x00" + zlib.compress(bytes(64 * 1024 * 1024), 9)
    assert decode_original(handmade_png(8, 8, chunk(b"zTXt", b"a\x00\x00" + zlib.compress(b"fine")))).shape == (8, 8, 1)
    with pytest.raises(BadImage):
        decode_original(handmade_png(8, 8, chunk(b"zTXt", text)))
    with pytest.raises(BadImage):
        decode_original(handmade_png(8, 8, chunk(b"iTXt", b"a\x00\x01\x00\x00\x00" + text[3:])))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says what it thinks of such EXIF data
@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_spoilt_exif_makes_a_bad_image_at_worst(data: st.DataObject, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    spoilt = bytearray(exif.tobytes())
    for _ in range(data.draw(st.integers(1, 6))):
        spoilt[data.draw(st.integers(6, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    whole = png(gradient(8, 8), kind=kind, exif=bytes(spoilt))
    try:
        assert decode_original(whole).shape == (8, 8, 1)
    except BadImage as error:
        assert error.hint


def test_threads_do_not_disturb_each_other() -> None:
    images = [png(np.full((20, 20, 3), level)) for level in range(64)]
    with ThreadPoolExecutor(4) as pool:
        levels = [pixels.max() for pixels in pool.map(decode_original, images * 4)]
    assert levels == list(range(64)) * 4
