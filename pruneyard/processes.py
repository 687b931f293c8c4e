"""The service's processes as children: started, watched, and never left behind."""

from __future__ import annotations

import atexit
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from pruneyard.errors import PruneyardError
from pruneyard.interrupts import Interrupts, Stopped

# A worker gives its jobs so long to write a checkpoint unless it is told otherwise, and takes some time itself.
GRACE_SECONDS, MORE_SECONDS = 20.0, 5.0
TICK = 0.05
TAIL_BYTES = 8192
TAIL_LINES = 15


class ChildDied(PruneyardError):
    """A process of the service ended by itself."""

    def __init__(self, child: Child) -> None:
        tail = child.tail()
        where = f"Its last lines ({child.log}):\n{tail}" if tail else "What it said is above."
        super().__init__(f"The {child.name} process ended with {_ending(child.returncode)}. {where}")


class Child:
    """One child process; `log` is the file its output goes to, or None when it shares ours."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], *, log: Path | None = None) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        self._process = process
        self._log_start = log.stat().st_size if log else 0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """Raise ChildDied if it has ended."""
        if self.returncode is not None:
            raise ChildDied(self)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines this process wrote to its log file."""
        if self.log is None:
            return ""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def tree(self) -> list[psutil.Process]:
        """Its own children and theirs, while it runs."""
        with suppress(psutil.Error):
            # Once it has ended its id may belong to somebody else.
            return psutil.Process(self.pid).children(recursive=True) if self.returncode is None else []
        return []

    def ask_to_stop(self) -> None:
        """Ask it to end in good order; its own children are its own to stop."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(_stop_signal())

    def kill(self, tree: Iterable[psutil.Process]) -> None:
        """End what is left of it, of `tree` and of its process group, at once."""
        everything = {*tree, *self.tree()}
        if self.returncode is None:
            self._process.kill()
        for process in everything:
            with suppress(psutil.Error):
                process.kill()
        if sys.platform != "win32":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def grace_of(environment: Mapping[str, str]) -> float:
    """Seconds that a worker with these settings may take to stop; what is no number it refuses itself."""
    # As the settings are read, whatever the case of their names.
    given = {name.upper(): value for name, value in environment.items()}
    with suppress(KeyError, ValueError):
        seconds = float(given["PRUNEYARD_SHUTDOWN_GRACE_SECONDS"])
        if 0 < seconds < math.inf:
            return seconds + MORE_SECONDS
    return GRACE_SECONDS + MORE_SECONDS


class Children:
    """Owner of child processes: however its block is left, none of them is left running.

    While it is entered, Ctrl-C, SIGTERM and SIGHUP raise `interrupts.Stopped`.
    """

    def __init__(self, *, grace: float | None = None) -> None:
        self.interrupts = Interrupts()
        self._grace = grace_of(os.environ) if grace is None else grace
        self._running: list[Child] = []

    def __enter__(self) -> Self:
        # Should a signal fall into the very first step of __exit__, this still stops them.
        atexit.register(self._stop_at_exit)
        self.interrupts.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as last:
            last.callback(self.interrupts.__exit__)
            last.callback(atexit.unregister, self._stop_at_exit)
            self.stop()

    def start(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> Child:
        """Start a process in a group of its own, its output to a log file or to where ours goes."""
        with self.interrupts.held(), ExitStack() as files:
            output = None
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                output = files.enter_context(log.open("ab"))
            process = subprocess.Popen(
                list(command),
                env=child_environment(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                **_own_group(),
            )
            child = Child(name, process, log=log)
            self._running.append(child)
        return child

    def run(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> int:
        """Start a process that shares our output and wait for its end; returns its exit code."""
        child = self.start(name, command, env=env)
        while (code := child.returncode) is None:
            self.interrupts.check()
            time.sleep(TICK)
        self.clear_away(child)
        return code

    def clear_away(self, child: Child) -> None:
        """Kill what an ended child left behind, and forget it."""
        with self.interrupts.held():
            child.kill(())
            self._running.remove(child)

    def stop(self) -> None:
        """Ask all to end, wait, then kill what is left; a further signal ends the wait."""
        with self.interrupts.held():
            signals = self.interrupts.count
            trees = {child: child.tree() for child in self._running}
            for child in self._running:
                child.ask_to_stop()
            end = time.monotonic() + self._grace
            while self._running:
                impatient = time.monotonic() > end or self.interrupts.count > signals
                for child in [child for child in self._running if impatient or child.returncode is not None]:
                    child.kill(trees[child])
                    self._running.remove(child)
                time.sleep(TICK if self._running else 0)

    def _stop_at_exit(self) -> None:
        with suppress(Stopped):
            self.stop()


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment with these settings, and what lets a child find the rooms and see us die."""
    return {
        **os.environ,
        **_python_path(),
        "PYTHONUNBUFFERED": "1",
        **settings,
        "PRUNEYARD_PARENT_PID": str(os.getpid()),
    }


def _python_path() -> dict[str, str]:
    """Lets a checkout run without being installed; an installed copy is found anyway."""
    root = Path(__file__).resolve().parent.parent
    if root.name in {"site-packages", "dist-packages"}:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}


def module_command(module: str) -> list[str]:
    """The command that runs a room; -P keeps folders of the same name in the working directory out."""
    return [sys.executable, "-P", "-m", module]


def _own_group() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _stop_signal() -> int:
    if sys.platform == "win32":
        return signal.CTRL_BREAK_EVENT
    return signal.SIGTERM


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
