"""Signs of life from a folder that grows: of a download or an unpacking by other libraries nothing else is heard."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import structlog

LOOK_SECONDS = 5.0

log = structlog.get_logger()


@contextlib.contextmanager
def growth_told(folder: Path, told: Callable[[], None], *, seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """Within, `told` is called from a thread of its own whenever the bytes below a folder are others than before."""
    done = Event()
    # Looked at here: the thread may begin late, and take what has come by then for what was there.
    known = _bytes_below(folder)
    watcher = Thread(target=_watch, args=(folder, known, told, done, seconds), name="growth", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _watch(folder: Path, known: int, told: Callable[[], None], done: Event, seconds: float) -> None:
    while not done.wait(seconds):
        found = _bytes_below(folder)
        if found != known:
            known = found
            try:
                told()
            except Exception as error:  # the next one may be heard, and what is waited for is none of its business
                log.warning("a sign of life was not written", error=str(error))


def _bytes_below(folder: Path) -> int:
    """The size of all files; what goes while it is looked at is left out. A folder that is not there has none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - a hundred thousand of them
    return total
