"""Decoding in several threads, with a bound on what is decoded at a time.

Pillow and hashlib let go of the interpreter while they work, which pays for images of some size: two threads decode
photographs 1.7 times as fast as one. Of a small image (32 x 32: 0.1 ms) most of the work is Python's, and threads
only get in each other's way; such images are decoded where they are asked for.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from formats.images import BadImage, count_pixels, decode_original, image_format, pixel_hash
from specs.cores import physical_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
Decoded = TypeVar("Decoded")

# An image up to this size is decoded at once; the pixels of larger ones that are decoded at a time are counted.
SMALL_PIXELS = 1_000_000
PIXELS_AT_A_TIME = 48_000_000

BATCH_ITEMS = 64
BATCH_BYTES = 1024 * 1024
# Below 4 KiB an image threads do not pay.
SMALL_BATCH_BYTES = 256 * 1024
WAITING_BYTES = 64 * 1024 * 1024

_BLOCK_PIXELS = 1 << 18


def default_threads() -> int:
    """As many as there are physical cores, and at least 2: one reads while the other decodes."""
    return max(2, physical_cores())


class PixelBudget:
    """Lets images be decoded side by side up to so many pixels in all; one that is larger goes alone."""

    def __init__(self, pixels: int = PIXELS_AT_A_TIME) -> None:
        self._pixels = pixels
        self._taken = 0
        self._given_back = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for an image of so many pixels and holds it for the block."""
        with self._given_back:
            self._given_back.wait_for(lambda: self._taken == 0 or self._taken + pixels <= self._pixels)
            self._taken += pixels
        try:
            yield
        finally:
            with self._given_back:
                self._taken -= pixels
                self._given_back.notify_all()

    def decode(self, data: bytes, decode: Callable[[int], Decoded], *, max_pixels: int) -> Decoded:
        """`decode(limit)`, which raises BadImage above that many pixels: small images at once, large ones in turn."""
        try:
            return decode(min(SMALL_PIXELS, max_pixels))
        except BadImage as error:
            if error.reason != "too_large":
                raise
        with self.take(count_pixels(data, max_pixels=max_pixels)):
            return decode(max_pixels)


@dataclass(frozen=True, slots=True)
class Examination:
    """What is known of one image file: see `formats.datasets.Index`.

    `mean` and `mean_square` are those of the pixels (0 to 255) of each of three channels.
    """

    format: str
    file_sha256: bytes
    pixel_sha256: bytes
    width: int
    height: int
    channels: int
    mean: tuple[float, ...]
    mean_square: tuple[float, ...]


def examine(data: bytes, *, budget: PixelBudget, max_pixels: int) -> Examination:
    """Decodes an image file at its own size; BadImage if it cannot be used."""
    return budget.decode(data, lambda limit: _examine(data, limit), max_pixels=max_pixels)


def _examine(data: bytes, max_pixels: int) -> Examination:
    pixels = decode_original(data, max_pixels=max_pixels)
    height, width, channels = pixels.shape
    sums, squares = moments(pixels)
    area = float(height * width)
    return Examination(
        format=image_format(data) or "",
        file_sha256=hashlib.sha256(data).digest(),
        pixel_sha256=pixel_hash(pixels),
        width=width,
        height=height,
        channels=channels,
        mean=_of_three((sums / area).tolist()),
        mean_square=_of_three((squares / area).tolist()),
    )


def _of_three(channels: list[float]) -> tuple[float, ...]:
    """Grey counts as three equal channels."""
    return tuple(channels * 3) if len(channels) == 1 else tuple(channels)


def moments(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Of each channel of an image, uint8 (H, W, C), the sum of the pixels and of their squares: uint64 (C,) each."""
    height, width, channels = pixels.shape
    planes = pixels.reshape(height * width, channels).T
    sums = np.zeros(channels, dtype=np.uint64)
    squares = np.zeros(channels, dtype=np.uint64)
    for start in range(0, height * width, _BLOCK_PIXELS):
        # A channel in one piece is summed several times faster than one of every third byte.
        levels = np.ascontiguousarray(planes[:, start : start + _BLOCK_PIXELS]).astype(np.uint32)
        sums += levels.sum(axis=1, dtype=np.uint64)
        squares += (levels * levels).sum(axis=1, dtype=np.uint64)
    return sums, squares


class Batches(Generic[Item, Result]):
    """Runs a function over batches of items in threads and gives the results in order.

    Batches hold up to 64 items or about a mebibyte, and few of them wait at a time, so that memory stays bounded
    however long the stream is.
    """

    def __init__(self, work: Callable[[list[Item]], Result], *, size: Callable[[Item], int], threads: int) -> None:
        self._work = work
        self._size = size
        self._threads = threads
        self._waiting: deque[tuple[int, Future[Result]]] = deque()

    def run(self, items: Iterable[Item]) -> Generator[Result, None, None]:
        """The result of each batch; the first error of any ends it. MemoryError too where a thread finds no room."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decoding")
        try:
            for size, batch in self._batches(items):
                while self._is_full(size):
                    yield self._waiting.popleft()[1].result()
                self._waiting.append((size, self._start(pool, size, batch)))
            while self._waiting:
                yield self._waiting.popleft()[1].result()
        except MemoryError as error:
            raise MemoryError("The images take more memory than this process may have.") from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, size: int, batch: list[Item]) -> Future[Result]:
        if size < SMALL_BATCH_BYTES:
            done: Future[Result] = Future()
            done.set_result(self._work(batch))
            return done
        try:
            return pool.submit(self._work, batch)
        except RuntimeError as error:  # can't start new thread
            raise MemoryError(str(error)) from error

    def _batches(self, items: Iterable[Item]) -> Iterator[tuple[int, list[Item]]]:
        size, batch = 0, list[Item]()
        for item in items:
            batch.append(item)
            size += self._size(item)
            if len(batch) >= BATCH_ITEMS or size >= BATCH_BYTES:
                yield size, batch
                size, batch = 0, []
        if batch:
            yield size, batch

    def _is_full(self, size: int) -> bool:
        if not self._waiting:
            return False
        waiting = sum(one for one, _ in self._waiting)
        return len(self._waiting) >= 2 * self._threads or waiting + size > WAITING_BYTES
