"""Ends and wishes at the same moment, on a database in a file: one end, told once, and one model at most.

The suite takes some rounds; `make chaos` takes 200.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from specs.settings import Settings
from store import models, queue, workers
from store.database import Database, Session
from store.errors import Conflict, LostClaim
from store.events import list_events
from store.queue import Claim

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
ENDS = {"succeeded", "failed", "cancelled"}
MOVES = {
    None: {"queued"},
    "queued": {"running", "paused", "cancelled"},
    "running": {"succeeded", "failed", "cancelled", "paused", "queued"},
    "paused": {"queued", "cancelled"},
    "failed": {"queued"},
    "cancelled": {"queued"},
    "succeeded": set(),
}


class Race:
    """A job, and actors that begin at the same moment, each with a connection of its own."""

    def __init__(self, settings: Settings, actors: int) -> None:
        self.databases = [Database.of(settings) for _ in range(actors + 1)]
        self.own = self.databases[0]
        with self.own.write() as session:
            self.worker = workers.register(session, ["cpu"])

    def claimed(self) -> Claim:
        with self.own.write() as session:
            queue.enqueue(session, kind="train", name="x", spec="{}")
            claim = queue.claim(session, self.worker)
        assert claim is not None
        return claim

    def run(self, *actors: Callable[[Database], None]) -> None:
        """All at once; an actor that comes too late hears of it."""
        together = threading.Barrier(len(actors))

        def act(actor: Callable[[Database], None], database: Database) -> None:
            together.wait()
            with suppress(LostClaim, Conflict):
                actor(database)

        pairs = zip(actors, self.databases[1:], strict=False)
        threads = [threading.Thread(target=act, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def history(self, claim: Claim) -> list[str]:
        """The states a job has had, each reached by a legal move; as many models as it has succeeded."""
        with self.own.read() as session:
            states = [event.data["status"] for event in list_events(session, claim.job_id) if event.type == "state"]
            made = [model for model in models.list_models(session, limit=500) if model.job_id == claim.job_id]
            job = queue.find_job(session, claim.job_id)
        assert all(state in MOVES[before] for before, state in zip([None, *states], states, strict=False)), states
        assert (job.status, job.finished_at is not None) == (states[-1], states[-1] in ENDS)
        assert len(made) == states.count("succeeded")
        return states


@pytest.fixture
def race(settings: Settings) -> Iterator[Race]:
    made = Race(settings, actors=3)
    yield made
    for database in made.databases:
        database.close()


def publishing(claim: Claim) -> Callable[[Database], None]:
    """What the process of a job does at its end."""

    def publish(database: Database) -> None:
        facts = models.Publication(f"mdl_{claim.name}", "x", "trained", "ds_digits", None, "0" * 64, 1, {}, None)
        with database.write() as session:
            models.publish(session, claim, facts)
            queue.succeed(session, claim, {"model": facts.id})

    return publish


def asking(ask: Callable[[Session, str], object], claim: Claim) -> Callable[[Database], None]:
    """What the API does."""

    def do(database: Database) -> None:
        with database.write() as session:
            ask(session, claim.job_id)

    return do


def watching(claim: Claim) -> Callable[[Database], None]:
    """What the worker does: it looks, and stops a job whose end or pause was asked for."""

    def watch(database: Database) -> None:
        while True:
            with database.read() as session:
                job = queue.find_job(session, claim.job_id)
            if job.status != "running":
                return
            if job.cancel_requested or job.pause_requested:
                break
        with database.write() as session:
            if job.cancel_requested:
                queue.cancelled(session, claim)
            else:
                queue.release(session, claim, message="stopped")

    return watch


@pytest.mark.parametrize(("ask", "other"), [(queue.cancel, "cancelled"), (queue.pause, "paused")])
def test_a_job_that_ends_as_it_is_stopped_has_one_end(
    race: Race, ask: Callable[[Session, str], object], other: str
) -> None:
    for _ in range(ROUNDS):
        claim = race.claimed()
        race.run(publishing(claim), asking(ask, claim), watching(claim))
        states = race.history(claim)
        assert states[:2] == ["queued", "running"]
        assert states[2:] in (["succeeded"], [other])
        # Nobody claims it in the next round.
        with suppress(Conflict), race.own.write() as session:
            queue.cancel(session, claim.job_id)


def test_a_job_that_is_tried_again_as_it_is_cancelled_waits_or_has_ended(race: Race) -> None:
    for _ in range(ROUNDS):
        claim = race.claimed()
        with race.own.write() as session:
            queue.fail(session, claim, reason="error", message="x")
        race.run(asking(queue.retry, claim), asking(queue.cancel, claim), publishing(claim))
        states = race.history(claim)
        assert states[:4] == ["queued", "running", "failed", "queued"], "a new try is never lost"
        assert states[4:] in ([], ["cancelled"])
        with suppress(Conflict), race.own.write() as session:
            queue.cancel(session, claim.job_id)


def test_a_job_that_is_taken_back_as_it_ends_has_one_end(race: Race) -> None:
    """By whoever thinks that its worker is dead."""
    for _ in range(ROUNDS):
        claim = race.claimed()

        def bury(database: Database) -> None:
            with database.write() as session:
                queue.requeue_lost(session, [race.worker])

        race.run(publishing(claim), bury, asking(queue.cancel, claim))
        states = race.history(claim)
        assert states[2:] in (["succeeded"], ["queued"], ["queued", "cancelled"], ["cancelled"])
        with suppress(Conflict), race.own.write() as session:
            queue.cancel(session, claim.job_id)
