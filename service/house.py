"""What the routes share: made once by the app, from its settings, when it starts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request

from service.counting import Counter
from service.figures import FigureBook
from service.predictor import Predictor
from specs.settings import Settings
from store.artifacts import Artifacts
from store.database import Database
from store.migrate import open_current
from store.workers import Watch

SWEEP_SECONDS = 2.0


class House:
    """What one running app has: the database, artifacts, the predictor, figures, and the watch over workers."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.artifacts = Artifacts(settings.home)
        self.watch = Watch(database, ttl_seconds=settings.worker_ttl_seconds)
        self.predictor = Predictor(settings, database, self.artifacts)
        self.figures = FigureBook(database, Counter())
        self.closing = asyncio.Event()


@asynccontextmanager
async def open_house(settings: Settings) -> AsyncIterator[House]:
    """A house whose database is at the newest version, swept of dead workers' jobs as long as it is open."""
    database = open_current(settings)
    stop = threading.Event()
    try:
        house = House(settings, database)
        sweeping = {"stop": stop, "interval_seconds": SWEEP_SECONDS}
        thread = threading.Thread(target=house.watch.keep_sweeping, kwargs=sweeping, name="sweep", daemon=True)
        thread.start()
        yield house
        stop.set()
        thread.join()
        await house.predictor.close()
        house.figures.close()
    finally:
        stop.set()
        database.close()


# Coroutines, although they wait for nothing: plain functions would be run in the thread pool, two hops a request.
async def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


TheHouse = Annotated[House, Depends(_house)]


async def _database(house: TheHouse) -> Database:
    return house.database


TheDatabase = Annotated[Database, Depends(_database)]
