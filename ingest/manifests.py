"""Lists of images with their labels: a CSV file with a header, or JSON Lines.

    path,label,split
    images/0001.jpg,cat,train

`path` (or file, filename, file_name, image) counts from the folder of the manifest; `label` may be called class;
`split` may be left out. CSV columns stand between commas, semicolons or tabs. Other columns are left alone.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ingest.errors import BadArchive, BadDataset
from ingest.members import MEBIBYTE, Split
from ingest.names import clean_path, has_unsafe_character, shown

NAMES = {f"{name}.{kind}" for name in ("manifest", "labels", "metadata") for kind in ("csv", "jsonl")}
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image")
LABEL_COLUMNS = ("label", "class")
SPLIT_COLUMNS = ("split",)
DELIMITERS = (",", ";", "\t")
MAX_BYTES = 64 * MEBIBYTE
MAX_ROWS = 1_000_000
MAX_ROW_CHARACTERS = 64 * 1024
MAX_LABEL = 100
SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


PATH_FIX = "Give a path below the manifest's folder, with forward slashes."

Cells = dict[str, Any]


class Row(NamedTuple):
    """One image of a manifest: the row that names it, its path in the data set, label and split."""

    number: int
    path: str
    label: str
    split: Split | None


def is_manifest(path: str) -> bool:
    """Whether a clean path is, by its name, that of a manifest."""
    return path.rpartition("/")[2].casefold() in NAMES


def clean_label(raw: str) -> str | None:
    """A label in NFC without blanks around it; None unless it has 1 to 100 characters, none of which is unsafe."""
    # As with paths, lengths come first. A character is up to four in its decomposed spelling.
    label = raw.strip()
    if len(label) > 4 * MAX_LABEL:
        return None
    label = unicodedata.normalize("NFC", label)
    return None if not label or len(label) > MAX_LABEL or has_unsafe_character(label) else label


def read_manifest(path: str, content: bytes, *, max_rows: int = MAX_ROWS) -> Iterator[Row]:
    """The rows of the manifest that lies at a path of the data set; BadDataset(bad_manifest) if one is not clear.

    Rows are numbered as editors and spreadsheets number them: the first, which in CSV is the header, is 1.
    """
    manifest = _Manifest(path, content)
    if len(content) > MAX_BYTES:
        raise manifest.bad(f"is larger than {MAX_BYTES:,} bytes", "Leave out columns that are not needed.")
    try:
        for count, cells in enumerate(manifest.objects() if path.casefold().endswith(".jsonl") else manifest.rows()):
            if count >= max_rows:
                raise manifest.bad(f"has more than {max_rows:,} rows", "Make several data sets of it.")
            yield manifest.row(cells)
    except UnicodeDecodeError:
        raise manifest.bad("is not text in UTF-8", 'Save it again as UTF-8 ("CSV UTF-8" in Excel).') from None


class _Manifest:
    """The text of a manifest, taken apart row by row in bounded memory."""

    def __init__(self, path: str, content: bytes) -> None:
        self._name = shown(path)
        self._folder = path.rpartition("/")[0]
        self._text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
        self._number = 0
        self._left = 0

    def bad(self, fault: str, fix: str) -> BadDataset:
        """The error of the manifest as a whole."""
        return BadDataset("bad_manifest", f'"{self._name}" {fault}.', fix)

    def _bad_row(self, fault: str, fix: str) -> BadDataset:
        return BadDataset("bad_manifest", f'Row {self._number:,} of "{self._name}" {fault}.', fix)

    def _begin_row(self) -> None:
        self._number += 1
        self._left = MAX_ROW_CHARACTERS

    def _line(self) -> str:
        """The next line of this row, with its end; empty at the end of the text."""
        line = self._text.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise self._bad_row(f"is longer than {MAX_ROW_CHARACTERS:,} characters", "Close all quotes, or shorten it.")
        return line

    def objects(self) -> Iterator[Cells]:
        """The objects of JSON Lines; blank lines are skipped."""
        self._begin_row()
        while line := self._line():
            if line.strip():
                yield self._parse_object(line)
            self._begin_row()

    def _parse_object(self, line: str) -> Cells:
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError):
            cells = None
        if not isinstance(cells, dict):
            raise self._bad_row("is not a JSON object", 'Write {"path": "cat/1.jpg", "label": "cat"} on one line.')
        return cells

    def rows(self) -> Iterator[Cells]:
        """The rows of CSV below the header, by the names of their columns; blank rows are skipped."""
        self._begin_row()
        delimiter, names = self._parse_header(self._line())
        reader = csv.reader(iter(self._line, ""), delimiter=delimiter, strict=True)
        self._begin_row()
        while (cells := self._cells(reader)) is not None:
            if any(map(str.strip, cells)):
                # Spreadsheets end rows with empty cells; anything else would be lost without a word.
                if any(map(str.strip, cells[len(names) :])):
                    fault = f"has {len(cells)} cells and the header {len(names)}"
                    raise self._bad_row(fault, "Put cells that hold the delimiter into quotes.")
                yield dict(zip(names, cells, strict=False))
            self._begin_row()

    def _check_columns(self, names: list[str]) -> None:
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise self._bad_row(f'has the column "{shown(twice)}" twice', "Leave one of them.")

    def _parse_header(self, line: str) -> tuple[str, list[str]]:
        """The delimiter, by which the header has all that is needed, and the names of the columns."""
        for delimiter in DELIMITERS:
            names = [cell.strip().casefold() for cell in self._cells(csv.reader([line], delimiter=delimiter)) or []]
            if not {*PATH_COLUMNS}.isdisjoint(names) and not {*LABEL_COLUMNS}.isdisjoint(names):
                self._check_columns([name for name in names if name])
                return delimiter, names
        raise self._bad_row("names no column for the path or none for the label", "Begin with: path,label,split")

    def _cells(self, reader: Iterator[list[str]]) -> list[str] | None:
        try:
            return next(reader, None)
        except csv.Error as error:
            raise self._bad_row(f"is not CSV ({error})", "Put cells with quotes or line breaks into quotes.") from None

    def row(self, cells: Cells) -> Row:
        """The row that these cells make."""
        return Row(self._number, self._path(cells), self._label(cells), self._split(cells))

    def _path(self, cells: Cells) -> str:
        path = _first(cells, PATH_COLUMNS)
        if not isinstance(path, str) or not path.strip():
            raise self._bad_row("names no file", "Give the path of an image, counted from the manifest's folder.")
        try:
            # On its own first: below a folder an absolute path would not look like one.
            cleaned = clean_path(path.strip())
        except BadArchive as error:
            raise self._bad_row(f"has a path that is not allowed. {error.message[:-1]}", PATH_FIX) from None
        return f"{self._folder}/{cleaned}" if self._folder else cleaned

    def _label(self, cells: Cells) -> str:
        label = _first(cells, LABEL_COLUMNS)
        if isinstance(label, int) and not isinstance(label, bool):
            label = str(label)
        cleaned = clean_label(label) if isinstance(label, str) else None
        if cleaned is None:
            raise self._bad_row("has no usable label", f"Give 1 to {MAX_LABEL} printable characters.")
        return cleaned

    def _split(self, cells: Cells) -> Split | None:
        word = _first(cells, SPLIT_COLUMNS)
        if word is None or (isinstance(word, str) and not word.strip()):
            return None
        split = SPLIT_WORDS.get(word.strip().casefold()) if isinstance(word, str) else None
        if split is None:
            raise self._bad_row(f'has the unknown split "{shown(str(word))}"', "Write train, validation or test.")
        return split


def _first(cells: Cells, names: Sequence[str]) -> Any:
    return next((cells[name] for name in names if name in cells), None)
