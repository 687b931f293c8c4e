"""What models do over HTTP: accuracy from their answers, and the time of single requests."""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from pruneyard.client import Client
from pruneyard.connection import checked
from pruneyard.errors import PruneyardError

WARM_UP = 20
TIMED = 200


@dataclass(frozen=True)
class LabelledImage:
    """A PNG and the class it shows."""

    label: str
    png: bytes


@dataclass(frozen=True)
class Measured:
    """Over `images` test images: the share answered right, and the median time of one request."""

    images: int
    accuracy: float
    p50_ms: float


def held_out_images(client: Client, dataset: str) -> list[LabelledImage]:
    """The whole test split, which no training sees."""
    rows = client.dataset_images(dataset, split="test")
    images = [LabelledImage(str(row["label"]), base64.b64decode(row["png"])) for row in rows]
    if not images:
        raise PruneyardError(f"The data set {dataset} has no test images.")
    return images


def compare(url: str, models: Sequence[str], images: Sequence[LabelledImage]) -> list[Measured]:
    """Send every image to every model, one request at a time on one connection.

    The models take turns, so that what else the machine does falls on all of them alike. The
    requests that are timed come after a warm-up and go round the images again if they are few.
    """
    right = [0] * len(models)
    seconds: list[list[float]] = [[] for _ in models]
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    with httpx.Client(base_url=url, trust_env=False, limits=limits, timeout=30.0) as http:
        for turn in range(max(len(images), WARM_UP + TIMED)):
            image = images[turn % len(images)]
            for index in _order(turn, len(models)):
                label, took = _ask(http, models[index], image.png)
                right[index] += turn < len(images) and label == image.label
                if WARM_UP <= turn < WARM_UP + TIMED:
                    seconds[index].append(took)
    return [
        Measured(len(images), correct / len(images), 1000 * statistics.median(times))
        for correct, times in zip(right, seconds, strict=True)
    ]


def _order(turn: int, count: int) -> Sequence[int]:
    return range(count) if turn % 2 == 0 else range(count - 1, -1, -1)


def _ask(http: httpx.Client, model: str, png: bytes) -> tuple[str, float]:
    path = f"/v1/models/{quote(model, safe='')}/predict?top_k=1"
    request = http.build_request("POST", path, content=png, headers={"Content-Type": "image/png"})
    started = time.perf_counter()
    response = http.send(request)
    took = time.perf_counter() - started
    return str(checked(response).json()["predictions"][0]["label"]), took
