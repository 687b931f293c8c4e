"""Aliases: names of your own that point at a model and can be moved, such as `prod`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Response
from starlette.concurrency import run_in_threadpool

from service import examples
from service.house import House, TheDatabase, TheHouse
from service.problems import BadField
from service.schemas import AliasView, Page
from specs.options import NAME_PATTERN, Name, Strict
from store import models
from store.errors import NotFound
from store.ids import ID_PATTERN

router = APIRouter(prefix="/v1/aliases", tags=["models"])

AliasName = Annotated[str, Path(pattern=NAME_PATTERN, description="Letters, digits, spaces and . , _ ( ) + -")]


class AliasTarget(Strict):
    """Where an alias points."""

    model: Name


@router.get("", summary="All aliases")
def list_aliases(database: TheDatabase) -> Page[AliasView]:
    with database.read() as session:
        rows = models.list_aliases(session)
    return Page(items=[AliasView(alias=row.alias, model=row.model_id, updated_at=row.updated_at) for row in rows])


@router.put("/{alias}", summary="Point an alias at a model, at once")
async def put_alias(
    alias: AliasName,
    target: Annotated[AliasTarget, Body(openapi_examples={"a model": {"value": examples.ALIAS}})],
    house: TheHouse,
) -> AliasView:
    view = await run_in_threadpool(_put, house, alias, target)
    house.predictor.forget_references()
    return view


def _put(house: House, alias: str, target: AliasTarget) -> AliasView:
    if ID_PATTERN.fullmatch(alias):
        raise BadField(message="An alias cannot look like an id.", hint="Take a name that does not begin with mdl_.")
    with house.database.write() as session:
        try:
            row = models.set_alias(session, alias, target.model)
        except NotFound:
            hint = "GET /v1/models lists the models."
            raise BadField("model", message="There is no model of this id, alias or name.", hint=hint) from None
        return AliasView(alias=row.alias, model=row.model_id, updated_at=row.updated_at)


@router.delete("/{alias}", status_code=204, summary="Remove an alias; its model stays")
async def delete_alias(alias: AliasName, house: TheHouse) -> Response:
    await run_in_threadpool(_delete, house, alias)
    house.predictor.forget_references()
    return Response(status_code=204)


def _delete(house: House, alias: str) -> None:
    with house.database.write() as session:
        models.delete_alias(session, alias)
