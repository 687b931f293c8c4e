"""Which model an id, alias or name means, looked up at most once a second."""

from __future__ import annotations

import time

from service.problems import NotReady
from store import models, queue
from store.database import Database
from store.errors import NotFound

SECONDS = 1.0
MAX_REFERENCES = 10_000


class References:
    """Ids of models by what requests call them. Belongs to one event loop, but for `look_up`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[str, float]] = {}
        self.moves = 0

    def known(self, reference: str) -> str | None:
        """The id, if it was looked up within the last second."""
        model_id, until = self._known.get(reference, ("", 0.0))
        return model_id if time.monotonic() < until else None

    def look_up(self, reference: str) -> str:
        """The id as the database has it; NotFound, or NotReady while its job runs."""
        with self._database.read() as session:
            try:
                return models.find_model(session, reference).id
            except NotFound:
                job = queue.find_job_named(session, reference)
                if job is None or job.status == "succeeded":
                    raise
                raise NotReady(_why_not(job.id, job.status)) from None

    def remember(self, reference: str, model_id: str, moves: int) -> None:
        """What was looked up, for a second; unless something has moved since there were so many `moves`: then it may
        be what was before.
        """
        if moves != self.moves:
            return
        if len(self._known) >= MAX_REFERENCES:
            self._known.clear()
        self._known[reference] = (model_id, time.monotonic() + SECONDS)

    def forget(self, model_id: str | None = None) -> None:
        """Looks up anew whatever meant this model; without one, everything: an alias has moved."""
        self.moves += 1
        self._known = {ref: entry for ref, entry in self._known.items() if model_id not in (None, entry[0])}


def _why_not(job_id: str, status: str) -> str:
    if status in {"failed", "cancelled"}:
        return f"There is no model: its job {job_id} has {status}."
    return f"The model is not ready: its job {job_id} is {status}. Ask again when it has succeeded."
