"""LitServe with batching, after its documentation. BATCH_TIMEOUT is in seconds: 0, its default, never waits.

It takes JSON or forms only, so files come in base64, as its examples of images do.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import litserve
import torch

from benchmarks.peers.classifier import Classifier


class Images(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.classifier = Classifier()

    def decode_request(self, request: dict[str, str]) -> torch.Tensor:
        return self.classifier.tensor(base64.b64decode(request["image"]))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, images: torch.Tensor) -> list[list[dict[str, Any]]]:
        return self.classifier.top(images)

    def unbatch(self, output: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {"top": output}


if __name__ == "__main__":
    images = Images(max_batch_size=32, batch_timeout=float(os.environ["BATCH_TIMEOUT"]))
    server = litserve.LitServer(images, accelerator="cpu", timeout=120)
    server.run(port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
