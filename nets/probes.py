"""Asks in a child process what a device is and whether it trains, and judges the answer. It never hangs."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

SCRIPT = Path(__file__).with_name("probe_step.py")
IDENTIFY_SECONDS = 60.0
# The first step on a graphics chip may compile kernels for a minute or more.
TRAIN_SECONDS = 120.0
END_SECONDS = 5.0
TOLERANCE = 1e-3
LONGEST_ANSWER = 65_536
LONGEST_LINE = 200


class ProbeFailed(Exception):
    """A device cannot be used; the message says why, in a sentence."""


class DeviceMissing(ProbeFailed):
    """PyTorch does not find the device."""

    def __init__(self) -> None:
        super().__init__("PyTorch does not find it, or no driver for it that works.")


def identify(device: str, *, script: Path = SCRIPT, timeout: float = IDENTIFY_SECONDS) -> dict[str, str]:
    """The versions that decide how the device behaves; DeviceMissing if PyTorch does not find it."""
    answer = _ask(script, "identify", device, timeout=timeout)
    if not answer.get("there"):
        raise DeviceMissing
    versions = answer.get("versions")
    if not isinstance(versions, dict):
        raise ProbeFailed("Its probe did not say which device it is.")
    return {str(name): str(value) for name, value in versions.items()}


def measure(device: str, *, script: Path = SCRIPT, timeout: float = TRAIN_SECONDS) -> float:
    """The time of a training step on the CPU over that on the device.

    ProbeFailed if no step can be trained in this time (seconds), or if the numbers are not the CPU's.
    """
    answer = _ask(script, "train", device, timeout=timeout)
    errors = answer.get("errors")
    if not isinstance(errors, dict) or not {"loss", "gradients"} <= errors.keys():
        raise ProbeFailed("Its probe did not say how its numbers compare with the CPU's.")
    for name, error in errors.items():
        if not _is_number(error) or not 0 <= error <= TOLERANCE:
            found = f"{error:.2g}" if _is_number(error) else "no number"
            raise ProbeFailed(f"It computes other numbers than the CPU: the relative error of {name} is {found}.")
    cpu, own = (_seconds(answer.get(name)) for name in ("cpu_seconds", "device_seconds"))
    return float(f"{cpu / own:.3g}")


def _seconds(value: Any) -> float:
    if not _is_number(value) or value <= 0:
        raise ProbeFailed("Its probe measured times that cannot be true.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ask(script: Path, verb: str, device: str, *, timeout: float) -> dict[str, Any]:
    try:
        code, answer, last_words = _run([sys.executable, "-P", str(script), verb, device], timeout)
    except OSError as error:
        raise ProbeFailed(f"Its probe could not be run: {error.strerror}.") from error
    if "error" in answer:
        raise ProbeFailed(f"Its probe failed: {_cut(str(answer['error']))}.")
    if code != 0:
        raise ProbeFailed(_how_it_died(code, last_words))
    return answer


def _run(command: list[str], timeout: float) -> tuple[int, dict[str, Any], str]:
    """The exit code of a process, what it answered, and the last line of what it complained of."""
    # Files, not pipes: nobody has to read them while the process runs, or to wait for one that cannot be killed.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained)
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProbeFailed(f"Its probe did not end within {timeout:g} seconds.") from None
        finally:
            _end(child)
        return code, _object(_last_line(said)), _cut(_last_line(complained))


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


def _cut(text: str) -> str:
    return "".join(sign for sign in text[:LONGEST_LINE] if sign.isprintable()).rstrip(".")


def _how_it_died(code: int, last_words: str) -> str:
    words = f": {last_words}" if last_words else ""
    if -code in {*signal.Signals}:
        return f"The process of its probe was killed by {signal.Signals(-code).name}{words}."
    return f"The process of its probe ended with code {code}{words}."


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    try:
        # A process stuck in a driver cannot be killed; it is left behind rather than waited for.
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return
