"""When trainings wait for the sake of whoever uses the machine otherwise, and whether they have room."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specs.jobs import JOB_SPEC, TrainSpec
from specs.settings import Settings
from store import queue, quotes, slowness, workers
from store.database import Database
from store.tables import Worker
from workers.manners import Manners
from workers.rests import Rests
from workers.sharing import LEAST, lack_of_room

SPEC = JOB_SPEC.validate_python({"kind": "train", "dataset": "digits", "architecture": "mlp"})


def hold(settings: dict[str, Any], *, percent: float = 80, plugged: bool | None = False, hour: int = 12) -> str | None:
    battery = SimpleNamespace(percent=percent, power_plugged=plugged)
    clock = datetime(2026, 11, 26, hour)
    found = Manners(Settings.model_validate(settings), battery=lambda: battery, clock=lambda: clock).hold()
    return None if found is None else found.reason


def test_nothing_waits_unless_that_is_asked_for() -> None:
    assert hold({}, percent=1) is None


def test_trainings_wait_on_battery() -> None:
    off = {"training_on_battery": False}
    assert hold(off) == "on_battery"
    assert hold(off, percent=100) == "on_battery"
    assert hold(off, plugged=True) is None
    assert hold(off, plugged=None) is None, "where it is not known"
    for battery in (lambda: None, {}.popitem):
        assert Manners(Settings.model_validate(off), battery=battery).hold() is None, "where there is none"


def test_trainings_wait_once_the_battery_is_low() -> None:
    assert hold({"training_battery_percent": 50}, percent=49) == "on_battery"
    assert hold({"training_battery_percent": 50}, percent=50) is None
    assert hold({"training_battery_percent": 50}, percent=49, plugged=True) is None


def test_trainings_wait_for_their_hours() -> None:
    assert hold({"training_hours": "22-7"}) == "outside_hours"
    assert hold({"training_hours": "22-7"}, hour=23) is None
    assert hold({"training_hours": "22-7", "training_on_battery": False}, hour=23) == "on_battery"


@pytest.fixture
def two(database: Database) -> tuple[str, str]:
    """Two workers of this machine."""
    with database.write() as session:
        return workers.register(session, ["cpu"]), workers.register(session, ["cpu"])


def enqueue(database: Database, *, quoted: int | None = None, seed: int = 0) -> str:
    """A training, of which a quote told what memory it takes."""
    assert isinstance(SPEC, TrainSpec)
    spec = SPEC.model_copy(update={"seed": seed})
    with database.write() as session:
        if quoted is not None:
            quote = queue.enqueue(session, kind="quote", name="quote", spec="{}", priority=9)
            quote.status, quote.result = "succeeded", {"of": quotes.key_of(spec), "peak_memory_bytes": quoted}
        return queue.enqueue(session, kind="train", name="t", spec=spec.model_dump_json()).id


def start(database: Database, worker: str, *, phase: str | None = None) -> None:
    with database.write() as session:
        taken = queue.claim(session, worker, kinds=["train"])
        assert taken is not None
        if phase is not None:
            queue.report(session, taken, phase=phase, step=1)


def waits(database: Database, worker: str, job_id: str, available: int) -> bool:
    with database.read() as session:
        return lack_of_room(session, worker, queue.find_job(session, job_id), cores=2, available=available) is not None


def test_a_training_that_has_no_room_beside_others_waits(database: Database, two: tuple[str, str]) -> None:
    enqueue(database, quoted=3 * LEAST, seed=1)
    second = enqueue(database, quoted=2 * LEAST, seed=2)
    assert not waits(database, two[1], second, available=0), "it may always run alone"
    start(database, two[0])
    assert waits(database, two[1], second, available=5 * LEAST - 1), "the first has yet to take what it will"
    assert not waits(database, two[1], second, available=5 * LEAST)


def test_what_a_training_has_taken_is_no_longer_free(database: Database, two: tuple[str, str]) -> None:
    enqueue(database, quoted=3 * LEAST, seed=1)
    second = enqueue(database, seed=2)
    start(database, two[0], phase="training")
    assert waits(database, two[1], second, available=LEAST - 1), "PyTorch alone takes as much"
    assert not waits(database, two[1], second, available=LEAST)


def test_no_more_trainings_run_than_there_are_cores(database: Database, two: tuple[str, str]) -> None:
    enqueue(database)
    second = enqueue(database)

    def held(*, threads: int, cores: int) -> str | None:
        with database.read() as session:
            job = queue.find_job(session, second)
            found = lack_of_room(session, two[1], job, threads=threads, cores=cores, available=10 * LEAST)
        return None if found is None else found.reason

    assert held(threads=4, cores=2) is None, "it may always run alone"
    start(database, two[0])
    assert held(threads=1, cores=1) == held(threads=2, cores=3) == held(threads=0, cores=1) == "too_few_cores"
    assert held(threads=2, cores=4) is held(threads=0, cores=2) is None


def test_a_training_rests_only_while_predictions_are_slow(tmp_path: Path) -> None:
    moment, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        moment[0] += seconds

    rests = Rests(tmp_path, clock=lambda: moment[0], sleep=sleep)

    def step(seconds: float) -> list[float]:
        """How long it rests after a step that took so long."""
        slept.clear()
        moment[0] += seconds
        rests.take()
        return [round(seconds, 6) for seconds in slept]

    assert step(1.0) == []
    slowness.tell(tmp_path)
    assert step(0.1) == [], "it looks again half a second later"
    assert step(0.6) == [0.6], "as long as the step took"
    assert step(0.25) == [0.25]
    assert step(60.0) == [1.0], "no longer than a second"
    slowness.take_back(tmp_path)
    assert step(0.6) == []
    slowness.tell(tmp_path)
    os.utime(tmp_path / slowness.NAME, times=(1.0, 1.0))
    assert step(0.6) == [], "of a service that was killed nothing is left"


def test_what_runs_on_another_machine_takes_no_room(database: Database, two: tuple[str, str]) -> None:
    enqueue(database)
    start(database, two[0])
    second = enqueue(database)
    with database.write() as session:
        elsewhere = session.get(Worker, two[0])
        assert elsewhere is not None
        elsewhere.place = "elsewhere"
    assert not waits(database, two[1], second, available=0)
