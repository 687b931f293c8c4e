"""How the process of a job comes to be: forked from one that has loaded what jobs need, or afresh.

To load PyTorch and what an export takes costs three to five seconds, longer than many a small job runs. On Linux
Python's fork server does it once and each job is a fork of it, which takes some hundredths of a second and shares the
memory. A runtime of an accelerator does not outlive a fork, so where one is used every job starts afresh; and so it
does where jobs do not need PyTorch, and on other systems, whose libraries are not made for forks.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import psutil
import structlog

from store.queue import Claim
from workers.child import Child

PRELOADED = "workers.preloaded"

log = structlog.get_logger()


class Starter:
    """Starts the processes of jobs; may be used by several threads."""

    def __init__(self, *, keep_seconds: float) -> None:
        """`keep_seconds`: how long what jobs need stays loaded after the last of them; 0 for not at all."""
        self._keep_seconds = keep_seconds
        self._lock = threading.Lock()
        self._server: psutil.Process | None = None
        self._used_at = 0.0
        if self._may_fork():
            multiprocessing.set_forkserver_preload([PRELOADED])

    def start(self, claim: Claim, log_path: Path, *, fork: bool) -> Child:
        """The process of a claimed job; a fork if that is wanted and possible here."""
        if fork and self._may_fork():
            try:
                return self._fork(claim, log_path)
            except (OSError, EOFError) as error:
                log.warning("a job's process cannot be forked and starts afresh", job=claim.job_id, error=repr(error))
        return Child(multiprocessing.get_context("spawn"), claim, log_path)

    def rest(self) -> None:
        """Called now and then: gives back the memory of what is loaded if no job has needed it for so long."""
        with self._lock:
            if self._server is None or time.monotonic() - self._used_at < self._keep_seconds:
                return
            with contextlib.suppress(psutil.NoSuchProcess):
                if self._server.children():
                    self._used_at = time.monotonic()
                    return
                # The next fork finds it gone and has another one started.
                self._server.kill()
            self._server = None

    def _may_fork(self) -> bool:
        return sys.platform == "linux" and self._keep_seconds > 0

    def _fork(self, claim: Claim, log_path: Path) -> Child:
        with self._lock:
            context: BaseContext = multiprocessing.get_context("forkserver")
            child = Child(context, claim, log_path)
            self._used_at = time.monotonic()
            self._server = _server_of(child) or self._server
        return child


def _server_of(child: Child) -> psutil.Process | None:
    """The process that the child was forked from, unless one of them is gone already."""
    with contextlib.suppress(psutil.NoSuchProcess):
        server = psutil.Process(child.pid).parent()
        # A process whose parent is gone has another one, which is not ours to end.
        if server is not None and server.ppid() == os.getpid():
            return server
    return None
