"""Data sets: made, filled, read by a worker, looked at, deleted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Body, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from formats.files import DamagedFiles
from ingest.folders import OutsideRoots, resolve_below
from service import examples
from service.content import Reception
from service.house import House, TheDatabase, TheHouse
from service.images import brought_images, builtin_images, builtin_preview
from service.paging import Cursor, Limit, next_cursor, position
from service.problems import BadField, NotReady
from service.schemas import DatasetImage, DatasetView, Page
from service.views import builtin_view, dataset_view
from specs.datasets import (
    BUILTIN_DATASETS,
    DatasetSpec,
    FolderSource,
    TorchvisionSource,
    UploadSource,
    find_builtin,
)
from specs.registry import UnknownName
from specs.settings import Settings
from specs.torchvision_sets import TORCHVISION_SETS
from store import datasets
from store.database import Session
from store.tables import Dataset

Content = TypeVar("Content")

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])

BINARY = {"schema": {"type": "string", "format": "binary"}}
ARCHIVES = ("application/zip", "application/x-tar", "application/gzip", "application/zstd", "application/octet-stream")
CONTENT_RANGE = {
    "name": "Content-Range",
    "in": "header",
    "description": "For a part: `bytes FIRST-LAST/TOTAL`; TOTAL may be `*` but for the last. Without it, the body is "
    "the whole content. `bytes */TOTAL` with no body says that all has been sent.",
    "schema": {"type": "string"},
    "example": "bytes 0-8388607/20000000",
}
CONTENT: dict[str, Any] = {
    "parameters": [CONTENT_RANGE],
    "requestBody": {"required": True, "content": dict.fromkeys(ARCHIVES, BINARY)},
}
Part = Annotated[
    Literal["train", "test"],
    Query(description="`train` holds what a job sets apart for validation too; `test` is never trained on."),
]
Force = Annotated[bool, Query(description="Also if models were trained on it; they cannot be pruned any more then.")]
PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": BINARY}, "description": "A grid of images, a row for each class."}
}


@router.post("", status_code=201, summary="Make a data set")
def create_dataset(
    spec: Annotated[DatasetSpec, Body(openapi_examples=examples.DATASETS)], house: TheHouse, response: Response
) -> DatasetView:
    """Of a name that is there already this is the next version.

    An upload then takes its content by `PUT /v1/datasets/{id}/content`. A folder of this machine, or a data set that
    torchvision knows, is read at once.
    """
    _check_name(spec.name)
    fitted = _fitted(spec, house.settings)
    with house.database.write() as session:
        row = datasets.create(session, name=spec.name, spec=fitted.model_dump(mode="json"))
        if not isinstance(spec.source, UploadSource):
            row = datasets.begin_reading(session, row.id)
    response.headers["Location"] = f"/v1/datasets/{row.id}"
    return dataset_view(row, house)


def _check_name(name: str) -> None:
    if find_builtin(name) is not None or name.startswith("ds_"):
        message = "This name is taken by a built-in data set, or looks like an id."
        raise BadField("name", message=message, hint="Choose another one.")


def _fitted(spec: DatasetSpec, settings: Settings) -> DatasetSpec:
    """The spec with its source checked against what is there."""
    if isinstance(spec.source, FolderSource):
        path = _allowed_folder(spec.source.path, settings)
        return spec.model_copy(update={"source": spec.source.model_copy(update={"path": str(path)})})
    if isinstance(spec.source, TorchvisionSource):
        try:
            TORCHVISION_SETS[spec.source.name]
        except UnknownName as error:
            message = "Torchvision's data set of this name is not known here."
            raise BadField("source", "name", message=message, hint=error.hint) from None
    return spec


def _allowed_folder(path: str, settings: Settings) -> Path:
    with suppress(OutsideRoots, OSError):
        folder = resolve_below(path, settings.data_roots)
        if folder.is_dir():
            return folder
    message = "This is no folder below one of PRUNEYARD_DATA_ROOTS."
    raise BadField("source", "path", message=message, hint="Give the absolute path of one, or upload its files.")


@router.put(
    "/{dataset_id}/content",
    status_code=202,
    summary="Send the content of a data set",
    openapi_extra=CONTENT,
    responses={200: {"model": DatasetView, "description": "A part has arrived; more is to come."}},
)
async def put_content(dataset_id: str, request: Request, house: TheHouse, response: Response) -> DatasetView:
    """The body is a zip, tar, tar.gz or tar.zst, told by its content: `curl -T cats.zip URL`.

    In it: `class/*.jpg`; or `train/`, `val/` and `test/` with the classes below; or a `manifest.csv` or
    `manifest.jsonl` with path, label and, if you like, split. A large one may come in parts, in their order; after a
    broken connection `upload.received` says where to go on.
    """
    check = partial(_check_open, house, dataset_id)
    # Before a file is made of the name.
    await run_in_threadpool(check)
    settings = house.settings
    reception = Reception(house.artifacts, settings.max_upload_bytes, settings.upload_idle_seconds)
    settle = partial(_after_part, house, dataset_id)
    view = await reception.receive(request, dataset_id, check=check, settle=settle)
    response.status_code = 200 if view.status == "uploading" else 202
    return view


def _check_open(house: House, dataset_id: str) -> None:
    with house.database.read() as session:
        datasets.check_open(datasets.get(session, dataset_id))


def _after_part(house: House, dataset_id: str, complete: bool) -> DatasetView:
    with house.database.write() as session:
        row = datasets.begin_reading(session, dataset_id) if complete else datasets.get(session, dataset_id)
    return dataset_view(row, house)


@router.get("", summary="Data sets, newest first, then the built-in ones")
def list_datasets(house: TheHouse, limit: Limit = 50, cursor: Cursor = None) -> Page[DatasetView]:
    with house.database.read() as session:
        rows = datasets.list_datasets(session, before=position(cursor), limit=limit)
    items = [dataset_view(row, house, brief=True) for row in rows]
    more = next_cursor(rows, limit)
    if more is None:
        items += [builtin_view(dataset) for dataset in BUILTIN_DATASETS.values()]
    return Page(items=items, next_cursor=more)


@router.get("/{reference}", summary="One data set, by id or name")
def get_dataset(reference: str, house: TheHouse) -> DatasetView:
    """A name stands for its newest version that is ready."""
    builtin = find_builtin(reference)
    if builtin is not None:
        return builtin_view(builtin)
    with house.database.read() as session:
        return dataset_view(datasets.find(session, reference), house)


@router.delete("/{reference}", status_code=204, summary="Delete a data set and its files")
def delete_dataset(reference: str, house: TheHouse, force: Force = False) -> Response:
    """Refused while an unfinished job needs it, or, without `force`, a model was trained on it."""
    if find_builtin(reference) is not None:
        raise BadField(message="A built-in data set cannot be deleted.", hint="Leave it: it takes no room.")
    with house.database.write() as session:
        dataset_id = datasets.find(session, reference).id
        datasets.delete(session, dataset_id, force=force)
    for path in (house.artifacts.dataset(dataset_id), *house.artifacts.arrays(dataset_id)):
        house.artifacts.remove(path)
    house.artifacts.upload(dataset_id).unlink(missing_ok=True)
    return Response(status_code=204)


@router.get("/{reference}/preview.png", summary="A few images of each class", responses=PNG, response_class=Response)
def get_preview(reference: str, house: TheHouse) -> Response:
    builtin = find_builtin(reference)
    if builtin is not None:
        data = builtin_preview(builtin)
    else:
        data = _read(house, reference, lambda directory: (directory / "preview.png").read_bytes())
    return Response(data, media_type="image/png", headers={"X-Content-Type-Options": "nosniff"})


@router.get("/{reference}/images", summary="Images of a data set with their labels")
def list_images(
    reference: str, house: TheHouse, split: Part = "test", limit: Limit = 100, cursor: Cursor = None
) -> Page[DatasetImage]:
    """A page ends early where its images would be large."""
    start = position(cursor) or 0
    builtin = find_builtin(reference)
    if builtin is not None:
        return builtin_images(builtin, split, start=start, limit=limit)
    return _read(house, reference, partial(brought_images, split=split, start=start, limit=limit))


def _read(house: House, reference: str, read: Callable[[Path], Content]) -> Content:
    """What is read of a stored data set; NotFound if it is deleted meanwhile, DamagedFiles if files are missing."""
    dataset_id = _ready(house.database, reference).id
    try:
        return read(house.artifacts.dataset(dataset_id))
    except (FileNotFoundError, DamagedFiles) as error:
        _ready(house.database, dataset_id)
        raise DamagedFiles("Files of the data set are missing or damaged.") from error


def _ready(database: TheDatabase, reference: str) -> Dataset:
    with database.read() as session:
        return _require_ready(session, reference)


def _require_ready(session: Session, reference: str) -> Dataset:
    row = datasets.find(session, reference)
    if row.status != "ready":
        raise NotReady(f"The data set is {row.status}, not ready.")
    return row
