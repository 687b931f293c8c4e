"""The picture of a data set: what is where, and that no label breaks it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from formats.datasets import PREVIEW_NAME
from ingest.members import Member
from ingest.preview import IMAGES_A_ROW, MAX_ROWS, THUMBNAIL, Row, draw_preview
from tests.ingest.samples import folders, image, made


def drawn(rows: list[Row], **options: int) -> NDArray[np.uint8]:
    data = draw_preview(rows, **options)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        return np.asarray(picture.convert("RGB"))


def places(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (picture == np.array(colour, dtype=np.uint8)).all(axis=2)
    return found


def filled(colour: tuple[int, int, int], width: int, height: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, dtype=np.uint8)


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_small_images_are_drawn_in_whole_squares() -> None:
    odd = np.indices((8, 8)).sum(axis=0)[..., None] % 2
    checks = np.where(odd, RED, BLUE).astype(np.uint8)
    picture = drawn([Row("digit", 1, [checks])])
    rows, columns = np.nonzero(places(picture, RED) | places(picture, BLUE))
    top, left = rows.min(), columns.min()
    cut = picture[top : top + THUMBNAIL, left : left + THUMBNAIL]
    assert (cut == np.repeat(np.repeat(checks, 8, axis=0), 8, axis=1)).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8, 5), (28, 28), (64, 64), (65, 64), (640, 480), (1, 3000)])
def test_images_keep_their_proportions_and_fill_their_square(width: int, height: int) -> None:
    picture = drawn([Row("red", 1, [filled(RED, width, height)])])
    rows, columns = np.nonzero(places(picture, RED))
    across, down = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
    assert THUMBNAIL // 2 < max(across, down) <= THUMBNAIL
    assert across == pytest.approx(max(1, down * width / height), abs=1)


def test_a_row_shows_eight_images_and_a_picture_forty_rows() -> None:
    row = Row("reds", 100, [filled(RED, 64, 64)] * 20)
    assert places(drawn([row]), RED).sum() == IMAGES_A_ROW * THUMBNAIL**2
    many = drawn([row] * (MAX_ROWS + 3))
    assert places(many, RED).sum() == MAX_ROWS * IMAGES_A_ROW * THUMBNAIL**2
    assert many.shape[0] > drawn([row] * MAX_ROWS).shape[0]  # a line says how many more there are


def test_what_is_not_shown_is_counted() -> None:
    row = Row("reds", 100, [])
    assert (drawn([row] * (MAX_ROWS + 3)) == drawn([row] * MAX_ROWS, more_classes=3)).all()
    assert (drawn([row], more_classes=3) != drawn([row], more_classes=4)).any()


def test_classes_whose_names_no_font_has_are_numbered() -> None:
    unknown = "\U00013000\U0001e900"
    assert (drawn([Row(unknown, 5, [])]) == drawn([Row("class 0", 5, [])])).all()
    assert (drawn([Row("a", 5, []), Row(unknown, 5, [])]) == drawn([Row("a", 5, []), Row("class 1", 5, [])])).all()
    assert (drawn([Row("cat", 5, [])]) != drawn([Row("class 0", 5, [])])).any()


def test_long_labels_stay_in_their_column() -> None:
    long, longer = (drawn([Row("W" * length, 5, [filled(RED, 64, 64)])]) for length in (60, 200))
    assert (long == longer).all()
    assert places(long, RED).sum() == THUMBNAIL**2


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=100), st.integers(0, 10**9))
def test_any_label_can_be_drawn(label: str, count: int) -> None:
    assert drawn([Row(label, count, [])]).shape[2] == 3


def test_a_data_set_shows_images_of_each_class_that_train(tmp_path: Path) -> None:
    members = [
        Member(f"{label}/{n}.png", image(n + 100 * (label == "large"), width=side, height=side))
        for label, side in (("large", 100), ("small", 16))
        for n in range(12)
    ]
    made(tmp_path / "set", members)
    picture = np.asarray(Image.open(tmp_path / "set" / PREVIEW_NAME).convert("RGB"))
    corners = picture[:, -20 - THUMBNAIL - 1 : -20]  # the last column is taken, in both rows
    assert len(np.unique(corners[20 : 20 + THUMBNAIL].reshape(-1, 3), axis=0)) > 50
    assert len(np.unique(corners[-20 - THUMBNAIL : -20].reshape(-1, 3), axis=0)) > 50


def test_images_that_test_are_not_shown(tmp_path: Path) -> None:
    members = [Member(f"train/{'ab'[n % 2]}/{n}.png", image(n)) for n in range(6)]
    members += [Member(f"test/{label}/red {label}.png", image_of(RED)) for label in "ab"]
    made(tmp_path / "set", members)
    assert not places(np.asarray(Image.open(tmp_path / "set" / PREVIEW_NAME).convert("RGB")), RED).any()


def image_of(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(file, "PNG")
    return file.getvalue()


def test_a_set_of_many_classes_says_how_many_are_not_shown(tmp_path: Path) -> None:
    manifest = made(tmp_path / "set", folders({f"class {n:02}": 3 for n in range(MAX_ROWS + 5)}))
    assert len(manifest.classes) == MAX_ROWS + 5
    height = Image.open(tmp_path / "set" / PREVIEW_NAME).height
    assert height == drawn([Row("a", 3, [])] * MAX_ROWS, more_classes=5).shape[0]
