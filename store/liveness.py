"""Processes of this machine: whether they are alive, and how those that one starts are set apart from it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

CREATED_TOLERANCE_SECONDS = 2.0
POLL_SECONDS = 0.5


def this_place() -> str:
    """Names the set of processes among which a process id means the same process: machine, boot, namespace."""
    return "/".join((platform.node(), _read_boot_id(), _read_namespace()))[:200]


def _read_boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return str(int(psutil.boot_time()) // 60)


def _read_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "-"


def started(pid: int) -> float:
    """When a process was started, in seconds of a clock of this place that nobody sets; NoSuchProcess of psutil.

    On Linux psutil tells the time since 1970, by the clock as it is set now: another number each time that it is set.
    """
    process = psutil.Process(pid)
    if sys.platform != "linux":
        return process.create_time()
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error
    # Clock ticks since the start of the machine: proc(5), the 22nd field, of which two come before these.
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def process_runs(pid: int, *, created: float | None = None) -> bool:
    """Whether this process runs; with what `started` said, only if it is not a later one of the same id."""
    try:
        same = created is None or abs(started(pid) - created) < CREATED_TOLERANCE_SECONDS
        return same and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def own_group() -> dict[str, Any]:
    """Arguments for subprocess.Popen: a process group of its own, which signals of the terminal do not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def when_gone(pid: int, action: Callable[[], None]) -> threading.Thread:
    """Calls `action`, on a thread of its own, once process `pid` is gone."""

    def watch() -> None:
        pause = threading.Event()
        while process_runs(pid):
            pause.wait(POLL_SECONDS)
        action()

    thread = threading.Thread(target=watch, name="parent-watch", daemon=True)
    thread.start()
    return thread
