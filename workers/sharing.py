"""Whether a training has room on this machine, its cores and its memory, beside what runs there already."""

from __future__ import annotations

from specs.cores import physical_cores
from specs.jobs import LANES, DistillSpec, TrainSpec, parse_job
from store import queue, quotes
from store.database import Session
from store.tables import Job
from store.workers import list_workers
from workers.manners import Hold
from workers.memory import free_memory

MEBIBYTE = 1024 * 1024
# What is free changes all the time, and each change of what is said of it would be written.
GRAIN = 64 * MEBIBYTE
# What any training takes: PyTorch alone is half a gigabyte. Of one that was not quoted no more is known.
LEAST = 600 * MEBIBYTE
# Before it trains, a job has not taken what it will; from then on what it takes is no longer free.
GROWING = ("starting", "loading", "reading", "decoding")


def lack_of_room(
    session: Session,
    incarnation: str,
    job: Job,
    *,
    threads: int = 0,
    cores: int | None = None,
    available: int | None = None,
) -> Hold | None:
    """Why this job may not start now; None if it fits, and always if nothing else runs on this machine.

    `threads` are those that each training is given; 0 if nobody said, when each has a core at least.
    """
    beside = _beside(session, incarnation)
    if not beside:
        return None
    if (len(beside) + 1) * max(1, threads) > (cores or physical_cores()):
        runs = "1 training runs" if len(beside) == 1 else f"{len(beside)} trainings run"
        return Hold("too_few_cores", f"{runs} on this machine, and it has no cores for another")
    free = free_memory() if available is None else available
    promised = sum(needed(session, other) for other in beside if other.phase in GROWING)
    wanted = needed(session, job)
    if wanted <= free - promised:
        return None
    left = max(0, free - promised) // GRAIN * GRAIN // MEBIBYTE
    return Hold(
        "too_little_memory",
        f"The next training takes {wanted // MEBIBYTE} MiB of memory, and beside what runs {left} MiB are free",
    )


def needed(session: Session, job: Job) -> int:
    """The bytes that a job takes at most, as it was quoted, or that it takes at least."""
    try:
        spec = parse_job(job.spec)
    except ValueError:
        return LEAST  # its own process will say what is wrong with it
    quoted = quotes.quoted_memory(session, spec) if isinstance(spec, TrainSpec | DistillSpec) else None
    return LEAST if quoted is None else quoted


def _beside(session: Session, incarnation: str) -> list[Job]:
    """Trainings that run on this worker's machine, by other workers."""
    places = {worker.incarnation: worker.place for worker in list_workers(session)}
    here = places.get(incarnation)
    return [job for job in queue.running(session, LANES[0]) if job.owner and places.get(job.owner) == here]
