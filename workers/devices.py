"""What this worker trains on. A process of its own asks torch, so that the worker's does not hold it in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from specs.cores import physical_cores
from specs.devices import ACCELERATORS, CPU, Accelerator, Finding, only_cpu, ruled_out
from specs.settings import Settings

ALWAYS = [CPU]
# Longer than the probes of all accelerators may take together: each of them has a limit of its own.
SECONDS = 600.0
FINDINGS = TypeAdapter(list[Finding])


def examine_devices(settings: Settings, accelerators: Sequence[Accelerator] = ACCELERATORS) -> list[Finding]:
    """What there is to say of each device, the CPU first; this may take minutes where a new one is probed."""
    reasons = {each.name: ruled_out(each, probing=settings.device_probe) for each in accelerators}
    if None not in reasons.values():
        return only_cpu({name: str(reason) for name, reason in reasons.items()})
    try:
        return _ask_torch(settings)
    except (subprocess.SubprocessError, OSError, ValidationError) as error:
        reason = f"The devices of this machine could not be examined ({type(error).__name__})."
        return only_cpu({name: why or reason for name, why in reasons.items()})


def _ask_torch(settings: Settings) -> list[Finding]:
    threads = settings.training_threads or physical_cores()
    # The threads that a training gets: the CPU is measured too.
    environment = {**os.environ, "PRUNEYARD_HOME": str(settings.home.absolute()), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "nets.devices"]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=True, env=environment
    )
    return FINDINGS.validate_json(ended.stdout)
