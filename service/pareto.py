"""Which models of a family are worth a choice: those that no other beats in everything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.schemas import Schema
from store.tables import Model


class Contestant(Schema):
    """A model by what it costs and what it is worth; `latency_ms` is for one image."""

    model: str
    name: str
    kind: str
    parent: str | None
    validation_accuracy: float | None = None
    test_accuracy: float
    latency_ms: float | None
    bytes: int


def contestants(rows: Iterable[Model]) -> list[Contestant]:
    """Models as they compete."""
    return [
        Contestant(
            model=row.id,
            name=row.name,
            kind=row.kind,
            parent=row.parent,
            validation_accuracy=row.facts["metrics"].get("validation_accuracy"),
            test_accuracy=row.facts["metrics"]["test_accuracy"],
            latency_ms=(row.latency or {}).get("batch_1_p50"),
            bytes=row.bytes,
        )
        for row in rows
    ]


def front(items: Sequence[Contestant]) -> list[str]:
    """Ids of those that no other beats: is no worse in accuracy, latency and bytes, and better in one of them."""
    known = [item for item in items if item.latency_ms is not None]
    return [item.model for item in known if not any(_beats(other, item) for other in known)]


def _beats(one: Contestant, other: Contestant) -> bool:
    costs = [(-item.test_accuracy, item.latency_ms or 0.0, item.bytes) for item in (one, other)]
    return costs[0] != costs[1] and all(a <= b for a, b in zip(*costs, strict=True))
