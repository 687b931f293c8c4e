"""Which images of a data set train, validate and test: as given, and by the rule of specs/splits.py where not.

No image is in a split if what it shows is in the split before it: first comes the test split, then a given
validation split, then the pool, which trains (and validates, where no validation split is given).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formats.datasets import LEFT_OUT, POOL, TEST, VALIDATION, Index, SplitsFrom, contents_of
from ingest.errors import BadDataset
from ingest.names import shown
from ingest.records import Table, content_numbers
from specs.splits import Splits, choose_test, split_pool

SHOWN_CLASSES = 5
LEAST_IMAGES = 3


@dataclass(frozen=True)
class Assignment:
    """The split of each image, by the codes of `formats.datasets`: uint8 (N,); and which splits were given."""

    codes: NDArray[np.uint8]
    source: SplitsFrom
    warnings: tuple[str, ...]


def assign_splits(table: Table, classes: Sequence[str]) -> Assignment:
    """The splits that are stored with the data set; BadDataset(too_few_images) if a class has too few for them."""
    codes = table.split.copy()
    test_given = bool((codes == TEST).any())
    if not test_given:
        codes[_chosen_test(table)] = TEST
    codes[(codes != TEST) & _shown(table.content, codes == TEST)] = LEFT_OUT
    codes[(codes == POOL) & _shown(table.content, codes == VALIDATION)] = LEFT_OUT
    validation_given = bool((codes == VALIDATION).any())
    _check_classes(table, codes, classes, needed=1 if validation_given else 2)
    return Assignment(codes, _source(test_given, validation_given), tuple(_warnings(table, codes, classes)))


def job_splits(index: Index, *, seed: int, validation_fraction: float) -> Splits:
    """The splits of one job: test as stored, validation as stored or made from the pool by the rule."""
    test, validation = index.numbers(TEST), index.numbers(VALIDATION)
    if validation:
        return Splits(index.numbers(POOL), validation, test)
    train: list[NDArray[np.int64]] = []
    validate: list[NDArray[np.int64]] = []
    for rows in _by_class(index.label, index.split):
        contents, labels = contents_of(index.pixel_sha256[rows]), [0] * len(rows)
        parts = split_pool(contents, labels, range(len(rows)), seed=seed, validation_fraction=validation_fraction)
        train.append(rows[parts[0]])
        validate.append(rows[parts[1]])
    chosen, validation = np.concatenate(train), np.concatenate(validate).tolist()
    # What validates under one class does not train under another.
    left = chosen[~_shown(content_numbers(index.pixel_sha256), validation)[chosen]]
    return Splits(left.tolist(), validation, test)


def _chosen_test(table: Table) -> NDArray[np.int64]:
    """The test split by the rule."""
    chosen = [
        rows[choose_test(contents_of(table.pixel_sha256[rows]), [0] * len(rows))]
        for rows in _by_class(table.label, table.split)
    ]
    return np.concatenate(chosen)


def _by_class(label: NDArray[np.int32], split: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """The images of the pool, class by class, so that only the hashes of one class are Python objects at a time."""
    pool = np.flatnonzero(split == POOL)
    ordered = pool[np.argsort(label[pool], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(label[ordered])) + 1)


def _shown(content: NDArray[np.int32], chosen: NDArray[np.bool_] | list[int]) -> NDArray[np.bool_]:
    """Which images show what one of the chosen shows: bool (N,)."""
    contents = np.zeros(int(content[-1]) + 1, dtype=np.bool_)
    contents[content[chosen]] = True
    shown: NDArray[np.bool_] = contents[content]
    return shown


def _check_classes(table: Table, codes: NDArray[np.uint8], classes: Sequence[str], *, needed: int) -> None:
    own = _own_contents(table, codes == POOL, len(classes))
    poor = np.flatnonzero(own < needed)
    if not len(poor):
        return
    described = [_describe_poor(table, codes, classes, label) for label in poor[:SHOWN_CLASSES].tolist()]
    more = [f"and {len(poor) - SHOWN_CLASSES:,} more classes"] if len(poor) > SHOWN_CLASSES else []
    wanted = "one to train" if needed == 1 else "one to train and one to validate"
    message = f"A class needs {wanted}, beside the test split: {'; '.join(described + more)}."
    hint = "Add different images to these classes (3 in all make every split), or remove them."
    raise BadDataset("too_few_images", message, hint)


def _describe_poor(table: Table, codes: NDArray[np.uint8], classes: Sequence[str], label: int) -> str:
    """What a class has, in the words of whoever put it together."""
    members = table.label == label
    images = int(members.sum())
    name = f'"{shown(classes[label])}"'
    different = len(np.unique(table.pixel_sha256[members], axis=0))
    if not (codes[members] != TEST).any() and (table.split[members] == TEST).all():
        return f"{name} is in the test split only"
    if different < images and different < LEAST_IMAGES:
        return f"{name} has {images} images that show only {different} different picture{'s'[: different != 1]}"
    if images < LEAST_IMAGES:
        return f"{name} has {images} image{'s'[: images != 1]}"
    return f"{name} has {images} images, but not enough that no other class and no other split shows too"


def _own_contents(table: Table, chosen: NDArray[np.bool_], classes: int) -> NDArray[np.int64]:
    """How many contents the chosen images of each class show that no other class among them shows."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return np.zeros(classes, dtype=np.int64)
    # Within one content the rows are ordered by label.
    content, label = table.content[rows], table.label[rows]
    edge = content[1:] != content[:-1]
    first, last = label[np.concatenate(([True], edge))], label[np.concatenate((edge, [True]))]
    return np.bincount(first[first == last], minlength=classes)


def _source(test_given: bool, validation_given: bool) -> SplitsFrom:
    if test_given:
        return "given" if validation_given else "given test"
    return "given validation" if validation_given else "rule"


def _warnings(table: Table, codes: NDArray[np.uint8], classes: Sequence[str]) -> list[str]:
    warnings = []
    for code, word in ((TEST, "test"), (VALIDATION, "validation")):
        present = np.bincount(table.label[codes == code], minlength=len(classes)) > 0
        lacking = [name for name, there in zip(classes, present, strict=True) if not there]
        if present.any() and lacking:
            warnings.append(f"The {word} split has no images of {_listed(lacking)}.")
    if (table.split == VALIDATION).any() and not (codes == VALIDATION).any():
        warnings.append("All of the validation split is in the test split too; another is made for each job.")
    return warnings


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names[:SHOWN_CLASSES])
    return shown if len(names) <= SHOWN_CLASSES else f"{shown} and {len(names) - SHOWN_CLASSES} more classes"
