"""Python client of a Pruneyard service, which trains, prunes and serves image classifiers over HTTP."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruneyard.client import Client
    from pruneyard.errors import ApiError, DatasetFailed, JobFailed, NotReachable, PruneyardError, WaitTimeout

__all__ = ["ApiError", "Client", "DatasetFailed", "JobFailed", "NotReachable", "PruneyardError", "WaitTimeout"]


def __getattr__(name: str) -> object:
    """Load on first use: importing httpx also imports rich, which `import pruneyard` should not pay for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "pruneyard.client" if name == "Client" else "pruneyard.errors"
    return getattr(import_module(module), name)
