"""PostgreSQL alone: connections that are lost, locks that are held, transactions beside each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.app import create_app
from service.submission import submit
from specs.jobs import QuantizeSpec
from specs.settings import Settings
from store import datasets, deliveries, models, queue, workers
from store.artifacts import Artifacts
from store.database import Database, Session
from store.errors import Conflict, InDoubt, LostClaim, StorageFull, StoreBusy, StoreError, Unstorable
from store.publishing import publishing
from store.queue import Claim
from store.tables import Job, Webhook
from tests.conftest import LOOPBACK, TINY_TRAINING, wait_for
from tests.postgresql import Server


@pytest.fixture
def kind() -> str:
    """No other."""
    return "postgresql"


@pytest.fixture
def hasty(settings: Settings) -> Iterator[Database]:
    """The database, of which nobody waits for long."""
    database = Database(settings.database_url or "", busy_seconds=0.2)
    yield database
    database.close()


def enqueue(database: Database) -> str:
    with database.write() as session:
        return queue.enqueue(session, kind="train", name="x", spec="{}").id


def cut(server: Server, database: Database) -> int:
    """Kills all connections to a database; how many there were."""
    name = database.url.database
    return len(server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))


def test_a_connection_lost_between_transactions_fails_none(postgresql: Server, database: Database) -> None:
    first = enqueue(database)
    assert cut(postgresql, database)
    second = enqueue(database)
    assert cut(postgresql, database)
    with database.read() as session:
        assert [job.id for job in queue.list_jobs(session)] == [second, first]


def test_a_connection_lost_in_a_transaction_leaves_nothing_behind(postgresql: Server, database: Database) -> None:
    with pytest.raises(StoreBusy), database.write() as session:
        queue.enqueue(session, kind="train", name="x", spec="{}")
        assert cut(postgresql, database)
    with pytest.raises(StoreBusy), database.read() as session:
        queue.list_jobs(session)
        assert cut(postgresql, database)
        queue.list_jobs(session)
    with database.read() as session:
        assert queue.list_jobs(session) == []


def test_a_server_that_is_away_is_busy_and_one_that_comes_back_is_waited_for(
    postgresql: Server, settings: Settings, hasty: Database
) -> None:
    patient = Database.of(settings)
    enqueue(patient)
    postgresql.stop(mode="fast")
    starting = threading.Timer(0.5, postgresql.start)
    try:
        with pytest.raises(StoreBusy):
            hasty.probe()
    finally:
        starting.start()
    enqueue(patient)
    hasty.probe()
    starting.join()
    patient.close()


def test_a_row_that_stays_held_is_busy_not_waited_for(database: Database, hasty: Database) -> None:
    job_id = enqueue(database)
    with database.write() as session:
        queue.pause(session, job_id)
        with pytest.raises(StoreBusy, match="held"), hasty.write() as other:
            queue.cancel(other, job_id)
    with hasty.write() as session:
        assert queue.cancel(session, job_id).status == "cancelled"


@pytest.mark.parametrize("fate", ["committed", "killed before", "refused"])
def test_files_go_only_if_the_transaction_that_enters_them_failed(
    postgresql: Server, settings: Settings, database: Database, fate: str
) -> None:
    artifacts = Artifacts(settings.home)
    target = artifacts.model("mdl_1")
    enqueue(database)
    with database.write() as session:
        claim = queue.claim(session, workers.register(session, ["cpu"]))
    assert claim is not None
    with artifacts.new_directory(target) as directory:
        (directory / "weights").write_bytes(b"x")
    errors = {"committed": nullcontext(), "killed before": pytest.raises(InDoubt), "refused": pytest.raises(LostClaim)}
    with errors[fate], publishing(database, artifacts, target, claim) as session:
        queue.succeed(session, claim, {})
        if fate == "committed":
            lose_the_answer(database)
        elif fate == "killed before":
            session.flush()
            cut(postgresql, database)
        else:
            queue.held(session, Claim(claim.job_id, claim.attempt + 1))
    assert target.exists() == (fate == "committed")
    with database.read() as session:
        assert queue.find_job(session, claim.job_id).status == ("succeeded" if fate == "committed" else "running")


def lose_the_answer(database: Database) -> None:
    """The next commit is made, and the connection lost before it is heard of."""
    dialect = database.writer.dialect
    commit = dialect.do_commit

    def commit_and_lose(connection: Any) -> None:
        vars(dialect).pop("do_commit")
        commit(connection)
        connection.driver_connection.close()
        from psycopg import OperationalError  # noqa: PLC0415 - an extra

        raise OperationalError("the connection is lost")

    vars(dialect)["do_commit"] = commit_and_lose


def test_what_a_job_is_asked_of_stays_until_the_job_is_there(database: Database, hasty: Database) -> None:
    enqueue(database)
    with database.write() as session:
        claim = queue.claim(session, workers.register(session, ["cpu"]))
        assert claim is not None
        brought = datasets.create(session, name="cats", spec={}).id
        facts = {"training_images": 800, "classes": ["0", "1"], "image_size": 8}
        made = models.Publication("mdl_1", "m", "trained", brought, None, "0", 1, facts, None)
        models.publish(session, claim, made)
        queue.succeed(session, claim, {})
    spec = QuantizeSpec(kind="quantize", model="m")
    deletions: tuple[Callable[[Session], None], ...] = (
        lambda session: models.delete_model(session, "mdl_1"),
        lambda session: datasets.delete(session, brought, force=True),
    )
    with database.write() as session:
        submit(session, spec, key=None)
        for delete in deletions:
            with pytest.raises(StoreBusy, match="held"), hasty.write() as other:
                delete(other)
    for delete in deletions:
        with pytest.raises(Conflict, match="unfinished"), hasty.write() as other:
            delete(other)


MET: dict[str, type[StoreError]] = {
    "40001": StoreBusy,
    "40P01": StoreBusy,
    "53100": StorageFull,
    "53300": StoreBusy,
    "57014": StoreBusy,
    "57P01": StoreBusy,
    "25P03": StoreBusy,
    "22003": Unstorable,
}


@pytest.mark.parametrize("code", MET)
def test_what_the_server_complains_of_is_said_in_the_words_of_the_store(database: Database, code: str) -> None:
    complaint = text(f"DO $$ BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = '{code}'; END $$")
    with pytest.raises(MET[code]), database.write() as session:
        session.execute(complaint)
    database.probe()


def test_services_that_start_at_once_all_subscribe(postgresql: Server, database: Database) -> None:
    waiting = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{database.url.database}' AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            session.add(Webhook(name=deliveries.SERVICE))
            session.flush()
            other = pool.submit(deliveries.subscribe, database, wanted=True)
            wait_for(lambda: postgresql.execute(waiting))
        other.result()
    with database.read() as session:
        assert deliveries.subscribed(session)


def test_the_job_that_is_judged_is_the_one_that_is_taken(settings: Settings, database: Database) -> None:
    first, second = enqueue(database), enqueue(database)
    judged: list[Job | None] = []
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
    with database.write() as elsewhere, database.write() as session:
        # Locked, as by another worker that is just taking it.
        queue.resume(elsewhere, first)
        claim = workers.claim(
            session, worker, kinds=["train"], home=settings.home, hold=lambda _, job: judged.append(job)
        )
    assert claim == Claim(second, 1)
    assert [job.id for job in judged if job] == [second]


def test_of_two_workers_on_one_machine_the_second_knows_what_the_first_takes(
    postgresql: Server, settings: Settings, database: Database
) -> None:
    made, seen = [enqueue(database), enqueue(database)], list[str]()
    with database.write() as session:
        one, other = (workers.register(session, ["cpu"]) for _ in range(2))

    def hold(session: Session, _job: Job | None) -> None:
        seen.extend(job.id for job in queue.running(session, ["train"]))

    def claim_too() -> Claim | None:
        with database.write() as session:
            return workers.claim(session, other, kinds=["train"], home=settings.home, hold=hold)

    waiting = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{database.url.database}' AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor() as pool:
        with database.write() as session:
            first = workers.claim(session, one, kinds=["train"], home=settings.home, hold=lambda *_: None)
            session.flush()
            second = pool.submit(claim_too)
            wait_for(lambda: second.done() or postgresql.execute(waiting))
        found = second.result()
    assert [claim.job_id for claim in (first, found) if claim] == made
    assert seen == made[:1]


def test_waits_have_an_end(database: Database) -> None:
    with database.write() as session:
        for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
            assert session.scalar(text(f"SELECT setting::int FROM pg_settings WHERE name = '{name}'")) > 0, name


ASKED: dict[str, Callable[[Session, str], Job]] = {
    "cancel": queue.cancel,
    "pause": queue.pause,
    "resume": queue.resume,
    "retry": queue.retry,
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_was_read_before_the_lock_is_read_again(database: Database, asked: str) -> None:
    job_id = enqueue(database)
    with database.write() as session:
        worker = workers.register(session, ["cpu"])
    with database.write() as session:
        assert queue.find_job(session, job_id).status == "queued"
        with database.write() as other:
            claim = queue.claim(other, worker)
        assert ASKED[asked](session, job_id).status == "running"
    assert claim is not None
    with database.write() as session:
        queue.succeed(session, claim, {})


def test_of_many_requests_with_one_key_one_makes_the_job(settings: Settings) -> None:
    together = threading.Barrier(6)
    answers: list[tuple[int, str]] = []

    def ask() -> None:
        together.wait()
        answer = client.post("/v1/jobs", json=TINY_TRAINING, headers={"Idempotency-Key": "once"})
        answers.append((answer.status_code, answer.json()["id"]))

    with TestClient(create_app(settings), base_url=LOOPBACK) as client:
        threads = [threading.Thread(target=ask) for _ in range(together.parties)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(client.get("/v1/jobs").json()["items"]) == 1
    assert len(answers) == together.parties
    assert len(set(answers)) == 1
    assert answers[0][0] == 202
