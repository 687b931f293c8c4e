"""Data sets as jobs name them: the built-in ones and those that users brought, in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specs.datasets import BUILTIN_DATASETS, BuiltinDataset, class_split_sizes, find_builtin
from specs.registry import nearest
from specs.splits import VALIDATION_FRACTION, share
from store import datasets
from store.database import Session
from store.errors import NotFound
from store.tables import Dataset


@dataclass(frozen=True)
class KnownDataset:
    """What a job must fit: `class_splits` counts the images of each class in each split."""

    id: str
    name: str
    status: str
    image_size: int
    class_splits: Mapping[str, Mapping[str, int]]
    validation_given: bool

    def training_images(self, validation_fraction: float) -> int:
        """Images that train: what remains when the validation split is made, unless that came with the set."""
        if self.validation_given:
            return sum(counts["train"] for counts in self.class_splits.values())
        pools = [counts["train"] + counts["validation"] for counts in self.class_splits.values()]
        # Of each class one image validates, and of the others one trains, whatever the fraction (specs.splits).
        return sum(pool - min(share(pool, validation_fraction), max(1, pool - 1)) for pool in pools if pool)


class UnknownDataset(LookupError):
    """No data set has this id or name; `hint` offers the nearest name."""

    def __init__(self, hint: str) -> None:
        super().__init__("There is no data set of this id or name.")
        self.hint = hint


def find_known(session: Session, reference: str) -> KnownDataset:
    """The data set of this id or name, which stays until the transaction ends; UnknownDataset with the nearest one."""
    builtin = find_builtin(reference)
    if builtin is not None:
        return _builtin(builtin)
    try:
        return _brought(datasets.find(session, reference, keep=True))
    except NotFound:
        raise UnknownDataset(nearest(reference, [*BUILTIN_DATASETS, *datasets.names(session)])) from None


def _builtin(dataset: BuiltinDataset) -> KnownDataset:
    splits = class_split_sizes(dataset, VALIDATION_FRACTION)
    return KnownDataset(dataset.id, dataset.name, "ready", dataset.image_size, splits, validation_given=False)


def _brought(row: Dataset) -> KnownDataset:
    facts: dict[str, Any] = row.facts or {}
    given = facts.get("splits_from") in {"given", "given validation"}
    splits, image_size = facts.get("class_splits", {}), facts.get("image_size", 0)
    return KnownDataset(row.id, row.name, row.status, image_size, splits, validation_given=given)
