"""Data sets: what is in them, and their images."""

from __future__ import annotations

import base64
import io
from pkgutil import resolve_name
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from PIL import Image

from service.paging import Cursor, Limit, position
from service.schemas import DatasetImage, DatasetView, Page
from service.submission import find_dataset
from specs.datasets import BUILTIN_DATASETS, BuiltinDataset, split_sizes
from specs.jobs import TrainSpec
from specs.splits import split_contents

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

Part = Annotated[
    Literal["train", "test"],
    Query(description="`train` holds what a job sets apart for validation too; `test` is never trained on."),
]


@router.get("", summary="Data sets")
def list_datasets() -> Page[DatasetView]:
    return Page(items=[_view(dataset) for dataset in BUILTIN_DATASETS.values()])


@router.get("/{reference}", summary="One data set, by id or name")
def get_dataset(reference: str) -> DatasetView:
    return _view(find_dataset(reference))


@router.get("/{reference}/images", summary="Images of a data set with their labels")
def list_images(reference: str, split: Part = "test", limit: Limit = 100, cursor: Cursor = None) -> Page[DatasetImage]:
    dataset = find_dataset(reference)
    pixels, labels = resolve_name(dataset.target)()
    contents = [image.tobytes() for image in pixels]
    splits = split_contents(contents, labels.tolist(), seed=0, validation_fraction=0.5)
    chosen = splits.test if split == "test" else sorted(splits.train + splits.validation)
    start = position(cursor) or 0
    items = [
        DatasetImage(index=number, label=dataset.classes[labels[number]], png=_png(pixels[number]))
        for number in chosen[start : start + limit]
    ]
    end = start + limit
    return Page(items=items, next_cursor=str(end) if end < len(chosen) else None)


def _view(dataset: BuiltinDataset) -> DatasetView:
    fraction = TrainSpec.model_fields["validation_fraction"].default
    return DatasetView(
        id=dataset.id,
        name=dataset.name,
        title=dataset.title,
        status="ready",
        classes=list(dataset.classes),
        class_images=dict(zip(dataset.classes, dataset.class_images, strict=True)),
        splits=split_sizes(dataset, fraction),
        images=dataset.images,
        channels=dataset.channels,
        image_size=dataset.image_size,
        rejected=[],
        source=dataset.source,
    )


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
