"""The models as a repository: listed, brought into memory and taken out of it by their clients.

The rule: a model is READY while it is in memory. Whatever needs it brings it there: `load`, `ready`, its metadata or
configuration, a prediction by any route. After `unload` its `ready` alone does not: it says no, until something else
has brought the model back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from starlette.concurrency import run_in_threadpool

from inference.models import LoadedModel
from inference.statistics import ModelStatistics
from service.predictor import BROKEN, Predictor
from service.problems import NotReady
from service.protocol.errors import FAILED_TO_LOAD, BadRequest, UnknownModel
from service.protocol.metadata import model_config, model_statistics
from service.protocol.outputs import VERSION
from store import aliases, models
from store.database import Database
from store.errors import NotFound

NOTHING = ModelStatistics()
# Below /v2/models: the statistics of all models, whatever a model is called.
NO_MODELS = {"stats"}


class Repository:
    """The models of one data folder under the names that clients of the protocol give them."""

    def __init__(self, database: Database, predictor: Predictor) -> None:
        self._database = database
        self._predictor = predictor
        self._unloaded: set[str] = set()
        predictor.on_load(self._unloaded.discard)

    async def model(self, reference: str) -> LoadedModel:
        """The model behind an id, alias or name, in memory; UnknownModel if there is none."""
        try:
            return await self._predictor.model(reference)
        except NotFound:
            raise UnknownModel from None

    async def check_ready(self, reference: str) -> None:
        """Brings a model into memory, unless a client took it out; then BadRequest."""
        model_id = await self._id(reference)
        if model_id in self._unloaded and not self._predictor.is_loaded(model_id):
            raise BadRequest("The model is not ready: it was unloaded. Load it, or ask it for a prediction.")
        await self.model(reference)

    async def load(self, reference: str, config: str | None, *, max_images: int) -> None:
        """Brings a model into memory. A configuration may be sent along, but it changes nothing: so it must be ours."""
        try:
            model = await self.model(reference)
        except HTTPException as error:
            raise HTTPException(error.status_code, f"{FAILED_TO_LOAD}: {error.detail}") from None
        except NotReady as error:
            raise HTTPException(409, f"{FAILED_TO_LOAD}: {error}") from None
        except BROKEN as error:
            raise HTTPException(503, f"{FAILED_TO_LOAD}: {error}") from error
        if config is not None:
            _check_config(config, model_config(reference, model, max_images=max_images))

    async def unload(self, reference: str) -> None:
        """Takes a model out of memory."""
        model_id = await self._id(reference)
        self._unloaded.add(model_id)
        self._predictor.unload(model_id)

    async def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """All models, newest first, each with its state."""
        named = await run_in_threadpool(self._names)
        self._unloaded &= named.keys()  # what has been deleted since is remembered no longer
        entries = [self._entry(model_id, name) for model_id, name in named.items()]
        return [entry for entry in entries if entry["state"] == "READY" or not only_ready]

    async def statistics(self, reference: str | None = None) -> list[dict[str, Any]]:
        """What a model has done since the service started, or each of all models."""
        if reference is None:
            named = await run_in_threadpool(self._names)
        else:
            named = {await self._id(reference): reference}
        counted = self._predictor.statistics_of_all()
        return [model_statistics(name, counted.get(model_id, NOTHING)) for model_id, name in named.items()]

    def _entry(self, model_id: str, name: str) -> dict[str, str]:
        ready = self._predictor.is_loaded(model_id)
        absent = "unloaded" if model_id in self._unloaded else "loaded when it is asked for"
        reason = "" if ready else self._predictor.why_broken(model_id) or absent
        return {"name": name, "version": VERSION, "state": "READY" if ready else "UNAVAILABLE", "reason": reason}

    async def _id(self, reference: str) -> str:
        try:
            return await self._predictor.resolve(reference)
        except NotFound:
            raise UnknownModel from None

    def _names(self) -> dict[str, str]:
        """Each model's id with what a client may call it."""
        with self._database.read() as session:
            rows = models.list_names(session)
            taken = {row.alias for row, _ in aliases.list_aliases(session)} | NO_MODELS
        return _reachable(rows, taken)


def _reachable(rows: Sequence[tuple[str, str]], taken: set[str]) -> dict[str, str]:
    """Each model's id with its own name where that leads to it, else with its id.

    `rows` are newest first, since a name leads to the newest of its bearers, and aliases and ids go before names.
    """
    taken = taken | {model_id for model_id, _ in rows}
    found = {}
    for model_id, name in rows:
        found[model_id] = model_id if name in taken else name
        taken.add(name)
    return found


def _check_config(config: str, own: dict[str, Any]) -> None:
    try:
        asked = json.loads(config)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise BadRequest(f"{FAILED_TO_LOAD}: the parameter `config` is a JSON object as a string.")
    if any(key not in own or own[key] != value for key, value in asked.items()):
        raise BadRequest(f"{FAILED_TO_LOAD}: a model's configuration comes from its training and cannot be changed.")
