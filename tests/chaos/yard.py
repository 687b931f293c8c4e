"""A service whose processes are killed and started again, as a supervisor would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any, Self

import httpx
import psutil
import pytest

from specs.settings import Settings
from store.artifacts import Artifacts
from store.database import Database
from tests.conftest import ONE_THREAD, jobs_of, wait_for
from workers.consumer import Consumer

ENDED = {"succeeded", "failed", "cancelled"}
VICTIMS = ("job", "api", "job", "worker")


class Yard:
    """An API and workers on one data folder; use as a context manager."""

    def __init__(self, settings: Settings, *, workers: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._log = settings.home / "chaos.log"
        self._environment = {
            **os.environ,
            **ONE_THREAD,
            "PRUNEYARD_HOME": str(settings.home),
            "PRUNEYARD_PORT": str(port),
        }
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)
        self._names = ("service", *(f"workers {number}" for number in range(workers)))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.revive()
        wait_for(lambda: self.ask("/readyz"), seconds=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(60)
            finally:
                process.kill()

    def revive(self) -> None:
        """Starts whatever does not run."""
        for name in self._names:
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                with self._log.open("ab") as log:
                    command = [sys.executable, "-m", name.split()[0]]
                    self._processes[name] = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def workers(self) -> list[subprocess.Popen[bytes]]:
        """The workers' processes."""
        return [process for name, process in self._processes.items() if name.startswith("workers")]

    def ask(self, path: str, *, post: Any = None, key: str = "") -> Any:
        """What the service answers; None if it is not there, or is just not able to."""
        with suppress(httpx.TransportError):
            if post is None:
                answer = self.http.get(path, params={"limit": 500})
            else:
                answer = self.http.post(path, json=post, headers={"Idempotency-Key": key} if key else {})
            if answer.status_code < 500:
                return answer.raise_for_status().json()
        return None

    def certainly(self, path: str, *, post: Any = None, key: str = "") -> Any:
        """The same, asked again until there is an answer."""
        return wait_for(lambda: self.ask(path, post=post, key=key), seconds=60)

    def kill(self, chance: Random, *, number: int) -> str | None:
        """Kills one process by SIGKILL, of the kinds in turn; which kind, or None if there is none of it now."""
        kind = VICTIMS[number % len(VICTIMS)]
        if kind == "api":
            self._processes["service"].kill()
        elif kind == "worker":
            chance.choice(self.workers()).kill()
        else:
            with suppress(psutil.Error):
                jobs = [job for worker in self.workers() if worker.poll() is None for job in jobs_of(worker)]
                if jobs:
                    chance.choice(jobs).kill()
                    return kind
            return None
        return kind


@contextmanager
def running_consumer(settings: Settings, environment: pytest.MonkeyPatch, **changes: Any) -> Iterator[None]:
    """A worker on a thread of this process, with processes for its jobs; for jobs that need no torch."""
    own = settings.model_copy(update={"device_probe": False, "keep_loaded_seconds": 0.0, **changes})
    environment.setenv("PRUNEYARD_HOME", str(settings.home))
    database, stop = Database.of(own), threading.Event()
    thread = threading.Thread(target=Consumer(own, database, Artifacts(own.home), stop).run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        database.close()
