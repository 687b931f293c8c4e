"""That predictions are slow just now: told by the service, on the disk that it shares with its workers.

It is a file and no row: it matters for seconds only, nobody has to find it after a restart, and whoever looks several
times a second takes no lock.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

NAME = "predictions-are-slow"
# Told anew each second, it does not outlive a service that was killed.
FRESH_SECONDS = 5.0


def tell(home: Path) -> None:
    """Predictions are slow from now on for some seconds; where there is no room to say so, nobody gives way."""
    with contextlib.suppress(OSError):
        (home / NAME).touch()


def take_back(home: Path) -> None:
    """They are fast enough again."""
    with contextlib.suppress(OSError):
        (home / NAME).unlink(missing_ok=True)


def is_told(home: Path) -> bool:
    """Whether they were slow some seconds ago."""
    try:
        return abs(time.time() - (home / NAME).stat().st_mtime) < FRESH_SECONDS
    except OSError:
        return False
