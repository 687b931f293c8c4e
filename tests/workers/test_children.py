"""The process of a job, seen from the worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from store.liveness import process_runs
from store.queue import Claim
from tests.conftest import wait_for
from workers.child import Child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and groups as on POSIX")


def leave_one_behind(_claim: Claim, _words: Connection) -> None:
    """Starts a process, says which, and is killed before it can end that."""
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    sys.stdout.write(f"{left.pid}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_job_had_started_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.child.MAIN", f"{__name__}:{leave_one_behind.__name__}")
    log = tmp_path / "log"
    child = Child(multiprocessing.get_context("fork"), Claim("job_1", 1), log)
    assert child.wait(30) == -signal.SIGKILL
    left = int(log.read_text())
    assert process_runs(left)
    child.kill()
    wait_for(lambda: gone(left))


def gone(pid: int) -> bool:
    """Whether there is no such process, or only what is left of it until somebody asks how it ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
