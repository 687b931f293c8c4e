"""Random kills over API, workers and jobs: nothing is lost, nothing is there twice, and the weights are the same.

`make chaos` runs it in full; the suite runs a short form.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import pytest

from tests.chaos.yard import ENDED, Yard
from tests.conftest import TINY_TRAINING, new_home, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills as on POSIX")

JOBS, KILLS = int(os.environ.get("CHAOS_JOBS", "2")), int(os.environ.get("CHAOS_KILLS", "4"))
WORKERS = int(os.environ.get("CHAOS_WORKERS", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
PAUSE = (0.2, float(os.environ.get("CHAOS_PAUSE", "3")))
EPOCHS = int(os.environ.get("CHAOS_EPOCHS", "50"))
OPTIMIZERS = ("adam", "momentum", "rmsprop", "adagrad", "adamw", "sgd", "nesterov", "muon")
SCHEDULES = ("cosine", "one-cycle", "plateau", "step", "constant")


def spec(number: int) -> dict[str, Any]:
    """Trainings that differ in all that a checkpoint has to hold."""
    return {
        **TINY_TRAINING,
        "name": f"chaos {number}",
        "seed": number,
        "epochs": EPOCHS,
        "optimizer": OPTIMIZERS[number % len(OPTIMIZERS)],
        "schedule": SCHEDULES[number % len(SCHEDULES)],
        "augmentation": "shift" if number % 2 else "none",
        "ema": {"decay": 0.9} if number % 3 == 0 else None,
    }


@dataclass
class Record:
    """What was killed, and how long a job that was struck took to be at work again."""

    kills: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    struck: dict[str, tuple[int, float]] = field(default_factory=dict)
    recoveries: list[float] = field(default_factory=list)

    def strike(self, jobs: list[dict[str, Any]]) -> None:
        """Jobs that run at a kill; one that was not struck recovers at once and is not counted."""
        for job in jobs:
            if job["status"] == "running" and job["phase"] == "training":
                self.struck.setdefault(job["id"], (job["attempt"], time.monotonic()))

    def look(self, jobs: list[dict[str, Any]]) -> None:
        """Takes note of jobs that are at work at another attempt than when they were struck."""
        for job in jobs:
            attempt, since = self.struck.get(job["id"], (job["attempt"], 0.0))
            if job["attempt"] > attempt and job["phase"] not in {None, "starting", "loading"}:
                self.recoveries.append(time.monotonic() - since)
                del self.struck[job["id"]]
            elif job["status"] in ENDED:
                self.struck.pop(job["id"], None)


def test_killed_at_random_all_jobs_end_as_if_undisturbed(tmp_path: Path) -> None:
    settings = new_home(tmp_path / "home")
    record = Record()
    with Yard(settings, workers=WORKERS) as yard:
        made = [yard.certainly("/v1/jobs", post=spec(number), key=f"job-{number}")["id"] for number in range(JOBS)]
        again = [yard.certainly("/v1/jobs", post=spec(number), key=f"job-{number}")["id"] for number in range(JOBS)]
        assert made == again
        disturb(yard, record, Random(SEED))
        found = settle(yard, record)
        assert sorted(found) == sorted(made), "none is lost, none is there twice"
        models = {model["job"]: model for model in yard.certainly("/v1/models")["items"]}
        assert sorted(models) == sorted(made), "one model a job"
        assert {path.name for path in (settings.home / "models").glob("[!.]*")} == {
            each["id"] for each in models.values()
        }
        for job in made:
            rows = yard.certainly(f"/v1/jobs/{job}/metrics")["items"]
            assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
        wanted = undisturbed(yard, made)
    assert [models[job]["weights_sha256"] for job in made] == wanted
    assert sound(settings.home / "pruneyard.db")
    tell(record)


def undisturbed(yard: Yard, jobs: list[str]) -> list[str]:
    """Hashes of the weights that the same trainings end with when nobody disturbs them."""
    clones = [yard.certainly(f"/v1/jobs/{job}/clone", post={}, key=f"clone-of-{job}")["id"] for job in jobs]
    settle(yard, Record())
    models = {model["job"]: model["weights_sha256"] for model in yard.certainly("/v1/models")["items"]}
    return [models[job] for job in clones]


def disturb(yard: Yard, record: Record, chance: Random) -> None:
    """Kills until it was often enough, or until all has ended: then there is nothing left to disturb."""
    while record.kills.total() < KILLS:
        jobs = view(yard, record)
        if jobs and all(job["status"] in ENDED for job in jobs) and not tried_again(yard, record, jobs):
            return
        kind = yard.kill(chance, number=record.kills.total())
        if kind is not None:
            record.kills[kind] += 1
            record.strike(jobs)
        pause = time.monotonic() + chance.uniform(*PAUSE)
        while time.monotonic() < pause:
            yard.revive()
            view(yard, record)
            time.sleep(0.05)


def settle(yard: Yard, record: Record) -> dict[str, dict[str, Any]]:
    """All jobs, once they have succeeded; what was given up after three crashes is tried again."""

    def done() -> bool:
        yard.revive()
        jobs = view(yard, record)
        tried_again(yard, record, jobs)
        return bool(jobs) and all(job["status"] == "succeeded" for job in jobs)

    wait_for(done, seconds=600 + 20 * JOBS, pause=0.1)
    return {job["id"]: job for job in view(yard, record) or yard.certainly("/v1/jobs")["items"]}


def view(yard: Yard, record: Record) -> list[dict[str, Any]]:
    page = yard.ask("/v1/jobs")
    jobs: list[dict[str, Any]] = page["items"] if page else []
    record.look(jobs)
    return jobs


def tried_again(yard: Yard, record: Record, jobs: list[dict[str, Any]]) -> bool:
    """Whether there was a job that had been killed too often; it may be for nothing else that one fails."""
    failed = [job for job in jobs if job["status"] == "failed"]
    for job in failed:
        assert job["reason"] == "crashed", job
        yard.ask(f"/v1/jobs/{job['id']}/retry", post={})
    record.retries += len(failed)
    return bool(failed)


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def tell(record: Record) -> None:
    """Prints what a full run is for."""
    times = sorted(record.recoveries)
    figures: dict[str, Any] = {"jobs": JOBS, "kills": dict(record.kills), "retries": record.retries}
    if times:
        p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
        figures["recovery seconds"] = {"median": median(times), "p95": p95, "most": times[-1], "of": len(times)}
    sys.stdout.write(json.dumps(figures) + "\n")
