"""What a training would take: seconds, memory, disk, from its first steps on this machine."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import psutil
import structlog

from nets import normalisation
from nets.architectures import Network
from nets.datasets import Dataset
from nets.distillation import Teacher
from nets.memory import footprint
from nets.rehearsal import Rehearsal, rehearse
from nets.training import TrainingPlan
from specs.jobs import DistillSpec, TrainSpec
from store import queue, quotes
from store.checkpoints import NEWEST_KEPT
from workers.memory import Need
from workers.plans import dense_epochs
from workers.run import Run

log = structlog.get_logger()

# Fewer say too little about a machine.
ENOUGH = 3
# As long as nothing is known about how far off quotes are here.
LOW, HIGH = 0.8, 1.25


@dataclass(frozen=True)
class Prepared:
    """A training that is about to begin."""

    network: Network
    data: Dataset
    plan: TrainingPlan
    teacher: Teacher | None = None


def quote_training(run: Run, spec: TrainSpec | DistillSpec, prepared: Prepared, *, available: int) -> dict[str, Any]:
    """The result of a quote job; `available` is the memory in bytes that was free before anything was loaded."""
    foresee(run, prepared)
    run.enter("measuring")
    folder = run.artifacts.new_scratch()
    try:
        found = rehearse(
            prepared.network, prepared.data, prepared.plan, folder, teacher=prepared.teacher, told=run.on_work
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with run.database.read() as session:
        before = quotes.errors(session)
        beside = queue.count_jobs(session)["running"] - 1
    # The best; where there are two newer ones within an epoch, that of the epoch before; and what a report needs.
    others = 1 + (median(found.epochs) > run.settings.checkpoint_seconds)
    kept = NEWEST_KEPT + others + (len(dense_epochs(spec) | {*spec.keep_epochs}) if isinstance(spec, TrainSpec) else 0)
    disk, free = kept * found.checkpoint, shutil.disk_usage(run.settings.home).free
    return {
        "of": quotes.key_of(spec),
        **_seconds(found, before, epochs=spec.epochs),
        "peak_memory_bytes": found.memory,
        "available_memory_bytes": available,
        "disk_bytes": disk,
        "free_disk_bytes": free,
        "fits": found.memory <= available and disk <= free,
        "jobs_beside": beside,
        "training_images": len(prepared.data.train),
    }


def foresee(run: Run, prepared: Prepared, *, field: str = "batch_size") -> None:
    """Writes down what memory a training will hold, for what is said should it come to want; `field` of its spec."""
    plan, network = prepared.plan, prepared.network
    try:
        found = footprint(network, prepared.data, averaged=plan.ema_decay is not None)
    except RuntimeError as error:
        # An architecture of another package may do what tensors without content cannot; it trains all the same.
        log.info("the memory of a training cannot be reckoned", error=str(error))
        return
    least = 2 if normalisation.normalises(network) and not plan.frozen else 1
    held = psutil.Process().memory_info().rss
    need = Need(held=held, **asdict(found), batch_size=plan.batch_size, least=least, field=field)
    with run.database.write() as session:
        queue.foresee(session, run.claim, asdict(need))


def _seconds(found: Rehearsal, before: list[float], *, epochs: int) -> dict[str, Any]:
    """An epoch's and all epochs' seconds, corrected by how far off earlier quotes were, with the interval they span."""
    known = len(before) >= ENOUGH
    factor, low, high = (median(before), min(before), max(before)) if known else (1.0, LOW, HIGH)
    measured = median(found.epochs)
    whole = epochs * (measured + found.saving)
    return {
        "epochs": epochs,
        "measured_seconds_per_epoch": measured,
        "seconds_per_epoch": round(factor * measured, 4),
        "seconds": round(factor * whole, 2),
        "seconds_low": round(min(low, factor) * whole, 2),
        "seconds_high": round(max(high, factor) * whole, 2),
        "corrected_by": len(before) if known else 0,
    }
