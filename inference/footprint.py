"""`python -m inference.footprint DIRECTORY RUNTIME`: the memory that a model takes, in a process of its own.

Prints one line of JSON: the bytes by which loading the model and predicting with it raised the peak of the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil

from inference.models import load_model
from inference.runtimes import RUNTIMES
from inference.telemetry import forbid_telemetry

BATCH = 32
SECONDS = 120.0


def peak_bytes(directory: Path, runtime: str) -> int | None:
    """What the process below found; None if it could not."""
    command = [sys.executable, "-m", "inference.footprint", str(directory), runtime]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        return int(json.loads(done.stdout.splitlines()[-1])["bytes"])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return None


def main() -> None:
    directory, runtime = Path(sys.argv[1]), sys.argv[2]
    forbid_telemetry()
    import_module(RUNTIMES[runtime].target.partition(":")[0])  # a runtime's own code is no part of the model
    before = psutil.Process().memory_info().rss
    model = load_model(directory, runtime=runtime, threads=1)
    rule = model.manifest.preprocessing
    model.predict(np.zeros((BATCH, rule.image_size, rule.image_size, rule.channels), dtype=np.uint8))
    sys.stdout.write(json.dumps({"bytes": max(0, _peak() - before)}) + "\n")


def _peak() -> int:
    """The most memory that this process held, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would answer with the peak of the process that started this one, if that held more.
        lines = status.read_text("ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    import resource  # noqa: PLC0415 - Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS tells bytes


if __name__ == "__main__":
    main()
