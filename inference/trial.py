"""A model tried out on a device in a process of its own, with a time limit: drivers hang and crash.

`python -m inference.trial` reads one JSON object, an `Order`, and prints another: what was measured, or why not.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from formats.trials import Trial, in_one_line, run_trial
from inference.devices import Device
from inference.kernel_cache import KernelCache
from inference.latency import Latency, latency_of
from inference.models import read_stored
from inference.placements import Placement
from inference.runtimes import RUNTIMES


class TrialFailed(RuntimeError):
    """A model cannot be served on a device; the message says why, in a sentence."""


class TrialDied(TrialFailed):
    """The process of a trial crashed or hung."""


class DeviceAbsent(TrialFailed):
    """There is no such device on this machine."""


@dataclass(frozen=True)
class Order:
    """What is to be tried: the model of a directory, as `placement` says, on `device`, in `seconds` of measuring."""

    directory: str
    placement: Placement
    device: Device
    threads: int
    seconds: float
    kernels: str | None
    kernel_bytes: int


def try_out(order: Order) -> Latency:
    """What the process measured, having held the network against its golden answers.

    DeviceAbsent, TrialDied or TrialFailed; within `trial_seconds` of the device, whatever it does.
    """
    if not order.device.may_be_there():
        raise DeviceAbsent(_absent(order.device))
    trial = _run(json.dumps(asdict(order)).encode(), order.device.trial_seconds)
    answer = trial.answer
    if answer.get("absent") is True:
        raise DeviceAbsent(_absent(order.device))
    if "error" in answer:
        raise TrialFailed(in_one_line(str(answer["error"])))
    if trial.code != 0:
        raise TrialDied(f"the process of its trial {trial.death}")
    one, eight = _milliseconds(answer.get("batch_1_p50")), answer.get("batch_8_p50")
    return Latency(one, None if eight is None else _milliseconds(eight))


def _absent(device: Device) -> str:
    return f"there is no {device.name} on this machine that OpenVINO can use ({device.title})"


def _milliseconds(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise TrialFailed("its trial measured times that cannot be true")
    return float(value)


def _run(order: bytes, timeout: float) -> Trial:
    try:
        return run_trial([sys.executable, "-m", "inference.trial"], order, timeout=timeout)
    except OSError as error:
        raise TrialFailed(f"its trial could not be run: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise TrialDied(f"its trial did not end within {timeout:g} seconds") from None


def main() -> None:
    order = json.load(sys.stdin)
    device = Device(**{**order["device"], "precisions": tuple(order["device"]["precisions"])})
    try:
        answer = _tried({**order, "device": device, "placement": Placement(**order["placement"])})
    except Exception as error:
        answer = {"error": str(error) or type(error).__name__}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()


def _tried(order: dict[str, Any]) -> dict[str, Any]:
    device, placement = order["device"], order["placement"]
    # Several chips are listed as GPU.0 and GPU.1.
    if not any(name.partition(".")[0] == device.openvino for name in device.open().available_devices):
        return {"absent": True}
    cache = (
        None if order["kernels"] is None else KernelCache(Path(order["kernels"]), capacity_bytes=order["kernel_bytes"])
    )
    model = read_stored(Path(order["directory"])).load(
        RUNTIMES[placement.runtime],
        threads=order["threads"],
        device=device,
        precision=placement.precision,
        kernels=cache,
    )
    return asdict(latency_of(model, seconds=order["seconds"]))


if __name__ == "__main__":
    main()
