"""Parameters and multiply-accumulates of networks that nobody has trained yet, for the catalogue.

They are counted on the network itself, which takes torch, and this process has none. So a helper process counts, it is
started for what has not been counted before, and each answer is kept in the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from fastapi import HTTPException

from service.counting import Counter, CounterBusy, CounterFailed
from specs.networks.base import NetworkOptions
from store.database import Database
from store.errors import StoreError
from store.figures import find_figures, keep_figures

DEFAULT_CLASSES = 10
DEFAULT_CHANNELS = 3
DEFAULT_IMAGE_SIZE = 32
MAX_WAITING = 4
RETRY_SECONDS = 5

log = structlog.get_logger()


class Counted(NamedTuple):
    """What a network costs: parameters, and multiply-accumulates of one image."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class Question:
    """A network with all that its figures depend on; `image_size` is the side of an image in pixels."""

    options: NetworkOptions
    classes: int
    channels: int
    image_size: int

    @classmethod
    def of_defaults(cls, options: NetworkOptions) -> Question:
        """The size that is asked for where none is given: small colour images, or the least the network takes."""
        size = max(DEFAULT_IMAGE_SIZE, options.least_image_size())
        return cls(options, DEFAULT_CLASSES, DEFAULT_CHANNELS, size)

    def to_json(self) -> dict[str, Any]:
        """As the helper takes it."""
        return {
            "architecture": self.options.model_dump(mode="json"),
            "classes": self.classes,
            "channels": self.channels,
            "image_size": self.image_size,
        }

    @cached_property
    def key(self) -> str:
        """A SHA-256 over the question and the code that would answer it, in hexadecimal."""
        parts = {**self.to_json(), "code": _version_of_counting()}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class TooManyQuestions(HTTPException):
    """More figures are asked for than can be counted soon."""

    def __init__(self) -> None:
        detail = "The figures of other networks are being counted. Ask again in a few seconds."
        super().__init__(503, detail, {"Retry-After": str(RETRY_SECONDS)})


class CannotCount(HTTPException):
    """The figures of a network could not be counted, or not in time."""

    def __init__(self) -> None:
        detail = "The figures of this network could not be counted; the log of the service says why."
        super().__init__(503, detail, {"Retry-After": str(RETRY_SECONDS)})


class FigureBook:
    """Figures from the database, or counted and then kept there; safe to use from several threads."""

    def __init__(self, database: Database, counter: Counter) -> None:
        self._database = database
        self._counter = counter
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._background: threading.Thread | None = None
        self._background_lock = threading.Lock()
        self._failed: set[str] = set()
        self._closing = threading.Event()

    def known(self, questions: Sequence[Question]) -> list[Counted | None]:
        """The figures that have been counted already, and None for others, which begin to be counted."""
        kept = self._kept(questions)
        missing = [question for question in questions if question.key not in kept.keys() | self._failed]
        self._count_in_background(missing)
        return [kept.get(question.key) for question in questions]

    def count(self, question: Question) -> Counted:
        """The figures; TooManyQuestions if too many wait already, CannotCount if they cannot be had."""
        kept = self._kept([question]).get(question.key)
        if kept is not None:
            return kept
        if not self._waiting.acquire(blocking=False):
            raise TooManyQuestions
        try:
            return self._count(question)
        except CounterBusy:
            raise TooManyQuestions from None
        except CounterFailed as error:
            _warn(question, error)
            raise CannotCount from error
        finally:
            self._waiting.release()

    def close(self) -> None:
        """Ends the helper and whatever waits for it."""
        self._closing.set()
        self._counter.close()
        with self._background_lock:
            if self._background is not None:
                self._background.join()

    def _kept(self, questions: Sequence[Question]) -> dict[str, Counted]:
        with self._database.read() as session:
            rows = find_figures(session, [question.key for question in questions])
        return {key: Counted(row.parameters, row.macs) for key, row in rows.items()}

    def _count(self, question: Question) -> Counted:
        counted = Counted(**self._counter.ask(question.to_json()))
        # What cannot be kept now is counted again another time.
        with contextlib.suppress(StoreError), self._database.write() as session:
            keep_figures(session, question.key, parameters=counted.parameters, macs=counted.macs)
        return counted

    def _count_in_background(self, questions: Sequence[Question]) -> None:
        with self._background_lock:
            busy = self._background is not None and self._background.is_alive()
            if questions and not busy and not self._closing.is_set():
                self._background = threading.Thread(target=self._count_all, args=(questions,), name="figures")
                self._background.start()

    def _count_all(self, questions: Sequence[Question]) -> None:
        for question in questions:
            try:
                self._count(question)
            except CounterBusy:
                return  # whoever lists the networks next begins anew
            except CounterFailed as error:
                if self._closing.is_set():
                    return
                self._failed.add(question.key)
                _warn(question, error)


def _warn(question: Question, error: CounterFailed) -> None:
    log.warning("figures could not be counted", architecture=question.options.name, error=str(error))


@cache
def _version_of_counting() -> str:
    """Changes with the code that builds and counts networks: ours by its text, other packages' by their versions."""
    digest = hashlib.sha256()
    spec = find_spec("nets")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    for point in entry_points(group="pruneyard.architectures"):
        digest.update(f"{point.name} {point.value} {point.dist and point.dist.version}".encode())
    return digest.hexdigest()
