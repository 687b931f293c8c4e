"""How many cores a process may use, which is not how many there are."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

# What a container of one, two or 1.5 cores says of itself (Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max).
CONTAINER_SHARE = Path("/sys/fs/cgroup/cpu.max")


def physical_cores(share: Path = CONTAINER_SHARE) -> int:
    """Physical cores that this process may use, at least one.

    Fewer than the machine has where it was started on some of them (`taskset`, `docker run --cpuset-cpus`) or its
    container has a share of time (`--cpus`): threads that wait for each other on too few cores are many times slower
    than one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = _granted(share)
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed, allowed if granted is None else granted))


def _granted(share: Path) -> int | None:
    """Whole cores' worth of time that a container is given, or None where there is no limit."""
    try:
        quota, period = share.read_text("ascii").split()
        return int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
        return None
