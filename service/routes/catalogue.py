"""What can be asked for: names, options with their types, bounds and defaults, and the sources."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from formats.images import FORMATS, MEDIA_TYPES
from inference.runtimes import RUNTIMES
from service.figures import CannotCount, Counted, Question, TooManyQuestions
from service.house import TheHouse
from service.queries import Look, read_question
from service.schemas import Moment, Page, Schema
from service.uploads import MAX_IMAGES
from specs.architectures import ARCHITECTURES
from specs.augmentations import AUGMENTATIONS
from specs.optimizers import OPTIMIZERS
from specs.options import Entry
from specs.pruning import PRUNING_METHODS, PruningMethod
from specs.recipes import RECIPES
from specs.schedules import SCHEDULES
from specs.torchvision_sets import TORCHVISION_SETS, TorchvisionSet
from store.devices import findings_of
from store.models import count_models

router = APIRouter(prefix="/v1", tags=["catalogue"])


class EntryView(Schema):
    """A name of the catalogue; `options` is the JSON schema of its options."""

    name: str
    title: str
    source: str
    description: str
    options: dict[str, Any]
    defaults: dict[str, Any]


class Figures(Schema):
    """What a network costs, counted on the network itself, for images of this size and so many classes."""

    parameters: int
    macs: int = Field(description="Multiply-accumulates of convolutions and linear layers for one image.")
    image_size: int
    classes: int
    channels: int


class ArchitectureView(EntryView):
    """A network of the catalogue."""

    figures: Figures | None = Field(description="Null until they have been counted, soon after the first request.")


# The parameters of a network's options differ from network to network; the rest is read along with them.
OPTIONS: dict[str, Any] = {
    "name": "options",
    "in": "query",
    "description": "Any option of the network, as in `?width=0.5` or `?hidden=128&hidden=64`; the entry lists them.",
    "style": "form",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": True},
}
LOOK: list[dict[str, Any]] = [
    {"name": name, "in": "query", "schema": schema} for name, schema in Look.model_json_schema()["properties"].items()
]


@cache
def _view(entry: Entry | PruningMethod) -> EntryView:
    schema = entry.options.model_json_schema()
    properties = {name: field for name, field in schema["properties"].items() if name != "name"}
    defaults = {name: field["default"] for name, field in properties.items() if "default" in field}
    description = next(kind.__doc__ for kind in entry.options.__mro__ if kind.__doc__)
    return EntryView(
        name=entry.name,
        title=entry.title,
        source=entry.source,
        description=description,
        options=properties,
        defaults=defaults,
    )


def _architecture_view(entry: Entry, question: Question, counted: Counted | None) -> ArchitectureView:
    figures = None
    if counted is not None:
        look = {"image_size": question.image_size, "classes": question.classes, "channels": question.channels}
        figures = Figures(parameters=counted.parameters, macs=counted.macs, **look)
    return ArchitectureView(**dict(_view(entry)), figures=figures)


@cache
def _default_question(entry: Entry) -> Question:
    return read_question(entry, {})


@router.get("/architectures", summary="Networks that can be trained")
def list_architectures(house: TheHouse) -> Page[ArchitectureView]:
    """With the figures of their default options, as far as they have been counted; the first request has it begun."""
    entries = list(ARCHITECTURES.values())
    questions = [_default_question(entry) for entry in entries]
    known = house.figures.known(questions)
    return Page(items=[_architecture_view(*each) for each in zip(entries, questions, known, strict=True)])


@router.get(
    "/architectures/{name}",
    summary="One network, and what it costs with the options you name",
    openapi_extra={"parameters": [*LOOK, OPTIONS]},
)
def get_architecture(name: str, request: Request, house: TheHouse) -> ArchitectureView:
    """Options and images that are not named are the default ones; figures that were never asked for are counted."""
    entry = ARCHITECTURES[name]
    values = {key: request.query_params.getlist(key) for key in request.query_params}
    question = read_question(entry, values)
    try:
        return _architecture_view(entry, question, house.figures.count(question))
    except (TooManyQuestions, CannotCount):
        if values:
            raise
        return _architecture_view(entry, question, None)


@router.get("/optimizers", summary="Optimizers")
def list_optimizers() -> Page[EntryView]:
    return Page(items=[_view(entry) for entry in OPTIMIZERS.values()])


@router.get("/schedules", summary="Learning-rate schedules")
def list_schedules() -> Page[EntryView]:
    return Page(items=[_view(entry) for entry in SCHEDULES.values()])


@router.get("/augmentations", summary="Augmentations of training images")
def list_augmentations() -> Page[EntryView]:
    return Page(items=[_view(entry) for entry in AUGMENTATIONS.values()])


@router.get("/pruning-methods", summary="Ways of pruning")
def list_pruning_methods() -> Page[EntryView]:
    return Page(items=[_view(entry) for entry in PRUNING_METHODS.values()])


class RecipeView(Schema):
    """Settings of a training under one name; `settings` are fields of a train job.

    Trainings of at least `long_epochs` take those of `longer` instead of the same in `settings`.
    """

    name: str
    title: str
    source: str
    description: str
    settings: dict[str, Any]
    longer: dict[str, Any]
    long_epochs: int


@router.get("/recipes", summary="Recipes: settings that go well together")
def list_recipes() -> Page[RecipeView]:
    return Page(items=[RecipeView.model_validate(recipe) for recipe in RECIPES.values()])


class TorchvisionView(Schema):
    """A data set that torchvision reads; `files` can be placed by hand where there is no internet."""

    name: str
    title: str
    classes: int
    channels: int
    splits: dict[str, int]
    source: str
    licence: str | None
    files: list[str] = Field(description="Paths below the folder `downloads` of the data folder.")


@router.get("/torchvision-datasets", summary="Data sets that torchvision knows")
def list_torchvision_sets() -> Page[TorchvisionView]:
    return Page(items=[_torchvision_view(entry) for entry in TORCHVISION_SETS.values()])


def _torchvision_view(entry: TorchvisionSet) -> TorchvisionView:
    fields = ("name", "title", "classes", "channels", "source", "licence")
    files = [f"{entry.folder}/{name}" for name in entry.files]
    splits = {str(split): count for split, count in entry.splits.items()}
    return TorchvisionView(**{name: getattr(entry, name) for name in fields}, splits=splits, files=files)


class DeviceView(Schema):
    """A device that workers have looked at."""

    name: str
    usable: bool = Field(description="Whether a job may ask for it.")
    chosen_by_auto: bool = Field(description="Whether it is the one that `auto` stands for.")
    reason: str = Field(description="Why, or why not, in a sentence.")
    ratio: float | None = Field(description="The time of a training step on the CPU over that on this device.")
    probed_at: Moment | None = Field(description="When it was tried out; null if it was not.")
    versions: dict[str, str] = Field(description="Of PyTorch, the driver and the chip; another one is tried out anew.")


class Devices(Schema):
    """Devices that workers train on, and that predictions run on."""

    training: list[str]
    devices: list[DeviceView] = Field(description="What the workers found out; filled soon after one starts.")
    inference: list[dict[str, str]]


@router.get("/devices", summary="Devices of this machine and of the workers")
async def get_devices(house: TheHouse) -> Devices:
    workers = await run_in_threadpool(house.watch.alive)
    return Devices(
        training=sorted({device for worker in workers for device in worker.devices}),
        devices=[DeviceView.model_validate(finding) for finding in findings_of(workers)],
        inference=await run_in_threadpool(house.inventory.look),
    )


class Limits(Schema):
    """How much may be asked at once."""

    max_body_bytes: int
    max_pixels: int
    max_images_per_request: int
    max_queued_images: int
    max_upload_bytes: int
    max_image_bytes: int
    max_dataset_files: int
    image_formats: list[str]
    image_media_types: list[str]
    runtimes: list[str]
    models: int


@router.get("/limits", summary="Limits of this service")
def get_limits(house: TheHouse) -> Limits:
    with house.database.read() as session:
        models = count_models(session)
    settings = house.settings
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        max_pixels=settings.max_pixels,
        max_images_per_request=min(MAX_IMAGES, settings.max_queued_images),
        max_queued_images=settings.max_queued_images,
        max_upload_bytes=settings.max_upload_bytes,
        max_image_bytes=settings.max_image_bytes,
        max_dataset_files=settings.max_dataset_files,
        image_formats=list(FORMATS),
        image_media_types=list(MEDIA_TYPES),
        runtimes=list(RUNTIMES),
        models=models,
    )
