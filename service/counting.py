"""The helper process that counts the figures of networks: started when first asked, and again after it has ended."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from store.liveness import own_group

COMMAND = (sys.executable, "-m", "nets.counting")
START_SECONDS = 60.0
ANSWER_SECONDS = 20.0
WAIT_SECONDS = 20.0
END_SECONDS = 5.0


class CounterFailed(Exception):
    """The helper gave no figures."""


class CounterBusy(Exception):
    """The helper is answering others."""


class _Ended(Exception):
    """The helper is gone: it had been idle for long, or something killed it."""


class Counter:
    """Asks the helper one question at a time; `wait_seconds` is how long one may wait for its turn."""

    def __init__(
        self,
        command: Sequence[str] = COMMAND,
        *,
        start_seconds: float = START_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._command = command
        self._start_seconds = start_seconds
        self._answer_seconds = answer_seconds
        self._wait_seconds = wait_seconds
        self._turn = threading.Lock()
        self._helper: _Helper | None = None
        self._closed = False

    def ask(self, question: Mapping[str, Any]) -> dict[str, int]:
        """The answer of the helper, `parameters` and `macs`.

        Raises CounterFailed if there is none, or none in time; CounterBusy if the turn did not come.
        """
        if not self._turn.acquire(timeout=self._wait_seconds):
            raise CounterBusy
        try:
            return self._ask(question)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ends the helper for good; who waits for it gets CounterFailed."""
        self._closed = True
        if self._helper is not None:
            self._helper.end()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, int]:
        with contextlib.suppress(_Ended):
            return self._ask_once(question)
        # One that was idle may have ended just now. One that ends twice has a reason.
        try:
            return self._ask_once(question)
        except _Ended:
            raise CounterFailed("The process that counts ended before it answered.") from None

    def _ask_once(self, question: Mapping[str, Any]) -> dict[str, int]:
        answer = self._running().exchange(question, seconds=self._answer_seconds)
        try:
            return {name: int(answer[name]) for name in ("parameters", "macs")}
        except (KeyError, TypeError, ValueError):
            raise CounterFailed(f"The answer has no figures: {answer!r:.400}") from None

    def _running(self) -> _Helper:
        if self._helper is None or not self._helper.runs:
            self._helper = _Helper(self._command)
            if self._closed:
                self._helper.end()
                raise CounterFailed("The service is closing.")
            self._helper.read(self._start_seconds)
        return self._helper


class _Helper:
    """One life of the process. A thread of its own reads its answers, so that they can be waited for with a limit."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                # Ctrl-C in a terminal is for the service, which ends its helper itself.
                **own_group(),
            )
        except OSError as error:
            raise CounterFailed(f"The process that counts could not be started: {error.strerror}.") from error
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._silent = False
        threading.Thread(target=self._listen, name="counter", daemon=True).start()

    @property
    def runs(self) -> bool:
        """Whether it can still be asked; one that has closed its output is about to end."""
        return not self._silent and self._process.poll() is None

    def exchange(self, question: Mapping[str, Any], *, seconds: float) -> Any:
        """What it answers; CounterFailed if that takes longer."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(question) + "\n")
            pipe.flush()
        except (OSError, ValueError):
            self._silent = True
            raise _Ended from None
        return self.read(seconds)

    def read(self, seconds: float) -> Any:
        """The next thing it says. If that is nothing for so long, or no JSON, it is ended, with CounterFailed."""
        try:
            line = self._lines.get(timeout=seconds)
            if line is not None:
                return json.loads(line)
        except queue.Empty:
            self.end()
            raise CounterFailed(f"The process that counts said nothing for {seconds:g} seconds.") from None
        except ValueError:
            self.end()
            raise CounterFailed(f"The process that counts said what is no JSON: {line!r:.200}") from None
        self._silent = True
        raise _Ended

    def end(self) -> None:
        """Kills it: it holds nothing that could be lost."""
        self._silent = True
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)
