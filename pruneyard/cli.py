"""The command line: `pruneyard up`, `train`, `prune`, `jobs`, `models`, `predict`, `demo`, ..."""

from __future__ import annotations

import sys
from importlib import import_module


def main() -> None:
    """Entry point of the `pruneyard` command."""
    try:
        # Loaded here so that Ctrl-C while typer and httpx load also ends in one line.
        import_module("pruneyard.commands.root").make_app()()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)
