"""The child process of a job, seen from the worker: start it, ask it to stop, kill it with all it started.

The child reads its standard input: the line `stop` asks for a checkpoint and an end; its closing means that the
worker is gone, and the child ends at once. That needs no signals, so it works the same on Windows.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil

from specs.settings import Settings
from store.liveness import own_group
from store.queue import Claim

KILL_SECONDS = 5.0
# Each step of a training takes and gives back the same large tensors. glibc hands such memory to the system and has it
# filled with zeros anew, page by page, which costs memory-bound networks a seventh to a third of their speed. So the
# process keeps what it has, in large pages where the system has them; it is all given back when the job ends.
# Other allocators do not read this. (GNU C Library manual, Memory Allocation Tunables)
KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"
}


class Child:
    """A running child process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def start(cls, settings: Settings, claim: Claim, log_path: Path) -> Child:
        """Starts the process of a claimed job; what it prints is added to the log."""
        with log_path.open("ab") as log_file:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.job", claim.job_id, str(claim.attempt)],
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                env=_environment(settings),
                # Ctrl-C in a terminal reaches the worker only, who then asks the child.
                **own_group(),
            )
        return cls(process)

    @property
    def code(self) -> int | None:
        """The exit code (negative: the signal that killed it), or None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Waits for its end for so long; its exit code, or None."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_stop(self) -> None:
        """Asks for a checkpoint and an end."""
        pipe = self._process.stdin
        if pipe is not None:
            with contextlib.suppress(OSError, ValueError):
                pipe.write(b"stop\n")
                pipe.flush()

    def kill(self) -> None:
        """Kills it and whatever it started, and waits for their end."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            family = [*process.children(recursive=True), process]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family[:-1], timeout=KILL_SECONDS)
        self._process.wait()


def _environment(settings: Settings) -> dict[str, str]:
    threads = settings.training_threads or psutil.cpu_count(logical=False) or 1
    return {
        **KEEP_MEMORY,
        **os.environ,
        # What torch.compile makes stays among what is ours, and torch pickles none of it.
        "TORCHINDUCTOR_CACHE_DIR": str(settings.home.absolute() / "compiled"),
        "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
        # Each thread of the compiler would be a process that holds torch.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "PRUNEYARD_HOME": str(settings.home.absolute()),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
