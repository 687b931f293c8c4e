"""What jobs need, loaded: the process that they are forked from imports this (workers.starting).

Nothing here may compute with torch or ask for a device: threads and drivers do not outlive a fork.
"""

from __future__ import annotations

import gc
from importlib import import_module
from pkgutil import resolve_name

from nets import export
from specs.jobs import lane_of
from workers.tasks import TASKS

import_module("workers.job")
for kind in lane_of("train"):
    resolve_name(TASKS[kind])
export.load()
# What is here stays: a collection in a fork shall not touch, and so copy, pages that all forks share.
gc.collect()
gc.freeze()
