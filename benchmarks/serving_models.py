"""What is served: networks trained a little on pieces of two photographs, and pieces to ask about.

Speed does not depend on what a network has learnt, but that two servers answer the same shows only where some classes
are more probable than others. The photographs come with scikit-learn.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.processes import answers, free_port, migrate, process, wait_for

DATASET = "pieces"
TRAINING = {"batch_size": 16, "augmentation": "none", "compile": "off", "device": "cpu"}
EPOCHS = 10
CLASSES = 10
IMAGES = 16
PIECE = 224
ASKED = 16
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Network:
    """One published network: its name in tables and in the service, and what trains it."""

    architecture: Mapping[str, Any]
    image_size: int

    @property
    def name(self) -> str:
        return f"{self.architecture['name']}-{self.image_size}"

    @property
    def job(self) -> dict[str, Any]:
        body = {"architecture": dict(self.architecture), "image_size": self.image_size, "dataset": DATASET}
        return {"kind": "train", "name": self.name, "recipe": "fast", "epochs": EPOCHS, **TRAINING, **body}


# MobileNetV2 with the paper's stem at every size, as torchvision has it and as those who serve it elsewhere use it.
ARCHITECTURES: tuple[dict[str, Any], ...] = (
    {"name": "mobilenet_v2", "stem": "paper"},
    {"name": "resnet18", "width": 0.25},
)
NETWORKS = {
    network.name: network for size in (32, 224) for network in (Network(options, size) for options in ARCHITECTURES)
}


@dataclass(frozen=True)
class Picture:
    """One image in all its forms; pixels are uint8 (size, size, 3)."""

    pixels: NDArray[np.uint8]

    @property
    def png(self) -> bytes:
        return self._file("PNG")

    @property
    def jpeg(self) -> bytes:
        return self._file("JPEG", quality=JPEG_QUALITY)

    @property
    def raw(self) -> bytes:
        return self.pixels.tobytes()

    def _file(self, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, kind, **options)
        return file.getvalue()


def pictures(image_size: int) -> list[Picture]:
    """Pieces of the photographs that no network was trained with, as large as a network wants them."""
    pieces = _pieces(np.random.default_rng(1), [number % CLASSES for number in range(ASKED)])
    return [Picture(np.asarray(piece.resize((image_size, image_size), Image.Resampling.BILINEAR))) for piece in pieces]


def archive() -> bytes:
    """A zip of pieces in a folder for each class: a class is a place in one of the photographs."""
    labels = [label for label in range(CLASSES) for _ in range(IMAGES)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for number, piece in enumerate(_pieces(np.random.default_rng(0), labels)):
            packed.writestr(f"place {labels[number]}/{number}.png", Picture(np.asarray(piece)).png)
    return file.getvalue()


def _pieces(generator: np.random.Generator, labels: list[int]) -> Iterator[Image.Image]:
    photographs = load_sample_images().images
    for label in labels:
        photograph = Image.fromarray(photographs[label % 2])
        left = (photograph.width - PIECE) * (label // 2) // (CLASSES // 2) + int(generator.integers(0, 60))
        top = int(generator.integers(0, photograph.height - PIECE))
        yield photograph.crop((left, top, left + PIECE, top + PIECE))


def publish(home: Path, wanted: list[Network]) -> dict[str, dict[str, Any]]:
    """The service's views of these networks by name; those that the data folder lacks are trained."""
    with service(home) as (http, _), process("workers", environment_of(home)):
        _bring_dataset(http)
        return {network.name: model(http, network.job) for network in wanted}


def model(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The view of the model of this job's name, made if it is not there."""
    if http.get(f"/v1/models/{job['name']}").status_code == 404:
        # The same key finds the job that was asked for before this program was broken off.
        key = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
        answer = http.post("/v1/jobs", json=job, headers={"Idempotency-Key": key}).raise_for_status()
        ended(http, answer.json()["id"])
    view: dict[str, Any] = http.get(f"/v1/models/{job['name']}").raise_for_status().json()
    return view


def ended(http: httpx.Client, job: str) -> None:
    """Waits for a job; AssertionError unless it succeeds."""
    final = {"succeeded", "failed", "cancelled"}
    view = wait_for(lambda: _one_of(http.get(f"/v1/jobs/{job}").raise_for_status().json(), final), seconds=1800)
    assert view["status"] == "succeeded", view


def _one_of(view: dict[str, Any], states: set[str]) -> dict[str, Any]:
    return view if view["status"] in states else {}


def _bring_dataset(http: httpx.Client) -> None:
    if http.get(f"/v1/datasets/{DATASET}").status_code == 404:
        made = http.post("/v1/datasets", json={"name": DATASET}).raise_for_status().json()["id"]
        http.put(f"/v1/datasets/{made}/content", content=archive()).raise_for_status()
    ready = {"ready", "failed"}
    view = wait_for(lambda: _one_of(http.get(f"/v1/datasets/{DATASET}").raise_for_status().json(), ready))
    assert view["status"] == "ready", json.dumps(view)


def environment_of(home: Path) -> dict[str, str]:
    return {**os.environ, "PRUNEYARD_HOME": str(home.absolute())}


@contextmanager
def service(home: Path) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """The API over a data folder, with a client and its process."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {**environment_of(home), "PRUNEYARD_PORT": str(free_port())}
    migrate(environment)
    url = f"http://127.0.0.1:{environment['PRUNEYARD_PORT']}"
    with process("service", environment) as running, httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        wait_for(lambda: answers(http, "/readyz"))
        yield http, running
