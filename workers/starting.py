"""How the process of a job comes to be: forked from one that has loaded what jobs need, or afresh.

To load PyTorch and what an export takes costs three to five seconds, longer than many a small job runs; what reading a
data set takes costs one. On Linux a fork server does each once, and each job is a fork of it, which takes some
hundredths of a second and shares the memory. A runtime of an accelerator does not outlive a fork, so where one is used
every job with PyTorch starts afresh; and so do all on other systems, whose libraries are not made for forks.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from pathlib import Path

import psutil
import structlog

from store.queue import Claim
from workers.child import Child

PRELOADED = "workers.preloaded"
PRELOADED_TO_READ = "workers.preloaded_to_read"

log = structlog.get_logger()


class Starter:
    """Starts the processes of jobs; may be used by several threads."""

    def __init__(self, *, keep_seconds: float) -> None:
        """`keep_seconds`: how long what jobs need stays loaded after the last of them; 0 for not at all."""
        self._keep_seconds = keep_seconds
        may_fork = sys.platform == "linux" and keep_seconds > 0
        self._servers = {name: Server(name) for name in (PRELOADED, PRELOADED_TO_READ) if may_fork}

    def start(self, claim: Claim, log_path: Path, *, fork: str | None) -> Child:
        """The process of a claimed job; a fork of one that has loaded this module if that is possible here."""
        if fork in self._servers:
            try:
                return self._servers[fork].fork(claim, log_path)
            except (OSError, EOFError) as error:
                log.warning("a job's process cannot be forked and starts afresh", job=claim.job_id, error=repr(error))
        return Child(multiprocessing.get_context("spawn"), claim, log_path)

    def rest(self) -> None:
        """Called now and then: gives back the memory of what is loaded if no job has needed it for so long."""
        for server in self._servers.values():
            server.rest(after=self._keep_seconds)


class Server:
    """A fork server. Python has one a process, started when it is first needed; this is one beside others."""

    _connecting = threading.Lock()

    def __init__(self, preloaded: str) -> None:
        self._server = forkserver.ForkServer()
        self._server.set_forkserver_preload([preloaded])
        self._lock = threading.Lock()
        self._process: psutil.Process | None = None
        self._used_at = 0.0

    def fork(self, claim: Claim, log_path: Path) -> Child:
        """The process of a claimed job; OSError or EOFError if it cannot be forked."""
        with self._lock, self._in_place_of_pythons():
            child = Child(multiprocessing.get_context("forkserver"), claim, log_path)
            self._used_at = time.monotonic()
            self._process = _server_of(child) or self._process
        return child

    @contextlib.contextmanager
    def _in_place_of_pythons(self) -> Iterator[None]:
        """The next process is forked from this server; others may be once it was asked, since it may load for long."""
        with contextlib.ExitStack() as until_asked:
            until_asked.enter_context(self._connecting)
            until_asked.callback(setattr, forkserver, "connect_to_new_process", forkserver.connect_to_new_process)

            def connect(fds: Sequence[int]) -> tuple[int, int]:
                until_asked.close()
                return self._server.connect_to_new_process(fds)

            forkserver.connect_to_new_process = connect
            yield

    def rest(self, *, after: float) -> None:
        """Ends it if no job has needed it for so long."""
        with self._lock:
            if self._process is None or time.monotonic() - self._used_at < after:
                return
            with contextlib.suppress(psutil.NoSuchProcess):
                if self._process.children():
                    self._used_at = time.monotonic()
                    return
                # The next fork finds it gone and has another one started.
                self._process.kill()
            self._process = None


def _server_of(child: Child) -> psutil.Process | None:
    """The process that the child was forked from, unless one of them is gone already."""
    with contextlib.suppress(psutil.NoSuchProcess):
        server = psutil.Process(child.pid).parent()
        # A process whose parent is gone has another one, which is not ours to end.
        if server is not None and server.ppid() == os.getpid():
            return server
    return None
