"""What each kind of job does: an import string each, so that only the child process imports torch."""

from collections.abc import Mapping
from types import MappingProxyType

TASKS: Mapping[str, str] = MappingProxyType(
    {
        "train": "workers.tasks.train:train",
        "prune": "workers.tasks.prune:prune",
        "distill": "workers.tasks.distill:distill",
        "quantize": "workers.tasks.quantize:quantize",
        "quote": "workers.tasks.quote:quote",
        "ingest": "workers.tasks.ingest:ingest",
    }
)
