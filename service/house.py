"""What the routes share: made once by the app, from its settings, when it starts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pkgutil import resolve_name
from typing import Annotated

import structlog
from fastapi import Depends, Request

from inference.devices import GPU, Device, Inventory
from service.choice import Families
from service.counting import Counter
from service.explainer import Explainer
from service.figures import FigureBook
from service.placing import Placing
from service.predictor import Predictor
from service.protocol.repository import Repository
from specs.settings import Settings
from store import deliveries
from store.artifacts import Artifacts
from store.database import Database
from store.errors import StoreError
from store.migrate import open_current
from store.workers import Watch

SWEEP_SECONDS = 2.0
RUNTIME_SECONDS = 0.05
# A message that is just being sent holds up no shutdown: if it was not noted that it arrived, it is sent again.
TELLING_SECONDS = 2.0

log = structlog.get_logger()


class House:
    """What one running app has: made once from its settings, and shared by its routes."""

    def __init__(self, settings: Settings, database: Database, graphics: Device = GPU) -> None:
        self.settings = settings
        self.database = database
        self.artifacts = Artifacts(settings.home)
        self.watch = Watch(database, ttl_seconds=settings.worker_ttl_seconds)
        self.inventory = Inventory()
        self.placing = Placing(settings, database, self.artifacts, graphics)
        self.predictor = Predictor(settings, database, self.placing.load)
        self.explainer = Explainer(settings, database, self.artifacts, self.predictor.turns.in_turn)
        self.repository = Repository(database, self.predictor)
        self.families = Families(database)
        self.figures = FigureBook(database, Counter())
        self.closing = asyncio.Event()


@asynccontextmanager
async def open_house(settings: Settings, graphics: Device = GPU) -> AsyncIterator[House]:
    """A house whose database is at the newest version, swept of dead workers' jobs as long as it is open.

    `graphics` are what models may be served on beside the CPU.
    """
    database = open_current(settings)
    stop = threading.Event()
    try:
        house = House(settings, database, graphics)
        sweeping = {"stop": stop, "interval_seconds": SWEEP_SECONDS}
        thread = threading.Thread(target=house.watch.keep_sweeping, kwargs=sweeping, name="sweep", daemon=True)
        thread.start()
        telling = _tell_ends(settings, database, stop)
        # When the loop is free again, which is when the app is ready.
        asyncio.get_running_loop().call_later(RUNTIME_SECONDS, house.placing.preload)
        preloading = asyncio.create_task(_preload(house))
        yield house
        preloading.cancel()
        stop.set()
        thread.join()
        if telling is not None:
            telling.join(TELLING_SECONDS)
        house.explainer.close()
        await house.predictor.close()
        house.figures.close()
    finally:
        stop.set()
        database.close()


def _tell_ends(settings: Settings, database: Database, stop: threading.Event) -> threading.Thread | None:
    """Has ends of jobs told on a thread of its own, if the settings say where; if not, none are written down for it."""
    with suppress(StoreError):
        deliveries.subscribe(database, wanted=settings.webhook_url is not None)
    if settings.webhook_url is None:
        return None
    # Loaded here: most services tell nobody, and an HTTP client takes a tenth of a second.
    messenger = resolve_name("service.webhooks:messenger_of")(settings, database)
    thread = threading.Thread(target=messenger.run, args=(stop,), name="webhooks", daemon=True)
    thread.start()
    return thread


async def _preload(house: House) -> None:
    """Has the models of the settings in memory, one after the other, while requests are answered already."""
    for reference in house.settings.preload:
        try:
            await house.predictor.load(reference, pin=True)
        except Exception as error:  # one that cannot be loaded holds up neither the others nor the service
            log.warning("a model could not be loaded at start", model=reference, error=str(error))


def house_of(request: Request) -> House:
    """The house of the app that was asked."""
    house: House = request.app.state.house
    return house


# Coroutines, although they wait for nothing: plain functions would be run in the thread pool, two hops a request.
async def _house(request: Request) -> House:
    return house_of(request)


TheHouse = Annotated[House, Depends(_house)]


async def _database(house: TheHouse) -> Database:
    return house.database


TheDatabase = Annotated[Database, Depends(_database)]
