"""Which model of a family to ask: the best by its measured figures that fits what may be spent.

Accuracy is that on validation images: whoever takes the best of several by its test accuracy reports the luck of
that one as its worth. Test accuracy is told of the one that was chosen, and chooses nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from service.pareto import Contestant, contestants
from service.problems import BadFields
from service.schemas import Chosen
from specs.problems import FieldProblem
from store import models
from store.database import Database
from store.errors import NotFound, StoreError

FIGURES_SECONDS = 1.0
MAX_FAMILIES = 1000


@dataclass(frozen=True)
class Wish:
    """What a model may cost (milliseconds for one image), and what it must be worth (validation accuracy, 0 to 1)."""

    latency_budget_ms: float | None = None
    min_accuracy: float | None = None

    def is_quick(self, item: Contestant) -> bool:
        """Whether a model is within the budget; one that was not timed is in none."""
        return self.latency_budget_ms is None or _latency(item) <= self.latency_budget_ms

    def is_good(self, item: Contestant) -> bool:
        """Whether a model is accurate enough."""
        return self.min_accuracy is None or _accuracy(item) >= self.min_accuracy

    def order(self) -> Callable[[Contestant], tuple[float | str, ...]]:
        """The best comes first: the fastest if accuracy alone was asked for, else the most accurate."""
        return _by_latency if self.latency_budget_ms is None and self.min_accuracy is not None else _by_accuracy


class NothingFits(BadFields):
    """No model of a family is as fast and as accurate as was asked for; `more` has those that come nearest."""

    def __init__(self, items: Sequence[Contestant], wish: Wish) -> None:
        quick = [item for item in items if wish.is_quick(item)]
        good = [item for item in items if wish.is_good(item)]
        fastest, best = min(good or items, key=_by_latency), min(quick or items, key=_by_accuracy)
        found: list[tuple[Contestant, FieldProblem]] = []
        if not wish.is_quick(fastest):
            found.append((fastest, _too_slow(fastest, of_good=0 < len(good) < len(items))))
        if not wish.is_good(best):
            found.append((best, _too_wrong(best, of_quick=0 < len(quick) < len(items))))
        message = "No model of this family fits; `nearest` has those that come nearest."
        super().__init__(message, [problem for _, problem in found])
        self.more = {"nearest": list({item.model: item.model_dump(mode="json") for item, _ in found}.values())}


def choose(items: Sequence[Contestant], wish: Wish) -> Chosen:
    """The best model that fits a wish; NothingFits.

    The most accurate, and of these the fastest; with a minimum of accuracy and no budget the fastest, and of these
    the most accurate.
    """
    fitting = [item for item in items if wish.is_quick(item) and wish.is_good(item)]
    if not fitting:
        raise NothingFits(items, wish)
    best = min(fitting, key=wish.order())
    return Chosen(**best.model_dump(include=set(Chosen.model_fields)), reason=_reason(wish, len(fitting), len(items)))


class Families:
    """Figures of families, read at most once a second each. Belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: dict[str, tuple[asyncio.Task[list[Contestant]], float]] = {}

    async def contestants(self, family: str) -> list[Contestant]:
        """The models of a family that may be asked; NotFound if there are none."""
        asked, until = self._asked.get(family, (None, 0.0))
        if asked is None or time.monotonic() > until:
            asked = self._ask(family)
        try:
            # Many wait for one answer: whoever leaves does not take it from the others.
            items = await asyncio.shield(asked)
        except StoreError:
            self.forget(family)
            raise
        if not items:
            self.forget(family)
            raise NotFound("family")
        return items

    def forget(self, family: str) -> None:
        """Reads the figures of a family anew: a model is gone."""
        self._asked.pop(family, None)

    def _ask(self, family: str) -> asyncio.Task[list[Contestant]]:
        if len(self._asked) >= MAX_FAMILIES:
            self._asked.clear()
        task = asyncio.create_task(run_in_threadpool(self._read, family))
        self._asked[family] = (task, time.monotonic() + FIGURES_SECONDS)
        return task

    def _read(self, family: str) -> list[Contestant]:
        with self._database.read() as session:
            return contestants(row for row in models.list_family(session, family) if row.status == "ready")


def _latency(item: Contestant) -> float:
    return math.inf if item.latency_ms is None else item.latency_ms


def _accuracy(item: Contestant) -> float:
    return -math.inf if item.validation_accuracy is None else item.validation_accuracy


def _by_latency(item: Contestant) -> tuple[float | str, ...]:
    return (_latency(item), -_accuracy(item), item.bytes, item.model)


def _by_accuracy(item: Contestant) -> tuple[float | str, ...]:
    return (-_accuracy(item), _latency(item), item.bytes, item.model)


def _reason(wish: Wish, fitting: int, count: int) -> str:
    asked = []
    if wish.latency_budget_ms is not None:
        asked.append(f"a latency of at most {wish.latency_budget_ms:g} ms")
    if wish.min_accuracy is not None:
        asked.append(f"a validation accuracy of at least {wish.min_accuracy:g}")
    which = "fastest" if wish.order() is _by_latency else "most accurate"
    if not asked:
        return f"The {which} of the family's models, of which there are {count}."
    return f"The {which} of those with {' and '.join(asked)}: {fitting} of the family's {count}."


def _too_slow(item: Contestant, *, of_good: bool) -> FieldProblem:
    which = "that is accurate enough" if of_good else "of this family"
    if item.latency_ms is None:
        message, hint = f"No model {which} has been timed.", "Leave the budget out."
    else:
        told = f"{math.ceil(1000 * item.latency_ms) / 1000:.10g} ms"  # rounded up, so that it is enough
        message, hint = f"{item.name!r}, the fastest model {which}, takes {told}.", f"Allow {told}."
    return {"pointer": "query:latency_budget_ms", "message": message, "hint": hint}


def _too_wrong(item: Contestant, *, of_quick: bool) -> FieldProblem:
    which = "that is fast enough" if of_quick else "of this family"
    if item.validation_accuracy is None:
        message, hint = f"The validation accuracy of no model {which} is known.", "Leave the minimum out."
    else:
        told = f"{math.floor(10_000 * item.validation_accuracy) / 10_000:g}"
        message = f"{item.name!r}, the most accurate model {which}, has a validation accuracy of {told}."
        hint = f"Ask for {told}."
    return {"pointer": "query:min_accuracy", "message": message, "hint": hint}
