"""The docs page in a real browser that can reach nothing but this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from specs.settings import Settings
from tests.conftest import wait_for

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    """The address of a running API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PRUNEYARD_HOME": str(settings.home), "PRUNEYARD_PORT": port}
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment)
    try:
        yield wait_for(lambda: _address(port), seconds=60)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def _address(port: str) -> str | None:
    try:
        httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).raise_for_status()
    except httpx.TransportError:
        return None
    return f"http://127.0.0.1:{port}"


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_the_docs_page_is_drawn_without_the_internet(address: str, tmp_path: str) -> None:
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/browser",
        "--proxy-server=127.0.0.1:9",  # nobody listens there: whatever is not on this machine fails
        "--proxy-bypass-list=127.0.0.1",
        "--virtual-time-budget=20000",
        "--dump-dom",
        f"{address}/docs",
    ]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    for text in ("/v1/jobs", "Ask for a training or a pruning", "Predict the classes of images", "TrainSpec"):
        assert text in page
    assert "Failed to load API definition" not in page
