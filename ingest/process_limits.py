"""Bounds that a process sets itself before it reads what came from outside; it cannot raise them again.

They are the last line: limits on archives and images come first, and say better what is wrong. What is left to these
is a fault in a library that decodes. Linux has them all; macOS does not hold the one on memory; Windows has none.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType

import psutil

if sys.platform != "win32":
    import resource

GIBIBYTE = 1024 * 1024 * 1024
DEFAULT_MEMORY_BYTES = 4 * GIBIBYTE
DEFAULT_FILE_BYTES = 64 * GIBIBYTE
DEFAULT_CPU_SECONDS = 3600.0
# What a process gets to end by itself once its time is up.
GRACE_SECONDS = 30


class OutOfTime(Exception):
    """The process has used up the processor time it was given."""


def limit_this_process(
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    file_bytes: int = DEFAULT_FILE_BYTES,
    cpu_seconds: float = DEFAULT_CPU_SECONDS,
) -> None:
    """Bounds what this process and its children may take from now on.

    `memory_bytes` is address space on top of what is mapped already: libraries and the stacks of their threads take
    hundreds of megabytes of it before anything is read, and how much depends on the number of cores. Beyond it there
    is a MemoryError. `file_bytes` bounds each file: OSError (EFBIG). After `cpu_seconds` of processor time, of all
    threads together, the main thread gets OutOfTime; if it does not end, the system ends it half a minute later.
    """
    if sys.platform == "win32":
        return
    _lower(resource.RLIMIT_AS, psutil.Process().memory_info().vms + memory_bytes)
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGXCPU, _end)
    used = int(time.process_time() + cpu_seconds) + 1
    _lower(resource.RLIMIT_CPU, used, hard=used + GRACE_SECONDS)


def _lower(kind: int, soft: int, *, hard: int | None = None) -> None:
    """Sets a limit unless a lower one holds already; macOS refuses some, and goes without."""
    if sys.platform == "win32":
        return
    _, present = resource.getrlimit(kind)
    limits = [limit if present == resource.RLIM_INFINITY else min(limit, present) for limit in (soft, hard or soft)]
    try:
        resource.setrlimit(kind, (limits[0], limits[1]))
    except (ValueError, OSError):
        if sys.platform != "darwin":
            raise


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime("The processor time for this is used up.")
