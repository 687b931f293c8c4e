"""A network as a program of plain PyTorch: written by a process of its own, since this one has no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import structlog

from inference.runtimes import CannotRun
from store.liveness import own_group

SECONDS = 180.0

log = structlog.get_logger()


def source_of(directory: Path) -> str:
    """The program of a model's directory; CannotRun if there is none."""
    command = [sys.executable, "-m", "nets.source", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True, **own_group())
    except (OSError, subprocess.SubprocessError) as error:
        # Not in its own words, which say where the files are.
        log.error("a network could not be written as a program", error=str(getattr(error, "stderr", error))[-2000:])
        raise CannotRun("This model cannot be written as a program of PyTorch. Take onnx or openvino.") from error
    text: str = done.stdout
    return text
