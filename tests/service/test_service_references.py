"""What references mean is asked of the database beside requests, not once for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from service import references
from service.references import References
from specs.settings import Settings
from store.database import Database
from store.errors import NotFound


@contextmanager
def counted() -> Iterator[list[str]]:
    """Every statement that any database is asked meanwhile."""
    asked: list[str] = []

    def note(*arguments: object) -> None:
        asked.append(str(arguments[2]))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def trained(trained_settings: Settings) -> Iterator[Database]:
    database = Database.of(trained_settings)
    yield database
    database.close()


def looks(asked: list[str]) -> int:
    """How often a name was looked up, which is the last of what a reference may be."""
    return sum("WHERE models.name" in statement for statement in asked)


def test_many_who_ask_at_once_share_a_look(trained: Database) -> None:
    async def ask() -> set[str]:
        with ThreadPoolExecutor(2) as executor:
            known = References(trained, executor)
            found = await asyncio.gather(*(known.find("tiny") for _ in range(50)))
            return set(found)

    with counted() as asked:
        assert len(asyncio.run(ask())) == 1
    assert looks(asked) == 1


def test_one_who_goes_takes_the_answer_from_nobody(trained: Database) -> None:
    async def ask() -> None:
        with ThreadPoolExecutor(1) as executor:
            known = References(trained, executor)
            first, second = (asyncio.create_task(known.find("tiny")) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            assert await second

    asyncio.run(ask())


def test_who_asks_all_the_time_never_waits(trained: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(references, "time", SimpleNamespace(monotonic=lambda: clock.now))

    async def ask() -> None:
        with ThreadPoolExecutor(1) as executor:
            known = References(trained, executor)
            await known.find("tiny")
            for _ in range(5):
                clock.now += 0.6 * references.SECONDS
                held = threading.Event()
                executor.submit(held.wait)  # so that no look can end
                asking = asyncio.ensure_future(known.find("tiny"))
                await asyncio.sleep(0)
                answered = asking.done()
                held.set()
                assert answered
                await asyncio.wrap_future(executor.submit(int))
                await asyncio.sleep(0.01)

    with counted() as asked:
        asyncio.run(ask())
    assert looks(asked) == 6, "it is looked up again beside each of them"


def test_what_is_not_there_is_asked_for_again(trained: Database) -> None:
    async def ask() -> None:
        with ThreadPoolExecutor(1) as executor:
            known = References(trained, executor)
            for _ in range(2):
                with pytest.raises(NotFound):
                    await known.find("nowhere")

    with counted() as asked:
        asyncio.run(ask())
    assert looks(asked) == 2
