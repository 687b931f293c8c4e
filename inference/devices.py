"""The devices that predictions can run on, and what OpenVINO sees of them on this machine.

`python -m inference.devices` prints what `available` answers: to look for a graphics chip loads its driver, which may
hang or crash, so that is done in a process that nobody depends on.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from inference.telemetry import forbid_telemetry
from specs.devices import ACCELERATORS, Accelerator, may_be_there
from specs.registry import Registry

LOOK_SECONDS = 60.0
KEEP_SECONDS = 60.0
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Device:
    """One kind of device: its name here and in OpenVINO, and the precisions that it may compute in, the safe one first.

    `accelerator` says where its traces are; one without is always there. `core` is the import string of what makes
    the `openvino.Core` that it is reached by. Nothing of it is loaded to make or to ask such an entry. A trial of a
    model may take `trial_seconds` (the first one on a graphics chip may compile kernels for a minute), an answer
    `call_seconds`.
    """

    name: str
    title: str
    openvino: str
    precisions: tuple[str, ...] = ("f32",)
    accelerator: str | None = None
    core: str = "openvino:Core"
    trial_seconds: float = 120.0
    call_seconds: float = 10.0

    def may_be_there(self) -> bool:
        """Whether this machine may have such a device; False is certain, and no driver is loaded to find out."""
        return all(may_be_there(each) for each in self._accelerators())

    def identity(self) -> dict[str, str]:
        """What a network compiled for the device depends on, as far as the device and its driver tell."""
        core = self.open()
        told = {name: _told(core, self.openvino, name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")}
        own = _told(core, self.openvino, "CACHING_PROPERTIES", plain=False)
        told |= {str(name): _told(core, self.openvino, str(name)) for name in own or ()}
        return {**told, "instructions": _instructions()} if self.accelerator is None else told

    def _accelerators(self) -> list[Accelerator]:
        return [each for each in ACCELERATORS if each.name == self.accelerator]

    def open(self) -> Any:
        """The core that the device is reached by."""
        forbid_telemetry()
        return resolve_name(self.core)()


CPU = Device("cpu", "the processor", "CPU")
GPU = Device("gpu", "Intel graphics", "GPU", precisions=("f32", "f16"), accelerator="xpu")
DEVICES: Registry[Device] = Registry("device", [CPU, GPU])


def available() -> list[dict[str, str]]:
    """Devices as `{"name": "CPU", "full_name": ...}`; an empty list where OpenVINO is missing or broken."""
    command = [sys.executable, "-m", "inference.devices"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LOOK_SECONDS, check=True)
        found: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return []
    return found


class Inventory:
    """What `available` answers, asked once a minute at most, and by one process at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[dict[str, str]] = []
        self._until = 0.0

    def look(self) -> list[dict[str, str]]:
        """The devices, at most a minute ago; this may take as long as starting a process."""
        with self._lock:
            if time.monotonic() > self._until:
                self._found = available()
                self._until = time.monotonic() + KEEP_SECONDS
            return self._found


def _seen() -> list[dict[str, str]]:
    core = CPU.open()
    return [{"name": name, "full_name": _full_name(core, name)} for name in core.available_devices]


def _full_name(core: Any, name: str) -> str:
    return _told(core, name, "FULL_DEVICE_NAME").strip() or name


def _told(core: Any, device: str, name: str, *, plain: bool = True) -> Any:
    """One property of a device, as text unless it is to be as it comes; empty if the device does not tell."""
    try:
        value = core.get_property(device, name)
    except Exception:
        value = ""
    return str(value) if plain else value


def _instructions() -> str:
    """A hash of the instructions that the processor has, where Linux tells them; virtual ones share one name."""
    with suppress(OSError):
        for line in CPU_INFO.read_text("utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return hashlib.sha256(line.encode()).hexdigest()
    return platform.processor()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_seen()) + "\n")
