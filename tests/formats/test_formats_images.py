"""The image rule, step by step."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from formats.images import FORMATS, BadImage, ImageShape, decode_image, resize_pixels
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
