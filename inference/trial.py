"""A model tried out on a device in a process of its own, with a time limit: drivers hang and crash.

`python -m inference.trial` reads one JSON object, an `Order`, and prints another: what was measured, or why not.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from inference.devices import Device
from inference.kernel_cache import KernelCache
from inference.latency import Latency, latency_of
from inference.models import read_stored
from inference.placements import Placement
from inference.runtimes import RUNTIMES

END_SECONDS = 5.0
LONGEST_ANSWER = 65_536
LONGEST_LINE = 300


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
    code, answer, last_words = _run(json.dumps(asdict(order)).encode(), order.device.trial_seconds)
    if answer.get("absent") is True:
        raise DeviceAbsent(_absent(order.device))
    if "error" in answer:
        raise TrialFailed(_cut(str(answer["error"])))
    if code != 0:
        raise TrialDied(_how_it_died(code, last_words))
    one, eight = _milliseconds(answer.get("batch_1_p50")), answer.get("batch_8_p50")
    return Latency(one, None if eight is None else _milliseconds(eight))


def _absent(device: Device) -> str:
    return f"there is no {device.name} on this machine that OpenVINO can use ({device.title})"


def _milliseconds(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise TrialFailed("its trial measured times that cannot be true")
    return float(value)


def _run(order: bytes, timeout: float) -> tuple[int, dict[str, Any], str]:
    """The exit code of the process, what it answered, and the last line of what it complained of."""
    command = [sys.executable, "-m", "inference.trial"]
    # Files, not pipes: nobody has to read them while the process runs, or to wait for one that cannot be killed.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        asked.write(order)
        asked.seek(0)
        try:
            child = subprocess.Popen(command, stdin=asked, stdout=said, stderr=complained)
        except OSError as error:
            raise TrialFailed(f"its trial could not be run: {error.strerror}") from error
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TrialDied(f"its trial did not end within {timeout:g} seconds") from None
        finally:
            _end(child)
        return code, _object(_last_line(said)), _cut(_last_line(complained))


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    try:
        # A process stuck in a driver cannot be killed; it is left behind rather than waited for.
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        return


def _object(line: str) -> dict[str, Any]:
    """The JSON object in a line; an empty one if there is none."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _last_line(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_ANSWER))
    lines = file.read().decode("utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _cut(text: str) -> str:
    return "".join(sign for sign in text[:LONGEST_LINE] if sign.isprintable()).rstrip(".")


def _how_it_died(code: int, last_words: str) -> str:
    words = f": {last_words}" if last_words else ""
    if -code in {*signal.Signals}:
        return f"the process of its trial was killed by {signal.Signals(-code).name}{words}"
    return f"the process of its trial ended with code {code}{words}"


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
