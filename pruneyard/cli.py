"""The command line: `pruneyard up`, `train`, `prune`, `datasets`, `jobs`, `models`, `predict`, `demo`, ..."""

from __future__ import annotations

import io
import sys
from importlib import import_module

from pruneyard.interrupts import Interrupts, Stopped


def main() -> None:
    """Entry point of the `pruneyard` command."""
    for stream in (sys.stdout, sys.stderr):
        # Names may have letters that a terminal or a file cannot take, or none at all.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with Interrupts():
            # Loaded here so that Ctrl-C while typer and httpx load also ends in one line. It is our own
            # exception by then: after a plain KeyboardInterrupt in an exec, as in importing a namedtuple,
            # Python ends itself by the signal whatever exit code is asked for.
            import_module("pruneyard.commands.root").make_app()()
    except Stopped as stopped:
        sys.stderr.write("Stopped.\n")
        sys.exit(stopped.exit_code)
