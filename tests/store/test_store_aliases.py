"""Aliases: moved, moved back, and what is remembered of it."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from sqlalchemy import text

from store import aliases, models, queue
from store.database import Database
from store.errors import Conflict, NotFound
from store.migrate import downgrade, migrate
from store.tables import Model


def add_model(database: Database, name: str) -> str:
    """The id of a new model of this name."""
    with database.write() as session:
        job = queue.enqueue(session, kind="train", name=name, spec="{}")
        made = Model(id=f"mdl_{name}", name=name, kind="trained", status="ready", job_id=job.id)
        made.dataset, made.family, made.weights_sha256, made.bytes, made.facts = "ds_digits", f"fam_{name}", "0", 1, {}
        session.add(made)
    return made.id


def point(database: Database, *names: str) -> None:
    for name in names:
        with database.write() as session:
            aliases.set_alias(session, "prod", name)


def back(database: Database) -> str:
    with database.write() as session:
        return aliases.roll_back(session, "prod")[1]


def history(database: Database) -> list[tuple[str, str | None]]:
    with database.read() as session:
        return [(move.action, move.model_name) for move, _ in aliases.list_moves(session, "prod")]


@pytest.fixture
def abcd(database: Database) -> Database:
    """A database with the models a, b, c and d."""
    for name in "abcd":
        add_model(database, name)
    return database


def test_rolling_back_goes_further_back_each_time(abcd: Database) -> None:
    point(abcd, "a", "b", "c")
    assert [back(abcd), back(abcd)] == ["b", "a"]
    with pytest.raises(Conflict, match="no other model"):
        back(abcd)
    point(abcd, "d")
    assert back(abcd) == "a", "what was rolled back is not come back to"
    with pytest.raises(Conflict):
        back(abcd)
    done = [("set", "a"), ("set", "b"), ("set", "c"), ("rollback", "b"), ("rollback", "a"), ("set", "d")]
    assert history(abcd) == [*done, ("rollback", "a")][::-1]


def test_pointing_where_it_points_is_no_move(abcd: Database) -> None:
    point(abcd, "a", "b")
    with abcd.read() as session:
        before = aliases.find_alias(session, "prod")[0].updated_at
    point(abcd, "b", "b")
    with abcd.read() as session:
        assert aliases.find_alias(session, "prod")[0].updated_at == before
    assert history(abcd) == [("set", "b"), ("set", "a")]
    assert back(abcd) == "a"


def test_deleted_models_are_passed_over_and_remembered(abcd: Database) -> None:
    point(abcd, "a", "b", "a", "c", "a")
    for name in ("c", "b"):
        with abcd.write() as session:
            models.delete_model(session, f"mdl_{name}")
    with pytest.raises(Conflict, match=r"'c' \(mdl_c\)"):
        back(abcd)
    point(abcd, "d")
    assert back(abcd) == "a"
    with abcd.read() as session:
        found = [(move.model_id, there) for move, there in aliases.list_moves(session, "prod")]
    names = ("a", "d", "a", "c", "a", "b", "a")
    assert found == [(f"mdl_{name}", name in {"a", "d"}) for name in names]


def test_a_removed_alias_keeps_its_history(abcd: Database) -> None:
    with abcd.read() as session, pytest.raises(NotFound):
        aliases.list_moves(session, "prod")
    point(abcd, "a")
    with abcd.write() as session:
        aliases.delete_alias(session, "prod")
    with pytest.raises(NotFound):
        back(abcd)
    assert history(abcd) == [("remove", None), ("set", "a")]
    point(abcd, "b")
    assert back(abcd) == "a"


def test_history_is_read_in_parts(abcd: Database) -> None:
    point(abcd, *"abcabc")
    with abcd.read() as session:
        first = aliases.list_moves(session, "prod", limit=4)
        rest = aliases.list_moves(session, "prod", before=first[-1][0].number, limit=4)
        assert [move.model_name for move, _ in first + rest] == list("cbacba")
        assert aliases.list_moves(session, "prod", before=rest[-1][0].number) == []


def test_whoever_moves_an_alias_at_the_same_time_moves_it_in_turn(abcd: Database) -> None:
    errors: list[BaseException] = []
    together = threading.Barrier(4)

    def move(name: str) -> None:
        own = Database(abcd.url)
        together.wait()
        try:
            for turn in range(10):
                with own.write() as session:
                    aliases.set_alias(session, "prod", name if turn % 3 else "a")
        except BaseException as error:
            errors.append(error)
        own.close()

    threads = [threading.Thread(target=move, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    names = [name for _, name in history(abcd)]
    assert all(one != other for one, other in pairwise(names)), "each entry is a move"
    with abcd.read() as session:
        assert aliases.find_alias(session, "prod")[1] == names[0]


def test_aliases_that_are_there_begin_their_history_with_where_they_point(abcd: Database) -> None:
    point(abcd, "a", "b")
    with abcd.read() as session:
        moved = aliases.find_alias(session, "prod")[0].updated_at
    downgrade(abcd, "0004")
    with abcd.writer.begin() as connection:
        assert connection.execute(text("SELECT alias, model_id FROM aliases")).all() == [("prod", "mdl_b")]
    migrate(abcd)
    with abcd.read() as session:
        ((move, there),) = aliases.list_moves(session, "prod")
    assert (move.action, move.model_id, move.model_name, move.at, there) == ("set", "mdl_b", "b", moved, True)
    with pytest.raises(Conflict):
        back(abcd)
    point(abcd, "c")
    assert back(abcd) == "b"
