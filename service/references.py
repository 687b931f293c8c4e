"""Which model an id, alias or name means, looked up at most twice a second."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor

from service.problems import NotReady
from store import models, queue
from store.database import Database
from store.errors import NotFound

# What was looked up is true for so long; after half of it, it is looked up again while it is still used, so that under
# load nobody waits for the database.
SECONDS = 1.0
MAX_REFERENCES = 10_000


class References:
    """Ids of models by what requests call them. Belongs to one event loop; the database is asked in `executor`."""

    def __init__(self, database: Database, executor: Executor) -> None:
        self._database = database
        self._executor = executor
        self._known: dict[str, tuple[str, float]] = {}
        self._asking: dict[str, asyncio.Task[str]] = {}
        self._moves = 0

    async def find(self, reference: str, *, anew: bool = False) -> str:
        """The id, as it was within the last second, or `anew` as the database has it now.

        NotFound, or NotReady while its job runs.
        """
        model_id, until = self._known.get(reference, ("", 0.0))
        left = until - time.monotonic()
        if anew or left <= 0:
            # Not broken off with the request that asked first: others wait for the same.
            return await asyncio.shield(self._look_up(reference, anew=anew))
        if left < SECONDS / 2:
            self._look_up(reference)
        return model_id

    def forget(self, model_id: str | None = None) -> None:
        """Looks up anew whatever meant this model; without one, everything: an alias has moved."""
        self._moves += 1
        self._asking.clear()  # what these find may be what was before
        self._known = {ref: entry for ref, entry in self._known.items() if model_id not in (None, entry[0])}

    def _look_up(self, reference: str, *, anew: bool = False) -> asyncio.Task[str]:
        """One look for all who ask at the same time."""
        known = self._asking.get(reference)
        if known is not None and not anew:
            return known
        task = asyncio.get_running_loop().create_task(self._ask(reference))
        self._asking[reference] = task
        task.add_done_callback(lambda done: self._asked(reference, done))
        return task

    async def _ask(self, reference: str) -> str:
        moves = self._moves
        model_id = await asyncio.get_running_loop().run_in_executor(self._executor, self._stored, reference)
        if moves == self._moves:
            if len(self._known) >= MAX_REFERENCES:
                self._known.clear()
            self._known[reference] = (model_id, time.monotonic() + SECONDS)
        return model_id

    def _asked(self, reference: str, task: asyncio.Task[str]) -> None:
        if self._asking.get(reference) is task:
            del self._asking[reference]
        if not task.cancelled():
            task.exception()  # nobody may be there to hear of it; the next request asks again

    def _stored(self, reference: str) -> str:
        with self._database.read() as session:
            try:
                return models.find_model(session, reference).id
            except NotFound:
                job = queue.find_job_named(session, reference)
                if job is None or job.status == "succeeded":
                    raise
                raise NotReady(_why_not(job.id, job.status)) from None


def _why_not(job_id: str, status: str) -> str:
    if status in {"failed", "cancelled"}:
        return f"There is no model: its job {job_id} has {status}."
    return f"The model is not ready: its job {job_id} is {status}. Ask again when it has succeeded."
