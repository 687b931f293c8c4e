"""`python -m workers`: one worker, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

import structlog

from formats.logs import configure_logs
from specs.settings import BadSettings, load_settings
from store.artifacts import Artifacts
from store.errors import StoreError
from store.liveness import when_gone
from store.migrate import open_current
from workers.child import job_environment
from workers.consumer import Consumer

log = structlog.get_logger()


def main() -> int:
    os.umask(0o077)  # what this process writes is its user's own
    try:
        settings = load_settings()
        configure_logs(settings.log_format, settings.log_level)
        database = open_current(settings)
    except (BadSettings, StoreError) as error:
        sys.stderr.write(f"The worker cannot start:\n{error}\n")
        return 2
    # Here, since a process that jobs are forked from has the environment that it was started with.
    os.environ.update(job_environment(settings))
    stop = threading.Event()
    _stop_on_signals(stop)
    if settings.parent_pid is not None:
        # The children of this process end with it: their pipes close.
        when_gone(settings.parent_pid, lambda: os._exit(1))
    try:
        Consumer(settings, database, Artifacts(settings.home), stop).run()
    except StoreError as error:
        log.error("the worker cannot go on", error=str(error))
        return 1
    finally:
        database.close()
    return 0


def _stop_on_signals(stop: threading.Event) -> None:
    def request_stop(number: int, _frame: FrameType | None) -> None:
        log.info("asked to stop", signal=signal.Signals(number).name)
        stop.set()

    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), request_stop)


if __name__ == "__main__":
    sys.exit(main())
