"""`python -m nets.counting [IDLE_SECONDS]`: counts the figures of networks for a process that has no torch.

It says `{"ready": true}` on a line of its own once it has loaded, then answers each line of its standard input, a
question in JSON, with a line of JSON. It builds networks on the meta device, where shapes are all there is, so the
largest takes no memory. It ends when its standard input closes, or when nobody has asked for so long.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from nets.architectures import architecture_options, build
from nets.figures import multiply_accumulates, parameter_count
from specs.options import Options

IDLE_SECONDS = 300.0
NICENESS = 10
LONGEST_REASON = 300


@dataclass(frozen=True)
class Count:
    """Parameters, and multiply-accumulates of one image."""

    parameters: int
    macs: int


def count(options: Options, *, classes: int, channels: int, image_size: int) -> Count:
    """The figures of the network that these options describe, without building one that has weights."""
    with torch.device("meta"):
        network = build(options, classes=classes, channels=channels, image_size=image_size)
    return Count(parameter_count(network), multiply_accumulates(network, channels=channels, image_size=image_size))


def main() -> None:
    """Answers questions until there are no more."""
    idle_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else IDLE_SECONDS
    _give_way()
    torch.set_num_threads(1)
    # The answers have the standard output for themselves, whatever a library may print.
    answers, sys.stdout = sys.stdout, sys.stderr
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    timer = _end_after(idle_seconds)
    for line in sys.stdin:
        timer.cancel()
        answers.write(json.dumps(_answer(line)) + "\n")
        answers.flush()
        timer = _end_after(idle_seconds)
    timer.cancel()


def _answer(line: str) -> dict[str, Any]:
    try:
        question = json.loads(line)
        options = architecture_options(question.pop("architecture"))
        return asdict(count(options, **question))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:LONGEST_REASON]}"}


def _end_after(seconds: float) -> threading.Timer:
    """Ends this process after so long: the main thread waits for a line and cannot."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()
    return timer


def _give_way() -> None:
    """Lowers the priority of this process: predictions and trainings come first."""
    with contextlib.suppress(psutil.Error, OSError):
        if sys.platform == "win32":
            psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            psutil.Process().nice(NICENESS)


if __name__ == "__main__":
    main()
    # All answers are out. To leave in good order would take torch seconds.
    os._exit(0)
