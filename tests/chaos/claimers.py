"""What processes that compete for jobs do, as workers do it, without any training. Imports the store only."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import TypeVar

from store import queue, workers
from store.database import Database, Session
from store.errors import LostClaim, StoreBusy
from store.queue import Claim

KIND = "train"
REPORTS = 2
PAUSE = 0.02
# On a machine that does other things too the lock is held for long; whoever fails at once fails all the same.
PATIENCE = 60.0
Answer = TypeVar("Answer")


def claim_all(url: str, together: Barrier, told: Queue[tuple[list[str], float, float, int]]) -> None:
    """Claims until there is nothing to claim; tells the jobs, when it began and ended, and how often it was held up."""
    database, taken, busy = Database(url, busy_seconds=PATIENCE), list[str](), 0
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
    together.wait()
    began = time.monotonic()
    while True:
        try:
            with database.write() as session:
                claim = queue.claim(session, worker)
        except StoreBusy:
            busy += 1
            continue
        if claim is None:
            break
        taken.append(claim.job_id)
    told.put((taken, began, time.monotonic(), busy))
    database.close()


def work(url: str, jobs: int, told: Queue[tuple[list[str], int]]) -> None:
    """Works like a worker until so many jobs have ended; tells the ends that it was acknowledged, and what it met."""
    steady = Steady(url)
    incarnation = steady.write(lambda session: workers.register(session, ["cpu"]))
    ended: list[str] = []
    while steady.read(queue.count_jobs)["succeeded"] < jobs:
        claim = steady.write(lambda session: _claim(session, incarnation))
        if claim is None:
            time.sleep(PAUSE)
            continue
        with suppress(LostClaim):
            _run(steady, claim)
            ended.append(claim.job_id)
    told.put((ended, steady.busy))
    steady.database.close()


def _claim(session: Session, incarnation: str) -> Claim | None:
    queue.release_unknown(session, incarnation, kinds=[KIND])
    return queue.claim(session, incarnation, kinds=[KIND])


def _run(steady: Steady, claim: Claim) -> None:
    for step in range(REPORTS):
        steady.write(lambda session, step=step: queue.report(session, claim, phase="training", step=step))
    steady.write(lambda session: queue.succeed(session, claim, {}))


def submit(url: str, keys: list[str], told: Queue[tuple[dict[str, str], int]]) -> None:
    """Asks for a job a key, until it is acknowledged; tells their ids."""
    steady = Steady(url)
    told.put(({key: steady.write(lambda session, key=key: _submit(session, key)) for key in keys}, steady.busy))
    steady.database.close()


def _submit(session: Session, key: str) -> str:
    request = key.encode()
    if (earlier := queue.replay(session, key, request)) is not None:
        return earlier.id
    job = queue.enqueue(session, kind=KIND, name=key, spec="{}")
    queue.remember_key(session, key, request, job)
    return job.id


class Steady:
    """A database whose transactions are tried again when it is busy, as clients and workers do."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.busy = 0

    def write(self, do: Callable[[Session], Answer]) -> Answer:
        return self._again(lambda: self._written(do))

    def read(self, do: Callable[[Session], Answer]) -> Answer:
        return self._again(lambda: self._read(do))

    def _written(self, do: Callable[[Session], Answer]) -> Answer:
        with self.database.write() as session:
            return do(session)

    def _read(self, do: Callable[[Session], Answer]) -> Answer:
        with self.database.read() as session:
            return do(session)

    def _again(self, do: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return do()
            except StoreBusy:
                self.busy += 1
                time.sleep(PAUSE)
