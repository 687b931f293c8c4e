"""What this worker trains on. A process of its own asks torch, so that the worker's does not hold it in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ALWAYS = ["cpu"]
SECONDS = 180.0


def may_have_graphics() -> bool:
    """Whether there is any graphics device that torch could train on."""
    return sys.platform == "win32" or Path("/dev/dri").exists()


def find_devices() -> list[str]:
    """The devices on which a training step works here; only the CPU if that cannot be found out."""
    command = [sys.executable, "-m", "nets.devices"]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=True)
        return [str(name) for name in json.loads(ended.stdout)]
    except (subprocess.SubprocessError, OSError, ValueError, TypeError):
        return ALWAYS
