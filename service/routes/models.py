"""Models: listed, looked at, changed, deleted."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

from fastapi import APIRouter, Body, Response
from starlette.concurrency import run_in_threadpool

from inference.choices import as_asked, as_measured
from service import examples
from service.house import House, TheHouse
from service.paging import Cursor, Limit, next_cursor, position
from service.placing import Choice
from service.schemas import ModelChanges, ModelView, Page
from service.views import model_view
from store import models
from store.checkpoints import forget_checkpoints
from store.database import Session
from store.tables import Model

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="Models, newest first")
def list_models(house: TheHouse, limit: Limit = 50, cursor: Cursor = None) -> Page[ModelView]:
    with house.database.read() as session:
        rows = models.list_models(session, before=position(cursor), limit=limit)
        aliases = models.aliases_of(session, [row.id for row in rows])
    items = [model_view(row, aliases[row.id], house.predictor.why_broken(row.id)) for row in rows]
    return Page(items=items, next_cursor=next_cursor(rows, limit))


@router.get("/{reference}", summary="One model, by id, alias or name")
def get_model(reference: str, house: TheHouse) -> ModelView:
    with house.database.read() as session:
        return _view(house, session, models.find_model(session, reference))


@router.patch("/{reference}", summary="Give a model another name, or say where it is served")
async def change_model(
    reference: str,
    changes: Annotated[ModelChanges, Body(openapi_examples={"a runtime": {"value": examples.MODEL_CHANGES}})],
    house: TheHouse,
) -> ModelView:
    """`runtime` and `device` are tried out before they are stored, held against the golden answers, and measured.

    They count at once for new requests. `auto` is what was measured to be the fastest. What is not named stays.
    """
    model_id = await run_in_threadpool(_find_id, house, reference)
    wishes = changes.model_dump(include={"runtime", "device"}, exclude_none=True)
    # A name waits for no trial of another model.
    async with house.placing.turn if wishes else nullcontext():
        choice = await run_in_threadpool(house.placing.choose, model_id, wishes) if wishes else None
        view = await run_in_threadpool(_change, house, model_id, changes, choice)
    if changes.name is not None:
        house.predictor.forget_references()
    if wishes:
        await house.predictor.reload(model_id)
    return view


def _find_id(house: House, reference: str) -> str:
    with house.database.read() as session:
        return models.find_model(session, reference).id


def _change(house: House, model_id: str, changes: ModelChanges, choice: Choice | None) -> ModelView:
    with house.database.write() as session:
        row = models.change_model(session, model_id, name=changes.name)
        if choice is not None and choice.best is None:
            row.latency = as_measured(row.latency)
        elif choice is not None and choice.best is not None:
            row.latency = as_asked(row.latency, choice.asked, *choice.best)
        return _view(house, session, row)


def _view(house: House, session: Session, row: Model) -> ModelView:
    return model_view(row, models.aliases_of(session, [row.id])[row.id], house.predictor.why_broken(row.id))


@router.delete("/{reference}", status_code=204, summary="Delete a model and its files")
async def delete_model(reference: str, house: TheHouse) -> Response:
    """Refused while an alias points at it or an unfinished job needs it."""
    model_id, family, job_id = await run_in_threadpool(_delete, house, reference)
    house.families.forget(family)
    house.predictor.forget(model_id)
    house.explainer.forget(model_id)
    for path in (house.artifacts.model(model_id), house.artifacts.checkpoints(job_id)):
        await run_in_threadpool(house.artifacts.remove, path)
    return Response(status_code=204)


def _delete(house: House, reference: str) -> tuple[str, str, str]:
    with house.database.write() as session:
        model = models.find_model(session, reference)
        model_id, family, job_id = model.id, model.family, model.job_id
        models.delete_model(session, model_id)
        # What its training kept beside it.
        forget_checkpoints(session, job_id)
        return model_id, family, job_id
