"""What jobs need that read data sets, loaded: the process that they are forked from imports this (workers.starting).

Without PyTorch: of the sources only one takes it, and it would not fit into the limits of the others.
"""

from __future__ import annotations

import gc
import signal
from importlib import import_module
from pkgutil import resolve_name

# As in workers.preloaded.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
gc.disable()

from specs.jobs import lane_of  # noqa: E402
from workers.tasks import TASKS  # noqa: E402

import_module("workers.job")
for kind in lane_of("ingest"):
    resolve_name(TASKS[kind])
gc.collect()
gc.freeze()
gc.enable()
