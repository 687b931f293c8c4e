"""What workers found out about the devices they train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from specs.devices import Finding
from store.tables import Worker


def enter_findings(session: Session, incarnation: str, findings: Sequence[Finding]) -> None:
    """Enters what a worker found out."""
    worker = session.get(Worker, incarnation, with_for_update=True)
    if worker is not None:
        worker.findings = [finding.model_dump(mode="json") for finding in findings]


def findings_of(workers: Sequence[Worker]) -> list[Finding]:
    """The findings of these workers; one that several share stands there once."""
    found: list[Any] = []
    for worker in workers:
        found += [item for item in worker.findings or [] if item not in found]
    return [Finding.model_validate(item) for item in found]
