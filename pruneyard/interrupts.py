"""Ctrl-C and requests to end, as one exception that can be held back where it would do harm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

# SIGHUP does not exist on Windows, SIGBREAK only there.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


class Stopped(BaseException):
    """The process was asked to end by signal `number`.

    No KeyboardInterrupt, because typer would end the process by itself on one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """What shells expect of a process ended by this signal: 130 for Ctrl-C."""
        return 128 + self.number


class Interrupts:
    """While entered, signals raise Stopped in the main thread, except inside `held()`."""

    def __init__(self) -> None:
        self.count = 0
        self._number: int | None = None
        self._held = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                self._install(name)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals that arrive in this block are raised at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self.check()

    def check(self) -> None:
        """Raise what arrived, also if the first raise was lost (in a `__del__`, say)."""
        if self._number is not None and not self._held:
            raise Stopped(self._number)

    def _install(self, name: str) -> None:
        number = getattr(signal, name, None)
        # An ignored SIGHUP stays ignored: that is what nohup asks for. Shells ignore SIGINT for what a
        # script starts with `&`, which is no reason not to stop on it.
        wanted = name != "SIGHUP" or (number is not None and signal.getsignal(number) != signal.SIG_IGN)
        if number is not None and wanted:
            self._previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self._number = self._number or number
        self.check()
