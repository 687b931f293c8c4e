"""The job queue: order, fences, races, crashes, dead workers."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from specs.settings import Settings
from store import metrics, models, queue, workers
from store.database import Database, Session
from store.errors import Conflict, LostClaim, NotFound
from store.events import list_events
from store.queue import Claim
from store.tables import Job

ROW = dict.fromkeys(metrics.COLUMNS, 0.5)


@pytest.fixture
def worker(database: Database) -> str:
    """A registered worker: this process."""
    with database.write() as session:
        return workers.register(session, ["cpu"])


def enqueue(database: Database, name: str = "job", priority: int = 0) -> str:
    with database.write() as session:
        return queue.enqueue(session, kind="train", name=name, spec="{}", priority=priority).id


def claim(database: Database, worker: str) -> Claim:
    with database.write() as session:
        taken = queue.claim(session, worker)
    assert taken is not None
    return taken


def job_of(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return queue.find_job(session, job_id)


def test_jobs_are_claimed_by_priority_then_in_the_order_of_their_making(database: Database, worker: str) -> None:
    made = [enqueue(database, priority=priority) for priority in (0, 1, 0, 1)]
    taken = [claim(database, worker).job_id for _ in made]
    assert taken == [made[1], made[3], made[0], made[2]]
    with database.write() as session:
        assert queue.claim(session, worker) is None


def test_many_claimers_never_take_one_job_twice(database: Database, worker: str) -> None:
    made = {enqueue(database) for _ in range(60)}
    taken: list[str] = []

    def take_all() -> None:
        own = Database(database.url)
        while True:
            with own.write() as session:
                found = queue.claim(session, worker)
            if found is None:
                break
            taken.append(found.job_id)
        own.close()

    threads = [threading.Thread(target=take_all) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(made)
    assert set(taken) == made


WRITES: dict[str, Callable[[Session, Claim], object]] = {
    "report": lambda session, claim: queue.report(session, claim, phase="training", step=5),
    "record_epoch": lambda session, claim: metrics.record_epoch(session, claim, 1, ROW),
    "succeed": lambda session, claim: queue.succeed(session, claim, {}),
    "fail": lambda session, claim: queue.fail(session, claim, reason="error", message="x"),
    "release": lambda session, claim: queue.release(session, claim, message="x"),
    "crashed": lambda session, claim: queue.crashed(session, claim, message="x"),
    "cancelled": queue.cancelled,
    "publish": lambda session, claim: models.publish(
        session,
        claim,
        models.Publication("mdl_1", "m", "trained", "ds_digits", None, "0" * 64, 1, {}, None),
    ),
}


@pytest.mark.parametrize("write", list(WRITES))
@pytest.mark.parametrize("why", ["newer attempt", "ended", "queued again"])
def test_a_worker_that_lost_its_job_writes_nothing(database: Database, worker: str, write: str, why: str) -> None:
    enqueue(database)
    lost = claim(database, worker)
    with database.write() as session:
        if why == "ended":
            queue.succeed(session, lost, {"model": "mdl_0"})
        else:
            queue.crashed(session, lost, message="killed")
    if why == "newer attempt":
        assert claim(database, worker) == Claim(lost.job_id, lost.attempt + 1)
    before = _state(database, lost.job_id)
    with pytest.raises(LostClaim), database.write() as session:
        WRITES[write](session, lost)
    assert _state(database, lost.job_id) == before


def _state(database: Database, job_id: str) -> object:
    with database.read() as session:
        job = queue.find_job(session, job_id)
        columns = {column.name: getattr(job, column.name) for column in Job.__table__.columns}
        return columns, len(metrics.list_metrics(session, job_id)), models.count_models(session)


def test_a_worker_that_never_heard_of_its_claim_gives_it_back(database: Database, worker: str) -> None:
    """As when the connection is lost after the commit and before the answer."""
    made = [enqueue(database), enqueue(database)]
    with database.write() as session:
        reading = queue.enqueue(session, kind="ingest", name="beside", spec="{}").id
        other = workers.register(session, ["cpu"])
    assert [claim(database, worker).job_id, claim(database, other).job_id] == made
    with database.write() as session:
        assert queue.claim(session, worker, kinds=["ingest"])
    with database.write() as session:
        queue.release_unknown(session, worker, kinds=["train"])
        again = queue.claim(session, worker, kinds=["train"])
    assert again == Claim(made[0], 2)
    assert [job_of(database, job_id).attempt for job_id in (made[1], reading)] == [1, 1]
    assert job_of(database, made[0]).crashes == 0


def test_a_job_whose_process_keeps_dying_is_given_up(database: Database, worker: str) -> None:
    job_id = enqueue(database)
    for attempt in range(1, queue.MAX_CRASHES + 1):
        taken = claim(database, worker)
        assert taken.attempt == attempt
        with database.write() as session:
            queue.crashed(session, taken, message="Its process was killed by SIGKILL.")
    job = job_of(database, job_id)
    assert (job.status, job.reason, job.crashes) == ("failed", "crashed", queue.MAX_CRASHES)
    assert "SIGKILL" in (job.message or "")


def test_being_released_does_not_count_as_a_crash(database: Database, worker: str) -> None:
    job_id = enqueue(database)
    for _ in range(2 * queue.MAX_CRASHES):
        with database.write() as session:
            taken = queue.claim(session, worker)
            assert taken is not None
            queue.release(session, taken, message="shut down")
    job = job_of(database, job_id)
    assert (job.status, job.crashes) == ("queued", 0)


def test_what_an_attempt_found_by_measuring_binds_the_next(database: Database, worker: str) -> None:
    enqueue(database)
    first = claim(database, worker)
    with database.write() as session:
        assert queue.found_out(session, first) is None
        queue.find_out(session, first, {"share": 0.5})
        queue.release(session, first, message="stopped")
    second = claim(database, worker)
    assert (second.job_id, second.attempt) == (first.job_id, 2)
    with database.read() as session:
        assert queue.found_out(session, second) == {"share": 0.5}
    with pytest.raises(LostClaim), database.write() as session:
        queue.find_out(session, first, {"share": 0.9})
    with database.read() as session:
        assert queue.found_out(session, second) == {"share": 0.5}


def test_cancelling_twice_changes_nothing_and_an_ended_job_stays_as_it_is(database: Database, worker: str) -> None:
    job_id = enqueue(database)
    taken = claim(database, worker)
    for _ in range(2):
        with database.write() as session:
            assert queue.cancel(session, job_id).status == "running"
    with database.read() as session:
        assert queue.find_job(session, job_id).cancel_requested
    with database.write() as session:
        queue.cancelled(session, taken)
    with database.write() as session:
        assert queue.cancel(session, job_id).status == "cancelled"
    other = enqueue(database)
    with database.write() as session:
        queue.succeed(session, claim_in(session, worker), {})
    with pytest.raises(Conflict), database.write() as session:
        queue.cancel(session, other)
    with pytest.raises(NotFound), database.write() as session:
        queue.cancel(session, "job_0")


def claim_in(session: Session, worker: str) -> Claim:
    taken = queue.claim(session, worker)
    assert taken is not None
    return taken


def test_a_cancelled_job_whose_worker_dies_is_cancelled_not_run_again(database: Database, worker: str) -> None:
    job_id = enqueue(database)
    taken = claim(database, worker)
    with database.write() as session:
        queue.cancel(session, job_id)
    with database.write() as session:
        queue.crashed(session, taken, message="killed")
    assert job_of(database, job_id).status == "cancelled"


WISHES = {"cancel": (queue.cancel, "cancelled"), "pause": (queue.pause, "paused")}
STOPS: dict[str, Callable[[Session, Claim], None]] = {
    "shut down": lambda session, claim: queue.release(session, claim, message="shut down"),
    "killed": lambda session, claim: queue.crashed(session, claim, message="killed"),
}


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("wish", WISHES)
def test_what_was_asked_of_a_running_job_is_done_however_it_stops(
    database: Database, worker: str, wish: str, stop: str
) -> None:
    ask, outcome = WISHES[wish]
    job_id = enqueue(database)
    taken = claim(database, worker)
    with database.write() as session:
        assert ask(session, job_id).status == "running"
    with database.write() as session:
        STOPS[stop](session, taken)
    job = job_of(database, job_id)
    assert (job.status, job.owner, job.phase, job.pause_requested) == (outcome, None, None, False)
    with database.write() as session:
        assert queue.claim(session, worker) is None


def test_a_paused_job_waits_and_takes_its_old_place(database: Database, worker: str) -> None:
    first, second = enqueue(database), enqueue(database)
    for _ in range(2):
        with database.write() as session:
            assert queue.pause(session, first).status == "paused"
    assert claim(database, worker).job_id == second
    third = enqueue(database)
    for _ in range(2):
        with database.write() as session:
            assert queue.resume(session, first).status == "queued"
    assert [claim(database, worker).job_id for _ in range(2)] == [first, third]


def test_a_pause_that_is_taken_back_in_time_never_was(database: Database, worker: str) -> None:
    job_id = enqueue(database)
    taken = claim(database, worker)
    with database.write() as session:
        queue.pause(session, job_id)
    with database.write() as session:
        assert not queue.resume(session, job_id).pause_requested
    with database.write() as session:
        queue.release(session, taken, message="shut down")
    assert job_of(database, job_id).status == "queued"


def test_a_paused_job_is_cancelled_at_once(database: Database) -> None:
    job_id = enqueue(database)
    with database.write() as session:
        queue.pause(session, job_id)
    with database.write() as session:
        assert queue.cancel(session, job_id).status == "cancelled"


@pytest.mark.parametrize("wish", [*WISHES, "resume"])
def test_a_job_that_ends_first_has_ended(database: Database, worker: str, wish: str) -> None:
    job_id = enqueue(database)
    taken = claim(database, worker)
    ask = WISHES[wish][0] if wish in WISHES else queue.resume
    with database.write() as session:
        ask(session, job_id)
    with database.write() as session:
        queue.succeed(session, taken, {})
    job = job_of(database, job_id)
    assert (job.status, job.pause_requested) == ("succeeded", False)
    with pytest.raises(Conflict), database.write() as session:
        ask(session, job_id)


def test_a_retried_job_has_all_its_tries_again(database: Database, worker: str) -> None:
    job_id = enqueue(database)
    for _ in range(queue.MAX_CRASHES):
        taken = claim(database, worker)
        with database.write() as session:
            queue.crashed(session, taken, message="killed")
    assert job_of(database, job_id).status == "failed"
    for _ in range(2):
        with database.write() as session:
            job = queue.retry(session, job_id)
            assert (job.status, job.reason, job.finished_at, job.crashes) == ("queued", None, None, 0)
    assert claim(database, worker).attempt == queue.MAX_CRASHES + 1
    with database.write() as session:
        assert queue.retry(session, job_id).status == "running"
    with pytest.raises(LostClaim), database.write() as session:
        queue.succeed(session, taken, {})


def test_what_has_succeeded_or_was_read_is_not_tried_again(database: Database, worker: str) -> None:
    job_id = enqueue(database)
    with database.write() as session:
        queue.succeed(session, claim_in(session, worker), {})
    with database.write() as session:
        reading = queue.enqueue(session, kind="ingest", name="reading", spec="{}").id
        queue.cancel(session, reading)
    for ended in (job_id, reading):
        with pytest.raises(Conflict), database.write() as session:
            queue.retry(session, ended)
    for ask in (queue.pause, queue.resume, queue.retry):
        with pytest.raises(NotFound), database.write() as session:
            ask(session, "job_0")


@pytest.mark.parametrize("wish", WISHES)
def test_an_end_and_a_wish_at_the_same_moment_make_one_end(database: Database, worker: str, wish: str) -> None:
    ask, outcome = WISHES[wish]

    own = Database(database.url)

    def finish(claim: Claim) -> None:
        with suppress(LostClaim), own.write() as session:
            queue.succeed(session, claim, {})
        with suppress(LostClaim), own.write() as session:
            queue.release(session, claim, message="stopped")

    for _ in range(25):
        job_id = enqueue(database)
        taken = claim(database, worker)
        thread = threading.Thread(target=finish, args=(taken,))
        thread.start()
        with suppress(Conflict), database.write() as session:
            ask(session, job_id)
        thread.join()
        with database.read() as session:
            states = [event.data["status"] for event in list_events(session, job_id)]
        assert states[:2] == ["queued", "running"]
        assert states[2:] in (["succeeded"], [outcome])
        with database.write() as session, suppress(Conflict):
            queue.cancel(session, job_id)
    own.close()


def test_an_error_in_the_block_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")
        raise ZeroDivisionError
    with database.read() as session:
        assert queue.list_jobs(session) == []


def test_a_metric_that_is_not_finite_is_null_and_marked(database: Database, worker: str) -> None:
    enqueue(database)
    taken = claim(database, worker)
    for _ in range(2):  # a resumed epoch replaces its row
        with database.write() as session:
            metrics.record_epoch(session, taken, 1, {**ROW, "train_loss": float("nan"), "lr": float("inf")})
    with database.read() as session:
        (row,) = metrics.list_metrics(session, taken.job_id)
    assert (row.train_loss, row.lr, row.train_accuracy, row.non_finite) == (None, None, 0.5, True)


def _register_dead(database: Database) -> str:
    """A worker whose process has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = psutil.Process(process.pid).create_time()
    with database.write() as session:
        incarnation = workers.register(session, ["cpu"])
    with database.write() as session:
        row = session.get(workers.Worker, incarnation)
        assert row is not None
        row.pid, row.pid_created = process.pid, created
    process.communicate(b"\n")
    return incarnation


def test_the_jobs_of_a_dead_process_are_taken_back_at_once(database: Database, worker: str) -> None:
    dead = _register_dead(database)
    lost_id, kept_id = enqueue(database), enqueue(database)
    claim(database, dead)
    kept = claim(database, worker)
    watch = workers.Watch(database, ttl_seconds=3600)
    assert watch.sweep() == [lost_id]
    assert watch.sweep() == []
    assert job_of(database, lost_id).status == "queued"
    assert job_of(database, kept_id).owner == worker
    with database.write() as session:
        assert not workers.beat(session, dead), "a worker that was buried must hear of it"
        queue.report(session, kept, phase="training", step=1)


def test_a_worker_elsewhere_is_dead_when_it_has_not_beaten_for_long(database: Database, worker: str) -> None:
    job_id = enqueue(database)
    claim(database, worker)
    with database.write() as session:
        row = session.get(workers.Worker, worker)
        assert row is not None
        row.place = "another machine"
    watch = workers.Watch(database, ttl_seconds=0.2)
    for _ in range(4):  # as long as it beats it lives, however long it takes
        assert watch.sweep() == []
        threading.Event().wait(0.1)
        with database.write() as session:
            assert workers.beat(session, worker)
    assert watch.sweep() == []
    threading.Event().wait(0.3)
    assert workers.Watch(database, ttl_seconds=0.2).sweep() == [], "a new watch has to see for itself"
    assert watch.sweep() == [job_id]


def test_whether_there_is_work_is_seen_without_writing(database: Database, settings: Settings, worker: str) -> None:
    told = {"reason": "on_battery", "message": "It runs on its battery."}

    def has_work(hold: dict[str, str] | None = None) -> bool:
        with database.read() as session:
            return workers.has_work(session, worker, kinds=["train"], home=settings.home, hold=lambda *_: hold)

    assert not has_work()
    job_id = enqueue(database)
    assert has_work()
    assert has_work(told), "it has yet to be said"
    with database.write() as session:
        assert workers.claim(session, worker, kinds=["train"], home=settings.home, hold=lambda *_: told) is None
    assert not has_work(told)
    assert has_work({**told, "message": "It still does."})
    with database.write() as session:
        queue.cancel(session, job_id)
    assert has_work(), "what was said no longer holds"
    with database.write() as session:
        assert workers.claim(session, worker, kinds=["train"], home=settings.home, hold=lambda *_: None) is None
    assert not has_work()
    enqueue(database)
    claim(database, worker)
    assert has_work(), "the worker holds a job and does not know"
    with database.write() as session:
        workers.sign_off(session, worker)
    assert has_work(), "it counts as dead and has to hear it"
