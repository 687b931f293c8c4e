"""Layouts: labels and splits from folders and manifests, the same for every order of the paths."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import BadDataset
from ingest.layouts import Layout, Placement, is_manifest, place
from ingest.manifests import MAX_BYTES, MAX_ROW_CHARACTERS, NAMES, read_manifest
from ingest.members import Rejected

Outcome = tuple[str, str | None] | str | None


def outcomes(layout: Layout) -> list[Outcome]:
    """Label and split of each path, or the reason why it has none."""
    return [None if placement is None else outcome(placement) for placement in layout.placements]


def outcome(placement: Placement | Rejected) -> Outcome:
    """The same of one path."""
    return (placement.label, placement.split) if isinstance(placement, Placement) else placement.reason


def placed(paths: Mapping[str, Outcome], **manifests: str | bytes) -> Layout:
    """The layout, after a check that all paths have these outcomes, in whatever order they come."""
    contents = {
        path.replace("__", "/") + ".csv": text.encode() if isinstance(text, str) else text
        for path, text in manifests.items()
    }
    first = place(list(paths), contents)
    assert outcomes(first) == list(paths.values())
    for seed in range(3):
        order = random.Random(seed).sample(list(paths), len(paths))
        again = place(order, contents)
        assert outcomes(again) == [paths[path] for path in order]
        assert (again.kind, again.missing, again.warnings) == (first.kind, first.missing, first.warnings)
    return first


def refused(paths: list[str], manifests: Mapping[str, bytes]) -> BadDataset:
    """The error of what makes no data set."""
    with pytest.raises(BadDataset) as raised:
        place(paths, manifests)
    assert raised.value.hint
    assert raised.value.message.isprintable()
    return raised.value


# Folders.

CAT, DOG = ("cat", None), ("dog", None)


@pytest.mark.parametrize(
    "paths",
    [
        {"cat/1.jpg": CAT, "dog/1.jpg": DOG},
        {"data/cat/1.jpg": CAT, "data/dog/1.jpg": DOG},
        {"my/data/cat/1.jpg": CAT, "my/data/dog/1.jpg": DOG},
        {"cat/deep/er/1.jpg": CAT, "dog/1.jpg": DOG},
        {"cat/dog/1.jpg": CAT, "dog/cat/1.jpg": DOG},
        {"train/cat/1.jpg": CAT, "train/dog/1.jpg": DOG},
        {"cat/1.jpg": CAT},
        {"data/cat/1.jpg": CAT},
        {"cat/1.jpg": CAT, "cat/deep/1.jpg": CAT},
        {"cat/1.jpg": CAT, "cat /2.jpg": CAT},
        {unicodedata.normalize("NFD", "고양이") + "/1.jpg": ("고양이", None), "고양이/2.jpg": ("고양이", None)},
        {"train/1.jpg": ("train", None), "car/1.jpg": ("car", None), "bus/1.jpg": ("bus", None)},
        {"کتاب\u200cها/1.jpg": ("کتاب\u200cها", None), "dog/1.jpg": DOG},
    ],
)
def test_folders_are_classes(paths: dict[str, Outcome]) -> None:
    layout = placed(paths)
    assert (layout.kind, layout.missing, layout.warnings) == ("folders", [], [])


def test_one_class_below_shared_folders_stays_one_class() -> None:
    placed({"data/cat/1.jpg": CAT, "data/cat/2.jpg": CAT})


def test_images_outside_the_folders_of_classes_are_ignored_and_counted() -> None:
    paths: dict[str, Outcome] = {"1.jpg": None, "2.jpg": None, "data/cat/1.jpg": CAT, "data/dog/1.jpg": DOG}
    (warning,) = placed(paths).warnings
    assert "2 images" in warning
    (warning,) = placed({"1.jpg": None, "cat/1.jpg": CAT}).warnings
    assert "1 image " in warning


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("validation", ["val", "Valid", "validation", "DEV"])
@pytest.mark.parametrize("test", ["test", "Testing"])
def test_folders_are_splits(train: str, validation: str, test: str) -> None:
    for shared in ("", "data/"):
        paths: dict[str, Outcome] = {
            f"{shared}{train}/cat/1.jpg": ("cat", "train"),
            f"{shared}{train}/dog/deep/1.jpg": ("dog", "train"),
            f"{shared}{validation}/cat/1.jpg": ("cat", "validation"),
            f"{shared}{test}/dog/1.jpg": ("dog", "test"),
        }
        layout = placed(paths)
        assert (layout.kind, layout.warnings) == ("splits", [])


def test_images_of_a_split_without_a_class_are_ignored_and_counted() -> None:
    layout = placed({"train/cat/1.jpg": ("cat", "train"), "test/1.jpg": None, "test/2.jpg": None, "3.jpg": None})
    assert layout.kind == "splits"
    (warning,) = layout.warnings
    assert "3 images" in warning


@pytest.mark.parametrize(
    "paths",
    [
        {"train/1.jpg": ("train", None), "test/1.jpg": ("test", None)},
        {"train/cat/1.jpg": ("train", None), "test/cat/1.jpg": ("test", None), "extra/1.jpg": ("extra", None)},
    ],
)
def test_splits_that_are_taken_as_classes_are_warned_of(paths: dict[str, Outcome]) -> None:
    layout = placed(paths)
    assert layout.kind == "folders"
    (warning,) = layout.warnings
    assert '"test", "train"' in warning


def test_names_that_differ_by_case_are_different_classes_and_are_warned_of() -> None:
    paths = {path: (path.partition("/")[0], None) for path in ("Cat/1.jpg", "cat/1.jpg", "dog/1.jpg", "STRASSE/1.jpg")}
    (warning,) = placed(paths | {"straße/1.jpg": ("straße", None)}).warnings
    assert '"Cat", "STRASSE", "cat", "straße"' in warning
    many = {f"{name}{number}/1.jpg": (f"{name}{number}", None) for name in ("a", "A") for number in range(50)}
    (warning,) = placed(many).warnings
    assert "90 more" in warning


@pytest.mark.parametrize("name", ["a" * 101, " ", "\u00a0"])
def test_folders_that_cannot_name_a_class_are_rejected(name: str) -> None:
    placed({"cat/1.jpg": CAT, f"{name}/1.jpg": "bad_label"})
    placed({"cat/1.jpg": CAT, "a" * 100 + "/1.jpg": ("a" * 100, None)})


@pytest.mark.parametrize("paths", [[], ["1.jpg"], ["1.jpg", "2.jpg"], [" /1.jpg"], ["manifest.csv"]])
def test_no_labels_are_told_the_layouts(paths: list[str]) -> None:
    error = refused(paths, {})
    assert error.reason == "no_images"
    for word in ("cat/1.jpg", "train", "manifest.csv"):
        assert word in error.hint


@given(st.lists(st.lists(st.sampled_from(["train", "test", "val", "cat", "Cat", "a"]), min_size=1, max_size=4)))
def test_every_layout_is_placed_the_same_in_every_order(parts: list[list[str]]) -> None:
    paths = ["/".join([*folders, "1.jpg"]) for folders in parts] + ["cat/1.jpg"]
    first, again = place(paths, {}), place(paths[::-1], {})
    assert first.placements == again.placements[::-1]
    assert (first.kind, first.warnings) == (again.kind, again.warnings)
    assert all(isinstance(placement, Placement) for placement in first.placements if placement is not None)


# Manifests.


def test_manifests_are_told_by_their_name() -> None:
    assert all(is_manifest(f"{folder}{name}") for folder in ("", "a/b/") for name in NAMES | {"Manifest.CSV"})
    assert not any(map(is_manifest, ["manifest.csv/1.jpg", "my_manifest.csv", "manifest.txt", "labels", "a/csv"]))


THREE: dict[str, Outcome] = {"images/1.jpg": ("cat", "train"), "images/2.jpg": ("dog", "test"), "images/3.jpg": CAT}
ROWS = [("images/1.jpg", "cat", "train"), ("images/2.jpg", "dog", "test"), ("images/3.jpg", "cat", "")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_comes_in_many_dialects(delimiter: str, end: str, mark: str) -> None:
    rows = [("Path ", "label", "split"), *ROWS, ("", "", "")]
    layout = placed(THREE, manifest=mark + end.join(delimiter.join(row) for row in rows) + end + end)
    assert (layout.kind, layout.missing, layout.warnings) == ("manifest", [], [])


@pytest.mark.parametrize("path", ["path", "file", "filename", "file_name", "image", "File_Name"])
@pytest.mark.parametrize("label", ["label", "class", "Label"])
def test_columns_have_several_names_and_any_order(path: str, label: str) -> None:
    text = (
        f'split,{label},note,{path}\ntrain,cat,"a, ""b""\nc",images/1.jpg\ntest,dog,,images/2.jpg\n,cat,,images/3.jpg\n'
    )
    placed(THREE, manifest=text)
    keys = [{path.lower(): row[0], label.lower(): row[1], "split": row[2], "note": {"a": [1]}} for row in ROWS]
    placed_by_json(THREE, keys)


def placed_by_json(paths: Mapping[str, Outcome], rows: list[dict[str, Any]]) -> Layout:
    """The layout by a manifest of JSON Lines."""
    layout = place(list(paths), {"manifest.jsonl": "\n\n".join(map(json.dumps, rows)).encode()})
    assert outcomes(layout) == list(paths.values())
    return layout


def test_json_may_leave_out_splits_and_write_numbers() -> None:
    rows: list[dict[str, Any]] = [{"path": "1.jpg", "label": 7}, {"path": "2.jpg", "class": "x", "split": None}]
    assert placed_by_json({"1.jpg": ("7", None), "2.jpg": ("x", None)}, rows).kind == "manifest"


def test_paths_count_from_the_folder_of_the_manifest() -> None:
    paths: dict[str, Outcome] = {"data/set/1.jpg": CAT, "data/set/a/2.jpg": DOG, "1.jpg": None}
    text = "path,label\n./1.jpg,cat\na\\2.jpg,dog\n"
    (warning,) = placed(paths, data__set__labels=text).warnings
    assert "1 image " in warning


def test_paths_and_labels_of_a_manifest_are_made_clean() -> None:
    path, label = "고양이/1.jpg", "caf\u00e9"
    decomposed = unicodedata.normalize("NFD", path)
    placed({path: (label, None)}, manifest=f"path,label\n {decomposed} , cafe\u0301 \n")


def test_splits_of_a_manifest_have_several_names() -> None:
    words = {"train": "train", "Training": "train", "VAL": "validation", "valid": "validation", " dev ": "validation"}
    words |= {"validation": "validation", "test": "test", "testing": "test"}
    text = "path,label,split\n" + "".join(f"{number}.jpg,a,{word}\n" for number, word in enumerate(words))
    placed({f"{number}.jpg": ("a", split) for number, split in enumerate(words.values())}, manifest=text)


def test_a_manifest_comes_before_folders() -> None:
    layout = placed({"cat/1.jpg": DOG, "dog/1.jpg": None, "manifest.csv": None}, manifest="path,label\ncat/1.jpg,dog\n")
    assert len(layout.warnings) == 1
    assert "1 image " in layout.warnings[0]


def test_files_that_are_not_there_are_missing() -> None:
    text = "path,label\nb.jpg,cat\n1.jpg,cat\na.jpg,cat\nb.jpg,dog\n"
    missing = placed({"1.jpg": CAT}, manifest=text).missing
    assert [(file.path, file.reason) for file in missing] == [("a.jpg", "missing"), ("b.jpg", "missing")]
    assert "Row 2 " in missing[1].message


def test_a_file_with_two_labels_or_splits_is_rejected() -> None:
    text = (
        "path,label,split\n1.jpg,cat,\n1.jpg,dog,\n1.jpg,cat,\n2.jpg,cat,train\n2.jpg,cat,test\n" + "3.jpg,cat,\n" * 2
    )
    layout = placed({"1.jpg": "two_labels", "2.jpg": "two_labels", "3.jpg": CAT}, manifest=text)
    assert isinstance(layout.placements[0], Rejected)


def test_only_one_manifest_is_taken() -> None:
    content = b"path,label\n1.jpg,cat\n"
    error = refused(["1.jpg"], {"train/metadata.csv": content, "test/metadata.csv": content})
    assert error.reason == "bad_manifest"
    assert '"test/metadata.csv", "train/metadata.csv"' in error.message


def test_a_manifest_that_fits_no_file_places_none() -> None:
    assert refused(["1.jpg"], {"manifest.csv": b"path,label\n2.jpg,cat\n"}).reason == "no_images"
    assert refused(["cat/1.jpg"], {"manifest.csv": b"path,label\n"}).reason == "no_images"


HEAD = "path,label,split\n1.jpg,cat,\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "2.jpg,,\n", "Row 3 label"),
        (HEAD + "2.jpg\n", "Row 3 label"),
        (HEAD + "\n\n2.jpg,\u00a0,\n", "Row 5 label"),
        (HEAD + f"2.jpg,{'a' * 101},\n", "Row 3 label"),
        (HEAD + f"2.jpg,{'a' * 50_000},\n", "Row 3 label"),
        (HEAD + "2.jpg,a\x1bb,\n", "Row 3 label"),
        (HEAD + "2.jpg,a\u202eb,\n", "Row 3 label"),
        (HEAD + "2.jpg,cat,eval\n", 'Row 3 split "eval"'),
        (HEAD + ",cat,\n", "Row 3 file"),
        (HEAD + "../2.jpg,cat,\n", "Row 3 path climbs"),
        (HEAD + "/2.jpg,cat,\n", "Row 3 path absolute"),
        (HEAD + "C:\\2.jpg,cat,\n", "Row 3 path drive"),
        (HEAD + "2\0.jpg,cat,\n", "Row 3 path"),
        (HEAD + '"2.jpg,cat,\n', "Row 3 CSV"),
        (HEAD + '"2.jpg"x,cat,\n', "Row 3 CSV"),
        (HEAD + '"2.jpg' + "\n" * MAX_ROW_CHARACTERS, "Row 3 longer"),
        (HEAD + "x" * MAX_ROW_CHARACTERS + ",cat,\n", "Row 3 longer"),
        ("", "Row 1 column"),
        ("1.jpg,cat\n", "Row 1 column"),
        ("path,kind\n1.jpg,cat\n", "Row 1 column"),
        ('"path,label\n1.jpg,cat\n', "Row 1 column"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_csv_that_is_not_clear_is_refused(text: str, words: str) -> None:
    error = refused(["1.jpg"], {"labels.csv": text.encode()})
    assert error.reason == "bad_manifest"
    assert '"labels.csv"' in error.message
    for word in words.split():
        assert word in error.message
    assert len(error.message) < 300


GOOD_LINE = '{"path": "1.jpg", "label": "cat"}\n'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"path": "1.jpg"', "Row 3 JSON"),
        ('["1.jpg", "cat"]', "Row 3 JSON"),
        ("[" * 50_000, "Row 3 JSON"),
        ('{"label": ' + "9" * 5000 + "}", "Row 3 JSON"),
        ('{"label": "cat"}', "Row 3 file"),
        ('{"path": ["1.jpg"], "label": "cat"}', "Row 3 file"),
        ('{"path": "1.jpg"}', "Row 3 label"),
        ('{"path": "1.jpg", "label": true}', "Row 3 label"),
        ('{"path": "1.jpg", "label": 1.5}', "Row 3 label"),
        ('{"path": "1.jpg", "label": "a\\ud800"}', "Row 3 label"),
        ('{"path": "1\\u0000.jpg", "label": "cat"}', "Row 3 path"),
        ('{"path": "1.jpg", "label": "cat", "split": "later\\n"}', "Row 3 split"),
        ('{"path": "1.jpg", "label": "cat", "split": ["train"]}', "Row 3 split"),
        (" " * (MAX_ROW_CHARACTERS + 1), "Row 3 longer"),
    ],
    ids=lambda value: value[:40],
)
def test_json_that_is_not_clear_is_refused(line: str, words: str) -> None:
    error = refused(["1.jpg"], {"a/metadata.jsonl": (GOOD_LINE + "\n" + line + "\n").encode()})
    assert error.reason == "bad_manifest"
    for word in words.split():
        assert word in error.message


@pytest.mark.parametrize("encoding", ["utf-16", "cp949", "latin-1"])
def test_a_manifest_in_another_encoding_is_refused(encoding: str) -> None:
    label = "caf\u00e9" if encoding == "latin-1" else "고양이"
    error = refused(["1.jpg"], {"manifest.csv": f"path,label\n1.jpg,{label}\n".encode(encoding)})
    assert error.reason == "bad_manifest"
    assert "UTF-8" in error.message + error.hint


def test_a_manifest_over_its_limit_is_refused() -> None:
    error = refused(["1.jpg"], {"manifest.csv": b"path,label\n1.jpg,cat".ljust(MAX_BYTES + 1, b"\n")})
    assert error.reason == "bad_manifest"


@pytest.mark.parametrize(("name", "row"), [("labels.csv", b"1.jpg,cat\n"), ("labels.jsonl", GOOD_LINE.encode())])
def test_a_manifest_has_a_limit_of_rows(name: str, row: bytes) -> None:
    content = (b"path,label\n" if name.endswith("csv") else b"") + row * 3
    assert len(list(read_manifest(name, content, max_rows=3))) == 3
    with pytest.raises(BadDataset, match="2 rows"):
        list(read_manifest(name, content, max_rows=2))


LINES = st.text(st.sampled_from('abc,;\t"\n\r{}[]:1.jpgpathlabel \ufeff\u0301\0\ud800'), max_size=60)


@given(st.sampled_from(sorted(NAMES)), st.sampled_from(["", "path,label\n", "path;label;split\n"]), LINES)
def test_every_text_is_a_manifest_or_refused_as_one(name: str, head: str, text: str) -> None:
    try:
        layout = place(["1.jpg", "a"], {name: (head + text).encode("utf-8", "surrogatepass")})
    except BadDataset as error:
        assert error.reason in {"bad_manifest", "no_images"}
    else:
        assert layout.kind == "manifest"


def test_folders_of_splits_without_a_train_folder_are_taken_as_classes_with_a_warning() -> None:
    layout = placed({"val/cat/1.jpg": ("val", None), "test/cat/1.jpg": ("test", None)})
    assert layout.kind == "folders"
    assert any("train folder" in warning for warning in layout.warnings)


def test_a_manifest_that_matches_nothing_says_where_it_looked() -> None:
    with pytest.raises(BadDataset, match=r'none of them is there; the first is "img/img/0\.png"') as refused:
        place(["img/0.png"], {"img/manifest.csv": b"path,label\nimg/0.png,cat\n"})
    assert refused.value.reason == "no_images"
    with pytest.raises(BadDataset, match="names no image"):
        place(["img/0.png"], {"manifest.csv": b"path,label\n"})


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"path,label\n1.png,Paris, France\n", "Row 2 .*3 cells and the header 2"),
        (b"path,label,label\n1.png,cat,dog\n", '"label" twice'),
    ],
)
def test_what_a_manifest_says_is_not_lost_without_a_word(content: bytes, word: str) -> None:
    with pytest.raises(BadDataset, match=word):
        place(["1.png"], {"manifest.csv": content})


def test_empty_cells_at_the_end_of_a_row_do_no_harm() -> None:
    layout = place(["1.png"], {"manifest.csv": b"path,label,,\n1.png,cat,,\n"})
    assert [placement.label for placement in layout.placements if isinstance(placement, Placement)] == ["cat"]
