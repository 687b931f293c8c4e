"""Which devices can train, found out without ever hanging."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from nets.errors import DeviceUnavailable

# The first step on a graphics chip may compile kernels for a minute or more.
PROBE_SECONDS = 120.0
PROBE = Path(__file__).with_name("xpu_probe.py")


def available() -> list[str]:
    """The devices that this PyTorch lists; one that is listed may still fail (see `works`)."""
    return ["cpu", "xpu"] if torch.xpu.is_available() else ["cpu"]


def resolve(name: str) -> torch.device:
    """The device of a spec's name; `auto` is xpu only where it works. Raises DeviceUnavailable."""
    devices = available()
    if name == "auto":
        return torch.device("xpu" if "xpu" in devices and works("xpu") else "cpu")
    if name not in devices:
        raise DeviceUnavailable(f"There is no device {name!r} on this machine; there are: {', '.join(devices)}.")
    if name != "cpu" and not works(name):
        raise DeviceUnavailable(f"The device {name!r} is there, but a small training step on it failed.")
    return torch.device(name)


def works(device: str, *, timeout: float = PROBE_SECONDS) -> bool:
    """Whether a small training step succeeds on the device, in a child process, within the time in seconds."""
    command = [sys.executable, "-P", str(PROBE), device]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return child.wait(timeout) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        _end(child)


def main() -> None:
    """Prints the devices on which a training step works, as a JSON list."""
    sys.stdout.write(json.dumps([name for name in available() if name == "cpu" or works(name)]) + "\n")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    try:
        # A process stuck in a driver cannot be killed; it is left behind rather than waited for.
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return


if __name__ == "__main__":
    main()
