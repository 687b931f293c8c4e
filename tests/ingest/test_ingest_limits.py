"""What is bound: memory while decoding, and the process itself."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from formats.images import BadImage, decode_original
from ingest.decoding import BATCH_ITEMS, SMALL_PIXELS, WAITING_BYTES, Batches, PixelBudget
from tests.ingest.samples import image

SIZES = [1, 10_000]  # of an item: too small for threads, and not


@pytest.mark.parametrize("size", SIZES)
def test_results_come_in_order_whatever_takes_longer(size: int) -> None:
    def work(batch: list[int]) -> list[int]:
        time.sleep(0.001 * (batch[0] % 7))
        return [number * 2 for number in batch]

    results = list(Batches(work, size=lambda _: size, threads=4).run(range(1000)))
    assert [number for result in results for number in result] == list(range(0, 2000, 2))
    assert max(map(len, results)) == BATCH_ITEMS


@pytest.mark.parametrize("size", SIZES)
def test_few_items_are_taken_ahead_of_what_is_done(size: int) -> None:
    taken = 0

    def stream() -> Iterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    most = done = 0
    for result in Batches(len, size=lambda _: size, threads=2).run(stream()):
        done += result
        most = max(most, taken - done)
    assert done == 10_000
    assert most <= 5 * BATCH_ITEMS


def test_large_items_wait_for_each_other() -> None:
    size = WAITING_BYTES // 2 + 1
    held = most = 0
    lock = threading.Lock()

    def stream() -> Iterator[int]:
        nonlocal held, most
        for number in range(12):
            with lock:
                held += 1
                most = max(most, held)
            yield number

    for batch in Batches(lambda batch: batch, size=lambda _: size, threads=4).run(stream()):
        assert len(batch) == 1
        with lock:
            held -= 1
    assert most <= 2


@pytest.mark.parametrize("size", SIZES)
def test_the_first_error_ends_it_and_threads_are_gone(size: int) -> None:
    def work(batch: list[int]) -> None:
        if batch[0] >= 640:
            raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(Batches(work, size=lambda _: size, threads=4).run(range(100_000)))
    assert threading.active_count() == before


def test_large_items_are_worked_on_side_by_side() -> None:
    together = threading.Barrier(2, timeout=30)
    for _ in Batches(lambda _: together.wait(), size=lambda _: 1_000_000, threads=2).run(range(4)):
        pass
    assert not together.broken


def test_pixels_decoded_at_a_time_stay_within_the_budget() -> None:
    budget = PixelBudget(100)
    together = most = 0
    lock = threading.Lock()

    def hold(pixels: int) -> None:
        nonlocal together, most
        with budget.take(pixels):
            with lock:
                together += pixels
                most = max(most, together)
            time.sleep(0.001)
            with lock:
                together -= pixels

    threads = [threading.Thread(target=hold, args=(pixels,)) for pixels in [30, 60, 45, 99, 10] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert 60 <= most <= 100
    hold(1000)  # larger than the budget: alone, but not never


def test_an_image_is_decoded_once_with_a_limit_that_fits_it() -> None:
    limits: list[int] = []
    budget = PixelBudget()

    def decode(limit: int) -> None:
        limits.append(limit)
        if limit == SMALL_PIXELS:
            raise BadImage("too_large", "Large.", "Scale it down.")

    budget.decode(image(1), decode, max_pixels=5_000_000)
    assert limits == [SMALL_PIXELS, 5_000_000]
    with pytest.raises(BadImage) as caught:
        budget.decode(image(1), lambda limit: decode_original(image(1), max_pixels=limit), max_pixels=10)
    assert caught.value.reason == "too_large"


def ended(program: str) -> str:
    """What a process writes in which this program runs under limits."""
    head = "from ingest.process_limits import OutOfTime, limit_this_process\n"
    done = subprocess.run(
        [sys.executable, "-c", head + program], capture_output=True, text=True, timeout=100, check=True
    )
    return done.stdout.strip()


DECODING = """
import io, sys, tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from ingest.datasets import Request, make_dataset
from ingest.members import Member

def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, KIND)
    return file.getvalue()

members = [Member(f"{'ab'[n % 2]}/{n}", encoded(np.full((9, 9 + n, 3), n, np.uint8))) for n in range(12)]
members.append(Member("a/large", encoded(np.zeros((5000, 5000, 3), np.uint8) + np.arange(3, dtype=np.uint8))))
limit_this_process(memory_bytes=MEMORY)
with tempfile.TemporaryDirectory() as directory:
    try:
        print(make_dataset(members, Path(directory), Request("ds_1", "set"), lambda *_: None).images)
    except MemoryError as error:
        print("MemoryError:", error)
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds all of these limits")


@linux_only
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("megabytes", [5, 40, 120, 2000])
def test_too_little_memory_is_an_error_that_says_so(kind: str, megabytes: int) -> None:
    program = f"KIND, MEMORY = {kind!r}, {megabytes} * 1_000_000\n{DECODING}"
    expected = "13" if megabytes == 2000 else "MemoryError: The images take more memory than this process may have."
    assert ended(program) == expected


@linux_only
def test_a_file_does_not_grow_beyond_its_limit() -> None:
    program = """
import errno, tempfile
limit_this_process(file_bytes=1_000_000)
with tempfile.TemporaryFile(buffering=0) as file:
    try:
        while True:
            file.write(bytes(300_000))
    except OSError as error:
        print(file.tell(), error.errno == errno.EFBIG)
"""
    assert ended(program) == "1000000 True"


@linux_only
def test_processor_time_runs_out_with_an_error() -> None:
    program = """
limit_this_process(cpu_seconds=0.5)
try:
    while True:
        pass
except OutOfTime as error:
    print(error)
"""
    assert ended(program) == "The processor time for this is used up."


@linux_only
def test_limits_can_be_lowered_but_not_raised() -> None:
    program = """
import resource
limit_this_process(file_bytes=5_000, cpu_seconds=100)
limit_this_process(file_bytes=9_000, cpu_seconds=900)
print(resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_CPU)[0] < 200)
"""
    assert ended(program) == "(5000, 5000) True"
