"""Which models are in memory: loaded before they are needed, kept, or dropped."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.house import TheHouse
from service.schemas import Schema

router = APIRouter(prefix="/v1/models", tags=["predictions"])


class Loaded(Schema):
    """Whether a model is in memory, and whether it stays there."""

    model: str
    loaded: bool
    pinned: bool


@router.post("/{reference}/load", summary="Load a model before it is asked")
async def load_model(
    reference: str,
    house: TheHouse,
    pin: Annotated[bool, Query(description="Whether it stays in memory until it is unloaded.")] = False,
) -> Loaded:
    """Answers when the next prediction need not wait; predictions of other models go on meanwhile.

    A model that is pinned stays whatever else is loaded, until it is unloaded or the service ends; models named in
    `PRUNEYARD_PRELOAD` are loaded and pinned at every start.
    """
    model = await house.predictor.load(reference, pin=pin)
    return _view(house, model.manifest.id)


@router.get("/{reference}/load", summary="Whether a model is in memory")
async def get_load(reference: str, house: TheHouse) -> Loaded:
    return _view(house, await house.predictor.resolve(reference))


@router.post("/{reference}/unload", summary="Drop a model from memory")
async def unload_model(reference: str, house: TheHouse) -> Loaded:
    """Requests that are under way end on it; the next one loads it again. Asking twice changes nothing."""
    model_id = await house.predictor.resolve(reference)
    house.predictor.unload(model_id)
    return _view(house, model_id)


def _view(house: TheHouse, model_id: str) -> Loaded:
    predictor = house.predictor
    return Loaded(model=model_id, loaded=predictor.is_loaded(model_id), pinned=predictor.is_pinned(model_id))
