"""One installation on this machine: where it lies, and its processes in the order they start."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from pruneyard.errors import PruneyardError
from pruneyard.processes import Child, Children, module_command

READY_SECONDS = 60.0
TICK = 0.1
FIRST_RESTART_DELAY = 1.0
LONGEST_RESTART_DELAY = 60.0
STEADY_SECONDS = 60.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - what to ask, not where to listen


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Data folder and address; `environment` holds further settings of the children."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8000
    database_url: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where this machine reaches the API."""
        bare = self.host.strip("[]")
        host = ANY_ADDRESS.get(bare, bare)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables that say all this to a child."""
        database = {"PRUNEYARD_DATABASE_URL": self.database_url} if self.database_url else {}
        return {
            **self.environment,
            "PRUNEYARD_HOME": str(self.home),
            "PRUNEYARD_HOST": self.host,
            "PRUNEYARD_PORT": str(self.port),
            **database,
        }

    def log(self, name: str) -> Path:
        """The log file of one process."""
        return self.home / "logs" / f"{name}.log"


def migrate(children: Children, installation: Installation) -> None:
    """Bring the database to the newest version; raises PruneyardError with what went wrong above."""
    code = children.run("migrate", module_command("store.migrate"), env=installation.settings)
    if code:
        raise PruneyardError(f"The database could not be brought to the newest version (exit code {code}).")


def start_api(children: Children, installation: Installation, *, to_file: bool) -> Child:
    """Start the API, after a look whether its port is free."""
    require_free_port(installation)
    log = installation.log("service") if to_file else None
    return children.start("service", module_command("service"), env=installation.settings, log=log)


def start_worker(children: Children, installation: Installation, *, to_file: bool) -> Child:
    """Start one worker."""
    log = installation.log("worker") if to_file else None
    return children.start("worker", module_command("workers"), env=installation.settings, log=log)


def wait_until_ready(url: str, children: Sequence[Child], *, seconds: float = READY_SECONDS) -> None:
    """Wait for 200 at /readyz; raises as soon as one of the children ends."""
    end = time.monotonic() + seconds
    said = "it did not answer"
    with httpx.Client(trust_env=False, timeout=5.0) as http:
        while time.monotonic() < end:
            for child in children:
                child.check()
            try:
                response = http.get(f"{url}/readyz")
            except httpx.TransportError as error:
                said = str(error) or said
            else:
                if response.status_code == 200:
                    return
                said = response.text[:1000]
            time.sleep(TICK)
    logs = "".join(f"\nLast lines of {child.log}:\n{child.tail()}" for child in children if child.log)
    raise PruneyardError(f"The service was not ready after {seconds:g} s: {said}{logs}")


class Restarts:
    """How long to wait before a process that ended is started again: longer each time it ends early."""

    def __init__(self) -> None:
        self._delay = FIRST_RESTART_DELAY

    def delay(self, ran: float) -> float:
        """Seconds to wait after it ran for `ran` seconds."""
        if ran >= STEADY_SECONDS:
            self._delay = FIRST_RESTART_DELAY
        delay = self._delay
        self._delay = min(2 * delay, LONGEST_RESTART_DELAY)
        return delay


class Supervisor:
    """Keeps one worker running beside an API that must not end; `start` starts a worker."""

    def __init__(self, children: Children, *, api: Child, start: Callable[[], Child]) -> None:
        self._children = children
        self._api = api
        self._start = start
        self._restarts = Restarts()

    def keep(self, worker: Child) -> None:
        """Until a signal raises Stopped or the API ends, which raises ChildDied."""
        while True:
            while worker.returncode is None:
                self._wait(TICK)
            ran = time.monotonic() - worker.started
            self._children.clear_away(worker)
            self._wait(self._restarts.delay(ran))
            worker = self._start()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._children.interrupts.check()
            self._api.check()
            time.sleep(min(left, TICK))


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on at the moment."""
    with _listening(host, 0) as listener:
        return int(listener.getsockname()[1])


def require_free_port(installation: Installation) -> None:
    """Raise PruneyardError if something listens there: it would answer in the API's place."""
    try:
        _listening(installation.host, installation.port).close()
    except OSError as error:
        raise PruneyardError(
            f"Cannot listen on {installation.host} port {installation.port} ({os.strerror(error.errno or 0)}).\n"
            "If a Pruneyard runs there, use it or stop it; or choose another port with --port."
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    return socket.create_server((bare, port), family=family)
