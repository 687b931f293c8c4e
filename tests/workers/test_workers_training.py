"""Trainings by a real worker: from pretrained weights, and jobs that this machine cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torchvision
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from formats.manifest import read_manifest
from nets import pretrained
from service.app import create_app
from specs.architectures import ARCHITECTURES
from specs.settings import Settings
from tests.conftest import LOOPBACK, TINY_TRAINING, ended, new_home, running_worker

NETWORK: dict[str, Any] = {"name": "shufflenet_v2", "width": 0.5}
FINE_TUNING: dict[str, Any] = {
    "kind": "train",
    "name": "tuned",
    "dataset": "digits",
    "architecture": NETWORK,
    "pretrained": "IMAGENET1K_V1",
    "freeze": "backbone",
    "image_size": 32,
    "epochs": 1,
}
PRUNING: dict[str, Any] = {
    "kind": "prune",
    "name": "tuned pruned",
    "model": "tuned",
    "sparsity": 0.3,
    "fine_tune": {"epochs": 1, "ema": {"decay": 0.9}, "gradient_accumulation": 2, "gradient_clipping": 1.0},
}
# A proxy that is not there keeps the worker from the internet; older instructions keep bfloat16 from PyTorch.
LIMITED = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights under the name of the published file; only the pickled one has its own hash."""
    folder = tmp_path_factory.mktemp("placed")
    options = ARCHITECTURES["shufflenet_v2"].options(width=0.5)
    name = pretrained.published(options, "IMAGENET1K_V1").file.stem
    network = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None)
    save_file(network.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[tuple[Settings, TestClient]]:
    """A data folder with a limited worker, and a client of its API."""
    settings = new_home(tmp_path_factory.mktemp("training") / "home")
    worker = running_worker(settings, PRUNEYARD_PRETRAINED_DIR=str(place), **LIMITED)
    with worker, TestClient(create_app(settings), base_url=LOOPBACK) as client:
        yield settings, client


def test_pretrained_weights_are_tuned_published_and_pruned(home: tuple[Settings, TestClient], place: Path) -> None:
    settings, client = home
    tuned, pruned = ended(client, FINE_TUNING), ended(client, PRUNING)
    for job in (tuned, pruned):
        assert job["status"] == "succeeded", job
        look = read_manifest(settings.home / "models" / job["result"]["model"]).preprocessing
        # Of the weights, not of the digits.
        assert look.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
        assert look.std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))
    assert tuned["spec"]["architecture"]["stem"] == "paper"
    assert client.get("/v1/models/tuned pruned").json()["status"] == "ready"


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        (
            {"architecture": "mobilenet_v2", "pretrained": "IMAGENET1K_V1"},
            "pretrained_unavailable",
            ("mobilenet_v2-b0353104.pth", "PRUNEYARD_PRETRAINED_DIR"),
        ),
        ({"precision": "bfloat16"}, "precision_unavailable", ("AVX512-BF16", '"auto"')),
    ],
)
def test_what_this_machine_cannot_do_fails_before_it_trains(
    home: tuple[Settings, TestClient], changes: dict[str, Any], reason: str, words: tuple[str, ...]
) -> None:
    _, client = home
    job = ended(client, {**TINY_TRAINING, **changes, "image_size": 32})
    assert (job["status"], job["reason"], job["attempt"]) == ("failed", reason, 1)
    assert all(word in job["message"] for word in words)
    assert client.get(f"/v1/jobs/{job['id']}/metrics").json()["items"] == []


def test_precision_auto_trains_everywhere(home: tuple[Settings, TestClient]) -> None:
    _, client = home
    assert ended(client, {**TINY_TRAINING, "epochs": 1, "precision": "auto"})["status"] == "succeeded"
