"""What a training would take: seconds, memory, disk, from its first steps on this machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil

from nets.architectures import Network
from nets.datasets import Dataset
from nets.distillation import Teacher
from nets.rehearsal import Rehearsal, rehearse
from nets.training import TrainingPlan
from specs.jobs import DistillSpec, TrainSpec
from store import queue, quotes
from store.checkpoints import NEWEST_KEPT
from workers.run import Run

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
    run.enter("measuring")
    folder = run.artifacts.new_scratch()
    try:
        found = rehearse(prepared.network, prepared.data, prepared.plan, folder, teacher=prepared.teacher)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with run.database.read() as session:
        before = quotes.errors(session)
        beside = queue.count_jobs(session)["running"] - 1
    kept = NEWEST_KEPT + 1 + len(getattr(spec, "keep_epochs", ()))
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


def memory_available() -> int:
    """What a training may take: what is free, and what this process holds already."""
    return psutil.virtual_memory().available + psutil.Process().memory_info().rss


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
