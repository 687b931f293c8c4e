"""The devices that a training can ask for, and how it is told what was found out about each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

CPU = "cpu"
ALWAYS_THERE = "It is always there."
ROOT = Path("/")


@dataclass(frozen=True)
class Accelerator:
    """A kind of device beside the processor; `traces` are where Linux shows that one, or its driver, is there."""

    name: str
    title: str
    traces: tuple[str, ...] = ()


# In the order in which `auto` takes them where two are equally fast. WSL shows every graphics chip as /dev/dxg.
ACCELERATORS = (
    Accelerator(
        "cuda",
        "Graphics by NVIDIA, or by AMD with the ROCm build of PyTorch",
        ("dev/nvidia*", "dev/nvhost*", "proc/driver/nvidia", "dev/kfd", "dev/dxg"),
    ),
    Accelerator("mps", "Graphics by Apple"),
    Accelerator("xpu", "Graphics by Intel", ("dev/dri/render*", "dev/dxg")),
)


class Finding(BaseModel):
    """What was found out about one device, or about the compiled step of one network.

    `ratio` is the time of a training step on the CPU over that on the device, or of an eager step over a compiled one;
    `versions` name PyTorch, the driver and whatever else the finding depends on.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    usable: bool
    chosen_by_auto: bool = False
    reason: str
    ratio: float | None = None
    probed_at: datetime | None = None
    versions: dict[str, str] = {}

    @classmethod
    def now(cls, name: str, versions: dict[str, str], *, usable: bool, reason: str, ratio: float | None = None) -> Self:
        """What has just been found out."""
        moment = datetime.now(UTC)
        return cls(name=name, usable=usable, reason=reason, ratio=ratio, probed_at=moment, versions=versions)


def may_be_there(accelerator: Accelerator, *, platform: str = sys.platform, root: Path = ROOT) -> bool:
    """Whether this machine may have such a device, told without loading a driver; False is certain."""
    if (platform == "darwin") != (accelerator.name == "mps"):
        return False
    return platform != "linux" or any(any(root.glob(trace)) for trace in accelerator.traces)


def ruled_out(accelerator: Accelerator, *, probing: bool) -> str | None:
    """Why a device is not even looked at, in a sentence; None if it is."""
    if not may_be_there(accelerator):
        return "There is none on this machine, or no driver for it."
    return None if probing else "PRUNEYARD_DEVICE_PROBE is off, so nobody can tell whether it works."


def only_cpu(reasons: Mapping[str, str]) -> list[Finding]:
    """The findings where no accelerator is used, for the reason under its name."""
    others = [Finding(name=name, usable=False, reason=reason) for name, reason in reasons.items()]
    return [Finding(name=CPU, usable=True, chosen_by_auto=True, reason=ALWAYS_THERE), *others]
