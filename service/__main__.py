"""`python -m service`: the API, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from formats.logs import configure_logs
from service.app import create_app
from specs.settings import BadSettings, Settings, load_settings
from store.database import warn_of_old_sqlite
from store.disks import warn_of_shared_disk
from store.errors import StoreError
from store.liveness import when_gone
from store.migrate import open_current

GRACE_SECONDS = 5
# After the start: the runtimes of models have been imported by then.
SETTLE_SECONDS = 4.0


def settle() -> None:
    """Leaves what was made up to now out of all later searches for garbage.

    Modules, routes and schemas are hundreds of thousands of objects that stay. To go through them takes a tenth of a
    second, in which nobody is answered, several times a minute under load.
    """
    gc.collect()
    gc.freeze()


class Server(uvicorn.Server):
    """Ends in good order on a signal: event streams are told to end, so that they do not hold it up."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                timeout_graceful_shutdown=GRACE_SECONDS,
                server_header=False,
                proxy_headers=False,
                # The logs are set up already, and the app itself writes a line for each request if it shall.
                log_config=None,
                access_log=False,
            )
        )
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().call_later(SETTLE_SECONDS, settle)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        house = getattr(self._app.state, "house", None)
        if house is not None:
            house.closing.set()
        # Not the parent's: that one raises the signal again at the end, so that the process would not exit with 0.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def main() -> int:
    os.umask(0o077)  # what this process writes is its user's own
    try:
        settings = load_settings()
        configure_logs(settings.log_format, settings.log_level)
        database = open_current(settings)
        if database.is_sqlite:
            warn_of_old_sqlite()
            warn_of_shared_disk(settings.home)
        database.close()
    except (BadSettings, StoreError) as error:
        sys.stderr.write(f"The service cannot start:\n{error}\n")
        return 2
    if settings.parent_pid is not None:
        when_gone(settings.parent_pid, lambda: os._exit(1))
    server = Server(create_app(settings), settings)
    server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
