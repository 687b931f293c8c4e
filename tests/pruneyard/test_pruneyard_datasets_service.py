"""Data sets from a folder on disk to a ready one, with the real service and a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from pruneyard import ApiError, Client, DatasetFailed
from pruneyard.commands.root import make_app
from pruneyard.installation import free_port
from pruneyard.packing import pack
from pruneyard.upload import PART_BYTES
from specs.settings import Settings
from tests.conftest import png, running_worker, wait_for


class Api:
    """The real service as a process, which can be killed and comes back at the same place."""

    def __init__(self, settings: Settings) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {**os.environ, "PRUNEYARD_HOME": str(settings.home), "PRUNEYARD_PORT": str(port)}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "service"], env=self._environment)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def api_process(settings: Settings) -> Iterator[Api]:
    api = Api(settings)
    try:
        wait_for(api.answers, seconds=60)
        yield api
    finally:
        api.kill()


def write_images(folder: Path, classes: dict[str, int], *, side: int) -> None:
    """Images of noise, which take about three bytes a pixel whatever packs them."""
    random = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            (folder / name / f"{number}.png").write_bytes(png(pixels))


def test_a_folder_becomes_a_data_set_though_the_service_is_killed_on_the_way(
    api_process: Api, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "animals"
    write_images(folder, {"고양이": 30, "dog": 40}, side=300)
    broken = folder / "dog" / "0.png"
    broken.write_bytes(broken.read_bytes()[:1000])
    archive = pack(folder)
    assert archive.size > 2 * PART_BYTES
    killed: list[int] = []

    def kill_once(sent: int, total: int) -> None:
        if sent > total // 2 and not killed:
            killed.append(sent)
            api_process.kill()
            threading.Timer(0.5, api_process.start).start()

    with Client(api_process.url) as client, running_worker(settings):
        dataset = client.add_dataset("animals", archive, max_rejected=0.05, on_progress=kill_once)
        assert killed
        ready = client.wait_dataset(dataset["id"], timeout=120)
        assert ready["class_images"] == {"고양이": 30, "dog": 39}
        assert ready["images"] == sum(ready["splits"].values()) == 69
        assert [(file["path"], file["reason"]) for file in ready["rejected"]] == [("dog/0.png", "truncated")]
        assert client.dataset("animals")["id"] == dataset["id"]
        assert client.upload(dataset["id"], archive)["status"] == "ready", "nothing is sent again"
        assert client.preview("animals").startswith(b"\x89PNG")
        labels = [image["label"] for image in client.dataset_images("animals", split="test")]
        assert len(labels) == ready["splits"]["test"]
        assert set(labels) == {"고양이", "dog"}
        with pytest.raises(DatasetFailed, match=r"dog/0\.png") as caught:
            client.wait_dataset(client.add_dataset("animals", archive, max_rejected=0)["id"], timeout=120)
        assert caught.value.reason == "too_many_rejected"
        assert client.dataset("animals")["id"] == dataset["id"], "the newest that is ready"


def test_the_command_line_adds_shows_and_deletes(
    api_process: Api, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEYARD_URL", api_process.url)
    write_images(tmp_path / "animals", {"고양이": 20, "dog": 10}, side=16)
    app, runner = make_app(), CliRunner()
    with running_worker(settings):
        added = runner.invoke(app, ["datasets", "add", "animals", str(tmp_path / "animals")])
    assert added.exit_code == 0, added.output
    assert "animals, version 1: ready" in added.output
    assert "30 in 2 classes; the largest has 2.0 times the images of the smallest" in added.output
    listed = runner.invoke(app, ["datasets"])
    assert "animals" in listed.output
    assert "ds_digits" in listed.output
    assert "digits, version 1: ready" in runner.invoke(app, ["datasets", "show", "digits"]).output
    assert runner.invoke(app, ["datasets", "delete", "animals"]).exit_code == 0
    with Client(api_process.url) as client, pytest.raises(ApiError, match="no data set"):
        client.dataset("animals")


def test_content_that_was_sent_by_other_means_is_gone_on_with(api_process: Api, tmp_path: Path) -> None:
    write_images(tmp_path / "animals", {"고양이": 2, "dog": 2}, side=16)
    archive = pack(tmp_path / "animals")
    for sent in (1, 5000, archive.size):
        with Client(api_process.url) as client:
            dataset_id = client.create_dataset("animals")["id"]
            answer = httpx.put(
                f"{api_process.url}/v1/datasets/{dataset_id}/content",
                content=archive.part(0, sent),
                headers={"Content-Range": f"bytes 0-{sent - 1}/*"},
                trust_env=False,
            )
            assert answer.json()["upload"]["received"] == sent
            assert client.upload(dataset_id, archive)["status"] == "processing"
