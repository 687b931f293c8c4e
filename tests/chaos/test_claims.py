"""Many processes at one queue, on both databases: every job is claimed once, and ends once, whatever the server does.

The suite runs a short form; `CLAIM_PROCESSES=8 CLAIM_JOBS=1000 pytest -s tests/chaos/test_claims.py` a long one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select

from store import queue
from store.database import Database
from store.tables import Event
from tests.chaos import claimers
from tests.conftest import new_home, wait_for
from tests.postgresql import Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked from a light one")

PROCESSES, JOBS = int(os.environ.get("CLAIM_PROCESSES", "4")), int(os.environ.get("CLAIM_JOBS", "100"))
RESTARTS = int(os.environ.get("CLAIM_RESTARTS", "2"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
# Between two restarts, with the backends killed so many times.
KILLS = 4
PAUSE = (0.02, 0.25)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database at the newest version."""
    if request.param == "sqlite":
        return f"sqlite:///{new_home(tmp_path / 'home').home / 'pruneyard.db'}"
    server: Server = request.getfixturevalue("postgresql")
    return server.clean_database().render_as_string(hide_password=False)


def start(count: int, target: Any, *arguments: Any) -> list[ForkServerProcess]:
    """So many processes that do this."""
    processes = [light().Process(target=target, args=arguments, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


def light() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.claimers"])
    return context


def answers(told: Any, count: int) -> list[Any]:
    return [told.get(timeout=600) for _ in range(count)]


def test_no_job_is_claimed_twice_or_passed_over(url: str) -> None:
    database = Database(url)
    with database.write() as session:
        made = {queue.enqueue(session, kind="train", name="job", spec="{}").id for _ in range(JOBS)}
    together, told = light().Barrier(PROCESSES), light().Queue()
    start(PROCESSES, claimers.claim_all, url, together, told)
    found = answers(told, PROCESSES)
    taken = [job for jobs, *_ in found for job in jobs]
    assert len(taken) == len(made)
    assert set(taken) == made
    assert [busy for *_, busy in found] == [0] * PROCESSES, "nobody was told that the database is locked"
    with database.read() as session:
        assert {job.attempt for job in queue.list_jobs(session, status="running", limit=JOBS + 1)} == {1}
    database.close()
    seconds = max(end for _, _, end, _ in found) - min(began for _, began, *_ in found)
    tell(database=url.partition(":")[0], processes=PROCESSES, claims=len(taken), per_second=round(JOBS / seconds, 1))


def test_a_server_that_is_restarted_loses_nothing_it_acknowledged(postgresql: Server) -> None:
    address = postgresql.clean_database()
    url = address.render_as_string(hide_password=False)
    submitted, told = light().Queue(), light().Queue()
    keys = [f"key-{number}" for number in range(JOBS)]
    # Two ask by the same keys: each key makes one job.
    start(2, claimers.submit, url, keys, submitted)
    processes = start(PROCESSES, claimers.work, url, JOBS, told)
    killed = disturb(postgresql, str(address.database), processes)
    assert killed
    (one, busy), (other, busy_too) = answers(submitted, 2)
    found = answers(told, PROCESSES)
    acknowledged = Counter(job for jobs, _ in found for job in jobs)
    assert one == other
    assert max(acknowledged.values()) == 1
    check_ends(Database(url), jobs=set(one.values()))
    met = busy + busy_too + sum(busy for _, busy in found)
    tell(restarts=RESTARTS, backends_killed=killed, errors_met=met, jobs=JOBS, ends_acknowledged=len(acknowledged))


def disturb(server: Server, database: str, processes: list[ForkServerProcess]) -> int:
    """Kills backends and restarts the server, by crash and in order; how many backends were killed."""
    chance, killed = Random(SEED), 0
    backends = f"FROM pg_stat_activity WHERE datname = '{database}'"
    wait_for(lambda: server.execute(f"SELECT count(*) {backends}")[0] >= (len(processes),), seconds=120)
    for number in range(RESTARTS):
        for _ in range(KILLS):
            time.sleep(chance.uniform(*PAUSE))
            killed += len(server.execute(f"SELECT pg_terminate_backend(pid) {backends} AND random() < 0.6"))
        if any(process.is_alive() for process in processes):
            server.stop(mode="fast" if number % 2 else "immediate")
            server.start()
    return killed


def check_ends(database: Database, *, jobs: set[str]) -> None:
    with database.read() as session:
        rows = queue.list_jobs(session, limit=len(jobs) + 1)
        events = session.scalars(select(Event).where(Event.type == "state"))
        ends = Counter(event.job_id for event in events if event.data["status"] == "succeeded")
    database.close()
    assert {row.id for row in rows} == jobs
    assert ends == Counter(jobs), "each ended, and once"


def tell(**figures: Any) -> None:
    """Prints what a long run is for."""
    sys.stdout.write(json.dumps(figures) + "\n")
