"""Published models: found by id, alias or name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.errors import Conflict, NotFound
from store.events import record
from store.ids import may_name, new_id
from store.queue import Claim, held
from store.tables import Alias, Job, Model, now


@dataclass(frozen=True)
class Publication:
    """What is remembered of a model beside its files."""

    id: str
    name: str
    kind: str
    dataset: str
    parent: str | None
    weights_sha256: str
    bytes: int
    facts: dict[str, Any]
    latency: dict[str, Any] | None
    report: dict[str, Any] | None = None
    confusion: list[list[int]] | None = None


def publish(session: Session, claim: Claim, publication: Publication) -> Model:
    """Enters a model whose files are in place; part of the transaction that ends its job."""
    held(session, claim)
    model = Model(**vars(publication), status="ready", job_id=claim.job_id, family=_family(session, publication))
    session.add(model)
    session.flush()
    return model


def _family(session: Session, publication: Publication) -> str:
    if publication.parent is None:
        return new_id("fam")
    parent = session.scalar(select(Model.family).where(Model.id == publication.parent))
    return parent or new_id("fam")


def find_model(session: Session, reference: str, *, keep: bool = False) -> Model:
    """The model of this id, else of this alias, else the newest of this name; NotFound if there is none.

    With `keep` nobody deletes it before this transaction ends.
    """
    rows = select(Model).with_for_update(of=Model, read=True, key_share=True) if keep else select(Model)
    by_id = rows.where(Model.id == reference)
    by_alias = rows.join(Alias, Alias.model_id == Model.id).where(Alias.alias == reference)
    by_name = rows.where(Model.name == reference).order_by(Model.number.desc()).limit(1)
    for query in (by_id, by_alias, by_name) if may_name(reference) else ():
        if (model := session.scalar(query)) is not None:
            return model
    raise NotFound("model", "id, alias or name")


def list_models(session: Session, *, before: int | None = None, limit: int = 50) -> list[Model]:
    """Models numbered below `before`, newest first."""
    query = select(Model).order_by(Model.number.desc()).limit(limit)
    if before is not None:
        query = query.where(Model.number < before)
    return list(session.scalars(query))


def list_names(session: Session) -> list[tuple[str, str]]:
    """Id and name of every model, newest first."""
    return [(row.id, row.name) for row in session.execute(select(Model.id, Model.name).order_by(Model.number.desc()))]


def list_family(session: Session, family: str) -> list[Model]:
    """A model and all that was made out of it, in the order in which they were made."""
    query = select(Model).where(Model.family == family).order_by(Model.number)
    return list(session.scalars(query)) if may_name(family) else []


def count_models(session: Session) -> int:
    """How many models there are."""
    return session.scalar(select(func.count()).select_from(Model)) or 0


def aliases_of(session: Session, model_ids: list[str]) -> dict[str, list[str]]:
    """The aliases that point at each of these models."""
    found: dict[str, list[str]] = {model_id: [] for model_id in model_ids}
    for alias in session.scalars(select(Alias).where(Alias.model_id.in_(model_ids)).order_by(Alias.alias)):
        found[alias.model_id].append(alias.alias)
    return found


def change_model(session: Session, model_id: str, *, name: str | None = None) -> Model:
    """The model, locked for a change by this transaction, under another name if one is given."""
    model = session.scalar(select(Model).where(Model.id == model_id).with_for_update())
    if model is None:
        raise NotFound("model")
    model.name = model.name if name is None else name
    return model


def record_fault(session: Session, model_id: str, data: dict[str, Any]) -> None:
    """Counts a fault of the device that serves a model, and tells it among the events of the model's job."""
    model = session.scalar(select(Model).where(Model.id == model_id).with_for_update())
    if model is None:
        return  # deleted meanwhile
    figures = model.latency or {}
    count = figures.get("faults", {}).get("count", 0) + 1
    model.latency = {**figures, "faults": {"count": count, "at": now().isoformat(), **data}}
    record(session, model.job_id, "device_fault", data)


def needs(job: Job) -> set[str]:
    """The ids of the data set and of the models that a job names; of a quote, those of what it is to tell of."""
    spec = json.loads(job.spec)
    asked = spec.get("job", spec)
    return {asked[name] for name in ("dataset", "model", "teacher") if isinstance(asked.get(name), str)}


def delete_model(session: Session, model_id: str) -> None:
    """Forgets a model; refused while an alias points at it or an unfinished job needs it."""
    model = session.scalar(select(Model).where(Model.id == model_id).with_for_update())
    if model is None:
        raise NotFound("model")
    aliases = aliases_of(session, [model.id])[model.id]
    if aliases:
        raise Conflict(f"The alias {aliases[0]!r} points at this model; move or delete the alias first.")
    unfinished = select(Job).where(Job.status.in_(("queued", "running", "paused")), Job.spec.contains(model.id))
    for job in session.scalars(unfinished):
        if model.id in needs(job):
            raise Conflict(f"The unfinished job {job.id} needs this model; cancel it first.")
    session.delete(model)
