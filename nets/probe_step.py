"""Run as a script: `probe_step.py identify|train DEVICE` prints in JSON what a device is, or how a training step goes.

It is a process of its own because on some graphics that are listed as available the first step fails, never ends, or
takes the process down. It imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# Raise it when the probe asks for more than before, so that devices are probed anew.
EDITION = "1"
CLASSES = 10
WARM_UP_STEPS = 2
TIMED_STEPS = 3
ROUNDS = 3
TOOL_SECONDS = 10.0


def identify(device: str) -> dict[str, Any]:
    """Whether PyTorch finds the device, and the versions that decide how it behaves."""
    if not AVAILABLE.get(device, bool)():
        return {"there": False}
    about = {"device": device, "driver": ""} if device not in ABOUT else ABOUT[device]()
    versions = {
        "torch": str(torch.__version__),
        **about,
        "cpu": processor(),
        "threads": str(torch.get_num_threads()),
        "probe": EDITION,
    }
    return {"there": True, "versions": versions}


def train(device: str) -> dict[str, Any]:
    """How far a training step is from the CPU's, as relative errors, and the seconds that a step takes on each."""
    # The device first: one that fails does so soon.
    seconds = {name: _seconds_per_step(name) for name in (device, "cpu")}
    # Some chips round the factors of products by default, which is fast and harmless; wrong kernels are looked for.
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    got, wanted = _one_step(device), _one_step("cpu")
    errors = {name: _relative_error(got[name], wanted[name]) for name in wanted}
    return {"errors": errors, "cpu_seconds": seconds["cpu"], "device_seconds": seconds[device]}


def _one_step(device: str) -> dict[str, list[Tensor]]:
    """What a step of training and a look at its result leave: loss, gradients, and logits in evaluation mode."""
    network, images, labels = _beginning(16, 16)
    network.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    loss = _take_step(network, optimizer, images, labels)
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    with torch.no_grad():
        logits = network.eval()(_normalised(images, device))
    # Counting right answers is what failed on Intel's 11th generation while arithmetic worked (pytorch issue 164070).
    hits, wanted_hits = logits.argmax(dim=1) == labels.to(device), logits.cpu().argmax(dim=1) == labels
    if int(hits.sum()) != int(wanted_hits.sum()) or float(hits.float().mean()) != float(wanted_hits.float().mean()):
        raise ArithmeticError("the device counts right answers wrongly")
    return {"loss": [loss], "gradients": [value.cpu() for value in gradients], "evaluation": [logits.cpu()]}


def _seconds_per_step(device: str) -> float:
    """Of the fastest of a few rounds: whatever else the machine does only ever makes one slower."""
    network, images, labels = _beginning(32, 32)
    network.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for _ in range(WARM_UP_STEPS):
        _take_step(network, optimizer, images, labels)
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(TIMED_STEPS):
            _take_step(network, optimizer, images, labels)
        rounds.append((time.perf_counter() - started) / TIMED_STEPS)
    return min(rounds)


def _take_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    device = str(next(network.parameters()).device)
    optimizer.zero_grad(set_to_none=True)
    loss = cross_entropy(network(_normalised(images, device)), labels.to(device))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    # As a training does after each step; it also waits for the device.
    return torch.tensor(loss.item())


def _beginning(count: int, side: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A fresh network, pixels (N, H, W, 3) uint8 and labels (N,), the same each time."""
    torch.manual_seed(0)
    network = nn.Sequential(
        # No bias before a batch normalisation: its gradient is zero but for rounding, which agrees with nothing.
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False),
        nn.Conv2d(64, 64, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    return network, pixels, torch.randint(0, CLASSES, (count,))


def _normalised(pixels: Tensor, device: str) -> Tensor:
    """As a training does it: bytes go to the device and become numbers there."""
    return pixels.to(device).to(torch.float32).div_(127.5).sub_(1).permute(0, 3, 1, 2)


def _relative_error(got: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest norm of a difference, as a share of the norm of what it should be."""
    pairs = zip(got, wanted, strict=True)
    # Torch's maximum, which does not pass over what is no number.
    return float(torch.stack([(one - other).norm() / other.norm() for one, other in pairs]).max())


def _about_xpu() -> dict[str, str]:
    properties = torch.xpu.get_device_properties(0)
    return {"device": str(properties.name), "driver": str(getattr(properties, "driver_version", ""))}


def _about_cuda() -> dict[str, str]:
    return {"device": torch.cuda.get_device_name(0), "driver": _nvidia_driver()}


def _about_mps() -> dict[str, str]:
    return {"device": processor(), "driver": platform.mac_ver()[0]}


def _nvidia_driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
        return ended.stdout.strip()
    return ""


def processor() -> str:
    """The model of the processor, as the system names it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


AVAILABLE: dict[str, Callable[[], bool]] = {
    "cpu": lambda: True,
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "xpu": torch.xpu.is_available,
}
ABOUT: dict[str, Callable[[], dict[str, str]]] = {"cuda": _about_cuda, "mps": _about_mps, "xpu": _about_xpu}


def main(verb: str, device: str) -> int:
    """Prints the answer, or the error; 0 if there is an answer."""
    try:
        answer = {"identify": identify, "train": train}[verb](device)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
