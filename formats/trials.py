"""A process that tries something out and may hang or crash: asked on a file, answering in its last line, in JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

END_SECONDS = 5.0
LONGEST_ANSWER = 65_536
LONGEST_LINE = 300


@dataclass(frozen=True)
class Trial:
    """How a process ended: its exit code, what it answered, and the last line of what it complained of."""

    code: int
    answer: dict[str, Any]
    last_words: str

    @property
    def death(self) -> str:
        """What became of the process, after "the process ...", without a full stop."""
        words = f": {self.last_words}" if self.last_words else ""
        if -self.code in {*signal.Signals}:
            return f"was killed by {signal.Signals(-self.code).name}{words}"
        return f"ended with code {self.code}{words}"


def run_trial(command: Sequence[str], order: bytes, *, timeout: float) -> Trial:
    """Runs a process to its end, or kills it after `timeout` seconds: subprocess.TimeoutExpired; OSError if there is
    none.
    """
    # Files, not pipes: nobody has to read them while the process runs, or to wait for one that cannot be killed.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        asked.write(order)
        asked.seek(0)
        child = subprocess.Popen(command, stdin=asked, stdout=said, stderr=complained)
        try:
            code = child.wait(timeout)
        finally:
            _end(child)
        return Trial(code, _object(_last_line(said)), in_one_line(_last_line(complained)))


def in_one_line(text: str) -> str:
    """Words of a process that may hold anything, cut to what fits into a sentence."""
    return "".join(sign for sign in text[:LONGEST_LINE] if sign.isprintable()).rstrip(".")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    try:
        # A process stuck in a driver cannot be killed; it is left behind rather than waited for.
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return


def _object(line: str) -> dict[str, Any]:
    """The JSON object in a line; an empty one if there is none."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _last_line(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_ANSWER))
    lines = file.read().decode("utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
