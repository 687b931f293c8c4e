"""Asks in a child process what a device is and whether it trains, and judges the answer. It never hangs."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from formats.trials import in_one_line, run_trial

SCRIPT = Path(__file__).with_name("probe_step.py")
IDENTIFY_SECONDS = 60.0
# The first step on a graphics chip may compile kernels for a minute or more.
TRAIN_SECONDS = 120.0
TOLERANCE = 1e-3


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
        trial = run_trial([sys.executable, "-P", str(script), verb, device], b"", timeout=timeout)
    except OSError as error:
        raise ProbeFailed(f"Its probe could not be run: {error.strerror}.") from error
    except subprocess.TimeoutExpired:
        raise ProbeFailed(f"Its probe did not end within {timeout:g} seconds.") from None
    if "error" in trial.answer:
        raise ProbeFailed(f"Its probe failed: {in_one_line(str(trial.answer['error']))}.")
    if trial.code != 0:
        raise ProbeFailed(f"The process of its probe {trial.death}.")
    return trial.answer
