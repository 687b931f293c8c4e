"""Archives of pictures: what is in them counts, and neither their packing nor their names."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from PIL import Image

from formats.datasets import TEST, DatasetManifest, Pack
from ingest.archives import read_archive
from ingest.errors import BadDataset
from ingest.members import Limits
from tests.conftest import png
from tests.ingest.samples import made
from tests.pictures import CLASSES, picture, picture_files, tar_of, zip_of


def made_of(directory: Path, content: bytes) -> DatasetManifest:
    """The data set of an archive's files."""
    archive = directory.with_suffix(".upload")
    archive.write_bytes(content)
    return made(directory, read_archive(archive, Limits()))


FORMS = {
    "tar": tar_of,
    "tar.gz": lambda files: tar_of(files, packing="gz"),
    "tar.zst": lambda files: zstandard.compress(tar_of(files)),
    "deeper": lambda files: zip_of({f"a/b/{path}": data for path, data in files.items()}),
    "backwards": lambda files: zip_of(dict(reversed(files.items()))),
    "renamed": lambda files: zip_of({renamed(path, number): data for number, (path, data) in enumerate(files.items())}),
    "NFD": lambda files: zip_of({unicodedata.normalize("NFD", path): data for path, data in files.items()}),
    "junk": lambda files: zip_of({**files, "__MACOSX/dog/._1.png": b"x", ".DS_Store": b"x", "dog/Thumbs.db": b"x"}),
}


def renamed(path: str, number: int) -> str:
    return f"{path.split('/', maxsplit=1)[0]}/{(number * 7) % 60:05}.jpeg"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetManifest, list[bytes]]:
    """Three classes of 20 as a zip archive, and what of it tests."""
    directory = tmp_path_factory.mktemp("pictures") / "set"
    return made_of(directory, zip_of(picture_files())), contents_that_test(directory)


def contents_that_test(directory: Path) -> list[bytes]:
    with Pack(directory) as pack:
        return [pack.index.pixel_sha256[number].tobytes() for number in pack.index.numbers(TEST)]


@pytest.mark.parametrize("form", FORMS)
def test_neither_packing_nor_names_nor_order_matter(
    tmp_path: Path, pictures: tuple[DatasetManifest, list[bytes]], form: str
) -> None:
    manifest = made_of(tmp_path / "set", FORMS[form](picture_files()))
    same = {"fingerprint", "classes", "class_splits", "mean", "std", "sizes", "duplicates", "rejected_count"}
    assert manifest.model_dump(include=same) == pictures[0].model_dump(include=same)
    assert contents_that_test(tmp_path / "set") == pictures[1]


def test_a_manifest_in_json_says_what_is_what(tmp_path: Path) -> None:
    files = {f"images/{number:03}": data for number, data in enumerate(picture_files(6).values())}
    rows = [
        {"path": path, "label": CLASSES[number // 6], "split": "test" if number % 6 == 0 else "train"}
        for number, path in enumerate(files)
    ]
    lines = "\n".join(map(json.dumps, rows)).encode()
    manifest = made_of(tmp_path / "set", zip_of({"manifest.jsonl": lines, **files}))
    assert manifest.class_images == dict.fromkeys(sorted(CLASSES), 6)
    assert manifest.splits.test == 3


UNFIT: dict[str, tuple[dict[str, bytes], str, str]] = {
    "nothing": ({}, "no_images", ""),
    "text only": ({"README.txt": b"hello"}, "no_images", ""),
    "one class": ({f"dog/{number}.png": picture(1, number) for number in range(9)}, "one_class_only", ""),
    "one image": ({**picture_files(5), "cat/1.png": picture(0, 77)}, "too_few_images", "cat"),
    "no classes": ({f"{number}.png": picture(1, number) for number in range(9)}, "no_images", ""),
    "archives only": ({"one.zip": zip_of(picture_files(5)), "dog/two.zip": zip_of({})}, "no_images", ""),
    "bad manifest": ({**picture_files(5), "manifest.csv": b"path;colour\na;b\n"}, "bad_manifest", ""),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_makes_no_data_set_says_why(tmp_path: Path, name: str) -> None:
    files, reason, word = UNFIT[name]
    with pytest.raises(BadDataset) as caught:
        made_of(tmp_path / "set", zip_of(files))
    assert caught.value.reason == reason
    assert word in caught.value.message


def test_upper_and_lower_case_are_two_classes(tmp_path: Path) -> None:
    files = {path.replace("Zebra", "Dog"): data for path, data in picture_files(5).items()}
    manifest = made_of(tmp_path / "set", zip_of(files))
    assert manifest.classes == ("Dog", "dog", "고양이")
    assert any("Dog" in warning for warning in manifest.warnings)


def test_images_of_every_kind_are_taken(tmp_path: Path) -> None:
    kinds: list[tuple[str, Any]] = [
        ("RGBA", Image.new("RGBA", (9, 9), (10, 20, 30, 40))),
        ("LA", Image.new("LA", (9, 9), (10, 20))),
        ("P", Image.new("RGB", (9, 9), (10, 20, 30)).quantize(8)),
        ("1", Image.new("1", (9, 9), 1)),
        ("I;16", Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16))),
        ("L", Image.new("L", (1, 1), 7)),
    ]
    files = {f"dog/{mode.replace(';', '')}.png": png(image) for mode, image in kinds}
    files["dog/cmyk.jpg"] = png(Image.new("CMYK", (9, 9), (10, 20, 30, 40)), kind="JPEG")
    files |= {f"cat/{number}.webp": picture(0, number, kind="WEBP", lossless=True) for number in range(4)}
    files["cat/frames.gif"] = png(
        Image.new("L", (9, 9), 1), kind="GIF", save_all=True, append_images=[Image.new("L", (9, 9), 9)] * 20
    )
    manifest = made_of(tmp_path / "set", zip_of(files))
    assert (manifest.images, manifest.rejected) == (12, ())
