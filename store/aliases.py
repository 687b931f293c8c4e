"""Aliases: names that point at models, move at once, and remember where they pointed."""

from __future__ import annotations

import contextlib

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from store.errors import Conflict, NotFound
from store.models import find_model
from store.tables import Alias, AliasMove, Model, now


def find_alias(session: Session, alias: str) -> tuple[Alias, str]:
    """An alias, and the name of the model that it points at."""
    found = session.execute(_pointing().where(Alias.alias == alias)).one_or_none()
    if found is None:
        raise NotFound("alias", "name")
    row, name = found
    return row, name


def list_aliases(session: Session) -> list[tuple[Alias, str]]:
    """All aliases by name, each with the name of the model that it points at."""
    return [(row, name) for row, name in session.execute(_pointing().order_by(Alias.alias))]


def _pointing() -> Select[Alias, str]:
    return select(Alias, Model.name).join(Model, Model.id == Alias.model_id)


def set_alias(session: Session, alias: str, reference: str) -> tuple[Alias, str]:
    """Points an alias at a model, and says the model's name; where it points there already nothing changes."""
    row = _locked(session, alias)
    model = find_model(session, reference, keep=True)
    if row is None:
        # Of several who make it at once one does, and the others move it.
        with contextlib.suppress(IntegrityError), session.begin_nested():
            row = _moved(session, Alias(alias=alias), model, action="set")
    row = row or _locked(session, alias)
    if row is None:
        raise Conflict(f"The alias {alias!r} was made and removed by others just now; ask again.")
    return row if row.model_id == model.id else _moved(session, row, model, action="set"), model.name


def roll_back(session: Session, alias: str) -> tuple[Alias, str]:
    """Points an alias at the model that it pointed at before the present one, and says its name.

    Once more goes further back; models that were deleted since are passed over. Conflict where there is none before.
    """
    row = _locked(session, alias)
    if row is None:
        raise NotFound("alias", "name")
    before = _moves_before(row, _position(session, alias))
    there = before.add_columns(Model).join(Model, Model.id == AliasMove.model_id)
    found = session.execute(there.with_for_update(of=Model, read=True, key_share=True)).first()
    if found is None:
        raise Conflict(_why_not(alias, session.scalars(before).first()))
    move, model = found
    return _moved(session, row, model, action="rollback", restores=move.restores or move.number), model.name


def _position(session: Session, alias: str) -> int:
    """The number of the move that made an alias point where it points now."""
    latest = select(AliasMove).where(AliasMove.alias == alias).order_by(AliasMove.number.desc()).limit(1)
    move = session.scalars(latest).one()
    return move.restores or move.number


def _moves_before(row: Alias, number: int) -> Select[AliasMove]:
    """Moves to another model than the present one, before this number, the last first."""
    return (
        select(AliasMove)
        .where(AliasMove.alias == row.alias, AliasMove.number < number, AliasMove.model_id != row.model_id)
        .order_by(AliasMove.number.desc())
        .limit(1)
    )


def _why_not(alias: str, deleted: AliasMove | None) -> str:
    if deleted is None:
        return f"The alias {alias!r} has pointed at no other model before this one."
    return (
        f"What the alias {alias!r} pointed at before was deleted, {deleted.model_name!r} ({deleted.model_id}) last; "
        "point it at a model that is there."
    )


def _locked(session: Session, alias: str) -> Alias | None:
    return session.get(Alias, alias, with_for_update=True)


def _moved(session: Session, row: Alias, model: Model, *, action: str, restores: int | None = None) -> Alias:
    row.model_id, row.updated_at = model.id, now()
    names = {"alias": row.alias, "model_id": model.id, "model_name": model.name}
    session.add_all([row, AliasMove(**names, action=action, restores=restores, at=row.updated_at)])
    session.flush()
    return row


def list_moves(
    session: Session, alias: str, *, before: int | None = None, limit: int = 50
) -> list[tuple[AliasMove, bool]]:
    """Moves of an alias numbered below `before`, newest first, each with whether its model is there still.

    Of a removed alias too; NotFound if there was never one of this name.
    """
    query = select(AliasMove, Model.id).join(Model, Model.id == AliasMove.model_id, isouter=True)
    query = query.where(AliasMove.alias == alias).order_by(AliasMove.number.desc()).limit(limit)
    if before is not None:
        query = query.where(AliasMove.number < before)
    found = [(move, model_id is not None) for move, model_id in session.execute(query)]
    if not found and before is None:
        raise NotFound("alias", "name")
    return found


def delete_alias(session: Session, alias: str) -> None:
    """Removes an alias; the model and the history stay."""
    row = _locked(session, alias)
    if row is None:
        raise NotFound("alias", "name")
    session.delete(row)
    session.add(AliasMove(alias=alias, action="remove", model_id=None, model_name=None))
