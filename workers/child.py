"""The process of a job, seen from the worker: start it, ask it to stop, kill it with all it started.

The process reads a pipe: the word `stop`, with why, asks for a checkpoint and an end; its closing means that the worker
is gone, and the process ends at once. That needs no signals, so it works the same on Windows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

import psutil

from specs.cores import physical_cores
from specs.settings import Settings
from store.queue import Claim
from workers.memory import RecentKills

KILL_SECONDS = 5.0
KILLED = 9  # by SIGKILL, which Windows has no name for
STOP = b"stop"
SHUT_DOWN = "The worker was shut down"
# Exit codes of a job's process that could not write its own end; the worker tries until it can.
STORE_FAILED = 4
NO_ROOM = 5
# Looked up by name, so that the worker holds nothing of what jobs need.
MAIN = "workers.job:main"
# As `ps` and `top` show the process on Linux.
TITLE = "pruneyard-job"
# Each step of a training takes and gives back the same large tensors. glibc hands such memory to the system and has it
# filled with zeros anew, page by page, which costs memory-bound networks a seventh to a third of their speed. So the
# process keeps what it has, in large pages where the system has them; it is all given back when the job ends.
# Other allocators do not read this. (GNU C Library manual, Memory Allocation Tunables)
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"
}


class Stop(threading.Event):
    """Set when the job is to write a checkpoint and end; `why` as it was asked."""

    why = SHUT_DOWN


class Child:
    """A running process of a job."""

    def __init__(self, context: BaseContext, claim: Claim, log_path: Path) -> None:
        """Starts it; what it prints is added to the log. OSError or EOFError if it cannot be started in this way."""
        self._oom_kills = RecentKills()
        words, self._words = context.Pipe(duplex=False)
        # Typeshed knows the contexts' processes by their several classes only.
        self._process = cast(Any, context).Process(target=_begin, args=(claim, str(log_path), words))
        try:
            self._process.start()
        except BaseException:
            self._words.close()
            raise
        finally:
            words.close()
        self.pid: int = self._process.pid
        self._family = _process_of(self.pid)

    @property
    def code(self) -> int | None:
        """The exit code (negative: the signal that killed it), or None while it runs."""
        code: int | None = self._process.exitcode
        return code

    @property
    def starved(self) -> bool:
        """Whether it died as processes do that the system kills for want of memory, and it killed one lately."""
        return self.code == -KILLED and self._oom_kills.any()

    def wait(self, seconds: float) -> int | None:
        """Waits for its end for so long; its exit code, or None."""
        self._oom_kills.look()
        self._process.join(seconds)
        return self.code

    def ask_to_stop(self, why: str = SHUT_DOWN) -> None:
        """Asks for a checkpoint and an end; `why` begins the sentence that the job goes back to the queue with."""
        with contextlib.suppress(OSError):
            self._words.send_bytes(STOP + b" " + why.encode())

    def kill(self) -> None:
        """Kills it and whatever it started, and waits for their end."""
        family = self._members()
        if sys.platform != "win32":
            # If it is gone itself, nobody can tell any more whose children those were that it has left, but their group
            # has its number still. Until it leads a group of its own there is none.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=KILL_SECONDS)
        self._process.join()
        self._words.close()

    def _members(self) -> list[psutil.Process]:
        """It and whatever it started, as long as it is there."""
        if self._family is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                return [*self._family.children(recursive=True), self._family]
        return []


def job_environment(settings: Settings) -> dict[str, str]:
    """Variables of the worker that the processes of jobs go by; what the environment says of memory goes before."""
    threads = settings.training_threads or physical_cores()
    return {
        **{name: os.environ.get(name, value) for name, value in KEEP_MEMORY.items()},
        # What torch.compile makes stays among what is ours, and torch pickles none of it.
        "TORCHINDUCTOR_CACHE_DIR": str(settings.home.absolute() / "compiled"),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
        # Each thread of the compiler would be a process that holds torch.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "PRUNEYARD_HOME": str(settings.home.absolute()),
        "OMP_NUM_THREADS": str(threads),
        # NumPy's own threads would do next to nothing, and be there when the process is forked.
        "OPENBLAS_NUM_THREADS": "1",
    }


def _process_of(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _begin(claim: Claim, log_path: str, words: Connection) -> None:
    """What the process runs."""
    # A system that shuts down tells every process at once: only the worker listens, who then asks the job, and whatever
    # the job has started goes on until it has written its checkpoint. So with Ctrl-C in a terminal.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        os.setsid()
    _print_to(log_path)
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(TITLE, "ascii")
    sys.exit(resolve_name(MAIN)(claim, words))


def _print_to(log_path: str) -> None:
    """From now on whatever this process prints, torch's own code too, goes to the end of the log at once."""
    log_file = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log_file, stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.close(log_file)
