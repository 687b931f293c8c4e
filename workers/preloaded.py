"""What jobs need, loaded: the process that they are forked from imports this (workers.starting).

Nothing here may compute with torch or ask for a device: threads and drivers do not outlive a fork.
"""

from __future__ import annotations

import gc
import signal
from importlib import import_module
from pkgutil import resolve_name

# Its forks would count as dead without it. It ends with the worker, whose pipe then closes.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
# What is loaded here stays, and to look for cycles in it again and again would take a quarter of the time.
gc.disable()

from nets import export  # noqa: E402 - loads PyTorch
from specs.jobs import lane_of  # noqa: E402
from workers.tasks import TASKS  # noqa: E402

import_module("workers.job")
for kind in (*lane_of("train"), *lane_of("quote")):
    resolve_name(TASKS[kind])
export.load()
# A collection in a fork shall not touch, and so copy, pages that all forks share.
gc.collect()
gc.freeze()
gc.enable()
