"""Processes of the service, started and stopped by a benchmark."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar
from unittest.mock import patch

import httpx
import psutil

T = TypeVar("T")


def migrate(environment: dict[str, str]) -> None:
    """Makes the tables of a data folder."""
    subprocess.run([sys.executable, "-m", "store.migrate"], env=environment, check=True, capture_output=True)


@contextmanager
def process(module: str, environment: dict[str, str]) -> Iterator[psutil.Process]:
    """`python -m module`, ended with the block, or with this process if that is killed."""
    environment = {**environment, "PRUNEYARD_PARENT_PID": str(os.getpid())}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = psutil.Popen([sys.executable, "-m", module], env=environment, **quiet)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(60)


def alone(environment: Mapping[str, str]) -> ProcessPoolExecutor:
    """A new Python process with these variables beside our own; it is there when this returns."""
    with patch.dict(os.environ, environment):
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(os.getpid).result()
    return pool


def answers(http: httpx.Client, path: str) -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx.TransportError:
        return False


def wait_for(look: Callable[[], T], *, pause: float = 0.1, seconds: float = 300.0) -> T:
    """What `look` answers once it is true."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(pause)
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
