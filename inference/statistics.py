"""What happened to the requests of one model, counted as they pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.histograms import IMAGES, Histogram

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


class Request:
    """A request, counted as its block ends: by how that ends, with all the time that it took."""

    __slots__ = ("_fail", "_started", "_success")

    def __init__(self, success: Duration, fail: Duration) -> None:
        self._success, self._fail = success, fail

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, kind: object, *_: object) -> None:
        (self._success if kind is None else self._fail).add(time.perf_counter() - self._started)


@dataclass(slots=True)
class ModelStatistics:
    """Requests by how they ended, and the stages that they went through; in the terms of Triton's extension.

    `queue` is from a request's arrival to its batch, `compute_input` from files to pixels, `compute_infer` the network,
    `compute_output` from logits to answers. `inference_count` counts images, `execution_count` and `batches` (by their
    size) runs of the network, `last_inference` is in milliseconds since 1970. Belongs to the thread of one event loop.

    `histograms` have the seconds of each stage: of an image in the queue, of a run of the network, of the files and the
    answers of a request. `batch_sizes` has the images of each run.
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
    histograms: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})
    batch_sizes: Histogram = field(default_factory=lambda: Histogram(IMAGES))

    def request(self) -> Request:
        """Counts what is done for one request: use as a context manager."""
        return Request(self.success, self.fail)

    def count_input(self, images: int, seconds: float) -> None:
        """The images of one request have become pixels."""
        self.compute_input.add(seconds, images)
        self.histograms["compute_input"].add(seconds)

    def count_output(self, images: int, seconds: float) -> None:
        """The logits of one request have become answers."""
        self.compute_output.add(seconds, images)
        self.histograms["compute_output"].add(seconds)

    def count_batch(self, images: int, seconds: float, waits: Sequence[float] = ()) -> None:
        """One run of the network; `waits` are the seconds that each of its images waited, if any did."""
        self.queue.add(sum(waits), images)
        for wait in waits or (0.0,) * images:
            self.histograms["queue"].add(wait)
        self.histograms["compute_infer"].add(seconds)
        self.batch_sizes.add(images)
        self.compute_infer.add(seconds, images)
        self.batches.setdefault(images, Duration()).add(seconds)
        self.inference_count += images
        self.execution_count += 1
        self.last_inference = int(time.time() * 1000)
