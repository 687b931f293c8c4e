"""Aliases: names of your own that point at a model and can be moved, such as `prod`, and moved back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Response
from starlette.concurrency import run_in_threadpool

from service import examples
from service.house import House, TheDatabase, TheHouse
from service.paging import Cursor, Limit, next_cursor, position
from service.problems import BadField
from service.schemas import AliasMoveView, AliasView, Page
from service.views import alias_move_view, alias_view
from specs.options import NAME_PATTERN, Name, Strict
from store import aliases
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
        return Page(items=[alias_view(*found) for found in aliases.list_aliases(session)])


@router.get("/{alias}", summary="One alias")
def get_alias(alias: AliasName, database: TheDatabase) -> AliasView:
    with database.read() as session:
        return alias_view(*aliases.find_alias(session, alias))


@router.get("/{alias}/history", summary="Where an alias pointed since when, newest first")
def list_moves(
    alias: AliasName, database: TheDatabase, limit: Limit = 50, cursor: Cursor = None
) -> Page[AliasMoveView]:
    """Names and ids of models that were deleted stay. A removed alias has a history too."""
    with database.read() as session:
        found = aliases.list_moves(session, alias, before=position(cursor), limit=limit)
    moves = [move for move, _ in found]
    return Page(items=[alias_move_view(*one) for one in found], next_cursor=next_cursor(moves, limit))


@router.put("/{alias}", summary="Point an alias at a model, at once")
async def put_alias(
    alias: AliasName,
    target: Annotated[AliasTarget, Body(openapi_examples={"a model": {"value": examples.ALIAS}})],
    house: TheHouse,
) -> AliasView:
    """Requests that are being answered end on the model that they began with."""
    view = await run_in_threadpool(_put, house, alias, target)
    house.predictor.forget_references()
    return view


def _put(house: House, alias: str, target: AliasTarget) -> AliasView:
    if ID_PATTERN.fullmatch(alias):
        raise BadField(message="An alias cannot look like an id.", hint="Take a name that does not begin with mdl_.")
    with house.database.write() as session:
        try:
            return alias_view(*aliases.set_alias(session, alias, target.model))
        except NotFound:
            hint = "GET /v1/models lists the models."
            raise BadField("model", message="There is no model of this id, alias or name.", hint=hint) from None


@router.post("/{alias}:rollback", summary="Point an alias at the model before, at once")
@router.post("/{alias}/rollback", summary="The same, spelt as the verbs of jobs are", operation_id="roll_back_by_path")
async def roll_back(alias: AliasName, house: TheHouse) -> AliasView:
    """Once more goes further back. Models that were deleted since are passed over; 409 when there is none before."""
    view = await run_in_threadpool(_roll_back, house, alias)
    house.predictor.forget_references()
    return view


def _roll_back(house: House, alias: str) -> AliasView:
    with house.database.write() as session:
        return alias_view(*aliases.roll_back(session, alias))


@router.delete("/{alias}", status_code=204, summary="Remove an alias; its model stays")
async def delete_alias(alias: AliasName, house: TheHouse) -> Response:
    await run_in_threadpool(_delete, house, alias)
    house.predictor.forget_references()
    return Response(status_code=204)


def _delete(house: House, alias: str) -> None:
    with house.database.write() as session:
        aliases.delete_alias(session, alias)
