"""Decoded images of data sets: made once for each size, shared, and removed by least use."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from formats.arrays import DecodedArray
from formats.datasets import read_dataset
from formats.images import ImageShape
from ingest.datasets import Request, make_dataset
from ingest.members import Member
from specs.settings import Settings
from store import queue, workers
from store.artifacts import Artifacts
from store.database import Database
from tests.pictures import picture_files
from workers.data import decoded
from workers.run import Run, Stopped

SET = "ds_pictures"
IMAGES = 27


@pytest.fixture
def run(settings: Settings, database: Database) -> Run:
    """An attempt at a job, with the data set SET in the data folder."""
    artifacts = Artifacts(settings.home)
    members = [Member(path, data) for path, data in picture_files(IMAGES // 3).items()]
    with artifacts.new_directory(artifacts.dataset(SET)) as directory:
        make_dataset(members, directory, Request(SET, "pictures"), lambda *_: None)
    with database.write() as session:
        queue.enqueue(session, kind="train", name="a", spec="{}")
        claim = queue.claim(session, workers.register(session, ["cpu"]))
    assert claim is not None
    return Run(settings, database, artifacts, claim, threading.Event())


def take(run: Run, size: int) -> DecodedArray:
    directory = run.artifacts.dataset(SET)
    return decoded(run, read_dataset(directory), directory, ImageShape(size, 3))


def with_quota(run: Run, quota: int) -> Run:
    settings = run.settings.model_copy(update={"array_cache_bytes": quota})
    return Run(settings, run.database, run.artifacts, run.claim, threading.Event())


def asked_to_stop(run: Run) -> Run:
    stop = threading.Event()
    stop.set()
    return Run(run.settings, run.database, run.artifacts, run.claim, stop)


def sizes(run: Run) -> set[int]:
    return {int(path.name.split("-")[1]) for path in run.artifacts.arrays()}


def stored(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def test_a_size_is_decoded_once(run: Run) -> None:
    first = take(run, 8)
    made = (run.artifacts.array(SET, size=8, channels=3) / "pixels.u8").stat().st_ino
    second = take(run, 8)
    assert (run.artifacts.array(SET, size=8, channels=3) / "pixels.u8").stat().st_ino == made
    assert first.pixels.shape == (IMAGES, 8, 8, 3)
    assert np.array_equal(first.pixels, second.pixels)


def test_what_was_used_least_recently_goes_when_the_folder_is_full(run: Run) -> None:
    for size in (8, 12):
        take(run, size)
    room = sum(stored(path) for path in run.artifacts.arrays())
    limited = with_quota(run, room)
    take(limited, 8)  # now 12 is the one that was not used for longest
    mapped = take(limited, 12)
    take(limited, 8)
    before = mapped.pixels.copy()
    take(limited, 9)
    assert sizes(run) == {8, 9}
    # Whoever has it mapped goes on.
    assert np.array_equal(mapped.pixels, before)


def test_the_one_in_use_stays_however_small_the_quota(run: Run) -> None:
    limited = with_quota(run, 0)
    for size in (8, 12):
        assert take(limited, size).pixels.shape[1] == size
        assert sizes(run) == {size}


def test_two_jobs_may_decode_the_same_at_once(run: Run) -> None:
    with ThreadPoolExecutor(4) as threads:
        arrays = list(threads.map(lambda _: np.array(take(run, 16).pixels), range(4)))
    assert all(np.array_equal(array, arrays[0]) for array in arrays)
    assert sizes(run) == {16}
    assert not list(run.artifacts.home.glob("arrays/.*"))


@pytest.mark.parametrize("file", ["pixels.u8", "moments.safetensors", "array.json"])
def test_damaged_ones_are_made_again(run: Run, file: str) -> None:
    good = take(run, 8).pixels.copy()
    path = run.artifacts.array(SET, size=8, channels=3) / file
    path.write_bytes(bytes(path.stat().st_size))
    assert np.array_equal(take(run, 8).pixels, good)


def test_decoding_ends_when_the_job_is_to_stop(run: Run) -> None:
    with pytest.raises(Stopped):
        take(asked_to_stop(run), 8)
    assert not list(run.artifacts.home.glob("arrays/*"))
