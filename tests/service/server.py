"""A real API process, for what only a real server shows: connections that break, disks that fill up, kills."""

from __future__ import annotations

import dataclasses
import resource
import socket
import subprocess
import sys
from typing import Any

import httpx

from specs.settings import Settings
from tests.conftest import wait_for


@dataclasses.dataclass
class Server:
    """An API process on a data folder."""

    settings: Settings
    largest_file: int | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    log: Any = None

    def __enter__(self) -> Server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {"PRUNEYARD_HOME": str(self.settings.home), "PRUNEYARD_PORT": str(self.port), **self.environment}
        limit = self.largest_file

        def set_limit() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env={**environment, "PATH": "/usr/bin"},
            preexec_fn=set_limit,  # noqa: PLW1509 - no threads of this test run then
            stderr=self.log,
        )
        self.api = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        wait_for(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        self.api.close()
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return self.api.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def send_half(self, dataset_id: str, data: bytes, *, whole: int) -> socket.socket:
        """Begins to send the content of a data set, `whole` bytes, and sends only `data` of it."""
        return self.begin(f"PUT /v1/datasets/{dataset_id}/content", data, whole=whole)

    def begin(self, request: str, data: bytes, *, whole: int) -> socket.socket:
        """Begins a request, such as "PUT /here", with a body of `whole` bytes and sends only `data` of it."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = f"{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {whole}\r\n\r\n"
        connection.sendall(head.encode() + data)
        return connection
