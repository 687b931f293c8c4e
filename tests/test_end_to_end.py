"""The main job, with real processes: train, prune and predict over HTTP, with the worker killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pruneyard import Client
from tests.conftest import ONE_THREAD, wait_for

TRAINING: dict[str, Any] = {
    "dataset": "digits",
    "architecture": {"name": "resnet18", "width": 0.125},
    "optimizer": {"name": "adam", "lr": 0.003},
    "schedule": "one-cycle",
    "image_size": 16,
    "epochs": 6,
}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[tuple[psutil.Process, Client]]:
    """`pruneyard up` on a free port and an empty data folder; at its end no process is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"PRUNEYARD_HOME": str(tmp_path / "home"), "PRUNEYARD_PORT": str(port)}
    environment = {**os.environ, **ONE_THREAD, **own}
    process = psutil.Popen([sys.executable, "-m", "pruneyard", "up"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _is_ready(url), seconds=60)
        with Client(url) as client:
            yield process, client
    finally:
        family = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGINT)
        gone, alive = psutil.wait_procs(family, timeout=40)
        for survivor in alive:
            survivor.kill()
        assert not alive, f"left behind: {alive}"
        assert len(gone) == len(family)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _worker_of(up: psutil.Process) -> psutil.Process:
    def find() -> psutil.Process | None:
        children = up.children()
        return next((child for child in children if "workers" in child.cmdline()), None)

    found: psutil.Process = wait_for(find)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="kills as on POSIX")
def test_train_prune_and_predict_with_the_worker_killed_once(
    up: tuple[psutil.Process, Client], test_digits: list[tuple[bytes, str]]
) -> None:
    process, client = up
    job = client.train(name="digits net", **TRAINING)
    wait_for(lambda: len(client.metrics(job["id"])) >= 2, seconds=120, pause=0.05)
    _worker_of(process).kill()
    ended = client.wait(job["id"], timeout=300)
    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    assert [row["epoch"] for row in client.metrics(job["id"])] == list(range(1, 7))

    pruning = client.prune("digits net", name="small net", sparsity=0.9, fine_tune={"epochs": 4})
    assert client.wait(pruning["id"], timeout=300)["status"] == "succeeded"
    models = {model["name"]: model for model in client.models()}
    assert set(models) == {"digits net", "small net"}, "one model a job, although one was run twice"
    assert models["small net"]["bytes"] < 0.25 * models["digits net"]["bytes"]
    for name, model in models.items():
        answers = []
        for start in range(0, len(test_digits), 120):
            images = [data for data, _ in test_digits[start : start + 120]]
            answers += [prediction["label"] for prediction in client.predict(name, images)["predictions"]]
        right = sum(given == label for given, (_, label) in zip(answers, test_digits, strict=True)) / len(test_digits)
        assert right == pytest.approx(model["metrics"]["test_accuracy"], abs=1e-9)
        assert right > 0.93

    again = client.wait(client.train(name="undisturbed", **TRAINING)["id"], timeout=300)
    undisturbed = client.model(again["result"]["model"])
    assert undisturbed["weights_sha256"] == models["digits net"]["weights_sha256"], "resumed bit for bit"
