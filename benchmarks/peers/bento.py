"""BentoML with adaptive batching, after its documentation: a list of images in base64, lists of requests joined."""

from __future__ import annotations

import base64
from typing import Any

import bentoml
import torch

from benchmarks.peers.classifier import Classifier


@bentoml.service(workers=1, traffic={"timeout": 120})
class Images:
    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=100_000)
    def predict(self, images: list[str]) -> list[list[dict[str, Any]]]:
        tensors = [self.classifier.tensor(base64.b64decode(image)) for image in images]
        return self.classifier.top(torch.stack(tensors))
