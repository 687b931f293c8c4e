"""The network that every peer serves: our published weights in PyTorch, eager, as tutorials have it.

The folder of the published model is the environment variable MODEL.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from nets.publishing import load_network

TOP = 5
FILES = (b"\x89PNG", b"\xff\xd8\xff")


class Classifier:
    """Decodes, transforms and classifies; raw bytes are uint8 pixels of the network's own size, rows first."""

    def __init__(self) -> None:
        self.network, manifest = load_network(Path(os.environ["MODEL"]))
        look = manifest.preprocessing
        self.shape = (look.image_size, look.image_size, look.channels)
        self.classes = manifest.classes
        self.temperature = manifest.temperature
        self.transform = transforms.Compose(
            [
                transforms.Resize((look.image_size, look.image_size)),
                transforms.ToTensor(),
                transforms.Normalize(look.mean, look.std),
            ]
        )

    def tensor(self, data: bytes) -> torch.Tensor:
        """An image file, or raw pixels, as the network's input (C, H, W)."""
        if data.startswith(FILES):
            image = Image.open(io.BytesIO(data)).convert("RGB")
        else:
            image = Image.fromarray(np.frombuffer(data, dtype=np.uint8).reshape(self.shape))
        tensor: torch.Tensor = self.transform(image)
        return tensor

    def top(self, images: torch.Tensor) -> list[list[dict[str, Any]]]:
        """The most probable classes of each image of a batch (N, C, H, W)."""
        with torch.inference_mode():
            logits = self.network(images) / self.temperature
            probabilities, indices = torch.softmax(logits, dim=1).topk(TOP)
        return [
            [
                {"label": self.classes[index], "index": index, "probability": probability}
                for probability, index in zip(*row, strict=True)
            ]
            for row in zip(probabilities.tolist(), indices.tolist(), strict=True)
        ]
