"""What happened to the requests of one model, counted as they pass."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class Duration:
    """How often something happened, and the nanoseconds that it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Something that happened `count` times took so long in all."""
        self.count += count
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class ModelStatistics:
    """Requests by how they ended, and the stages that they went through; in the terms of Triton's extension.

    `queue` is from a request's arrival to its batch, `compute_input` from files to pixels, `compute_infer` the network,
    `compute_output` from logits to answers. `inference_count` counts images, `execution_count` and `batches` (by their
    size) runs of the network, `last_inference` is in milliseconds since 1970. Belongs to the thread of one event loop.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    inference_count: int = 0
    execution_count: int = 0
    last_inference: int = 0
    batches: dict[int, Duration] = field(default_factory=dict)

    def count_batch(self, images: int, seconds: float, waited: float = 0.0) -> None:
        """One run of the network; `waited` is what its images waited in all, in seconds."""
        self.queue.add(waited, images)
        self.compute_infer.add(seconds, images)
        self.batches.setdefault(images, Duration()).add(seconds)
        self.inference_count += images
        self.execution_count += 1
        self.last_inference = int(time.time() * 1000)
