"""Data sets on disk: what is written is read back, and what is damaged is told."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.datasets import (
    DATASET_NAME,
    INDEX_NAME,
    LEFT_OUT,
    PACK_NAME,
    PATHS_NAME,
    POOL,
    SPLIT_WORDS,
    TEST,
    VALIDATION,
    Conflicts,
    DatasetManifest,
    Duplicates,
    Index,
    Pack,
    Sizes,
    SplitCounts,
    fingerprint,
    read_dataset,
    read_index,
    write_dataset,
    write_index,
    write_paths,
)
from formats.files import DamagedFiles

FILES = [b"first", b"", b"the third image"]
PATHS = ["cat/1.jpg", "dog/여섯\u2028.png", 'dog/"quoted" \ud800.png']


def manifest() -> DatasetManifest:
    counts = SplitCounts(train=1, validation=1, test=1)
    return DatasetManifest(
        id="ds_1",
        name="pets",
        classes=("cat", "dog"),
        channels=3,
        image_size=16,
        images=3,
        class_images={"cat": 1, "dog": 2},
        splits=counts,
        class_splits={"cat": counts, "dog": counts},
        splits_from="rule",
        layout="folders",
        file_formats={"PNG": 3},
        sizes=Sizes(min=(1, 2), median=(3, 4), max=(5, 6), distinct=3),
        mean=(0.5, 0.5, 0.5),
        std=(0.1, 0.1, 0.1),
        duplicates=Duplicates(),
        conflicts=Conflicts(),
        imbalance=2.0,
        rejected_count=0,
        rejected=(),
        ignored=0,
        warnings=(),
        fingerprint="sha256:" + "0" * 64,
        source={"kind": "upload"},
        created=datetime(2026, 11, 24, tzinfo=UTC),
    )


def small_index() -> Index:
    lengths = np.array([len(data) for data in FILES], dtype=np.int64)
    hashes = np.stack([np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8) for data in FILES])
    return Index(
        offset=np.cumsum(lengths) - lengths,
        length=lengths,
        label=np.array([0, 1, 1], dtype=np.int32),
        split=np.array([POOL, TEST, LEFT_OUT], dtype=np.uint8),
        file_sha256=hashes,
        pixel_sha256=hashes[::-1],
        width=np.array([1, 2, 3], dtype=np.int32),
        height=np.array([4, 5, 6], dtype=np.int32),
        channels=np.array([1, 3, 3], dtype=np.uint8),
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / PACK_NAME).write_bytes(b"".join(FILES))
    write_index(tmp_path, small_index())
    write_paths(tmp_path, PATHS)
    write_dataset(tmp_path, manifest())
    return tmp_path


def test_a_pack_gives_back_images_and_paths(directory: Path) -> None:
    with Pack(directory) as pack:
        assert [pack.image(number) for number in range(len(pack))] == FILES
        assert list(pack.paths()) == PATHS
        assert pack.index.numbers(TEST) == [1]
        assert pack.index.numbers(VALIDATION) == []
        assert pack.index.contents() == [hashlib.sha256(data).digest() for data in FILES[::-1]]


def test_the_manifest_comes_back_and_records_every_file(directory: Path) -> None:
    read = read_dataset(directory, verify=True)
    assert set(read.files) == {PACK_NAME, INDEX_NAME, PATHS_NAME}
    assert read.bytes == sum((directory / name).stat().st_size for name in read.files)
    assert read == manifest().model_copy(update={"files": read.files})


@pytest.mark.parametrize("name", [PACK_NAME, INDEX_NAME, PATHS_NAME])
def test_a_flipped_bit_is_found_when_asked_for(directory: Path, name: str) -> None:
    data = bytearray((directory / name).read_bytes())
    data[-1] ^= 1
    (directory / name).write_bytes(data)
    read_dataset(directory)
    with pytest.raises(DamagedFiles, match=name):
        read_dataset(directory, verify=True)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "\x00"])
def test_a_damaged_manifest_is_told(directory: Path, text: str) -> None:
    (directory / DATASET_NAME).write_text(text)
    with pytest.raises(DamagedFiles, match=DATASET_NAME):
        read_dataset(directory)


def test_a_pack_that_is_cut_short_or_gone_is_told(directory: Path) -> None:
    (directory / PACK_NAME).write_bytes(b"".join(FILES)[:-1])
    with pytest.raises(DamagedFiles, match=PACK_NAME):
        Pack(directory)
    (directory / PACK_NAME).unlink()
    with pytest.raises(DamagedFiles, match=PACK_NAME):
        Pack(directory)


def test_an_index_that_points_elsewhere_or_lacks_columns_is_told(directory: Path) -> None:
    index = small_index()
    index.offset[1] = -1
    write_index(directory, index)
    with pytest.raises(DamagedFiles, match="shorter"):
        Pack(directory)
    write_index(directory, Index(**{**vars(small_index()), "width": np.zeros(2, dtype=np.int32)}))
    with pytest.raises(DamagedFiles, match="width"):
        read_index(directory)
    (directory / INDEX_NAME).write_bytes(b"\xff" * 100)
    with pytest.raises(DamagedFiles, match=INDEX_NAME):
        read_index(directory)


def test_damaged_paths_are_told(directory: Path) -> None:
    (directory / PATHS_NAME).write_bytes(b"not compressed")
    with Pack(directory) as pack, pytest.raises(DamagedFiles, match=PATHS_NAME):
        list(pack.paths())


RECORDS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", 'a", "b']), st.sampled_from(SPLIT_WORDS)), max_size=8
)


def of_records(records: list[tuple[int, str, str]]) -> str:
    hashes = np.array([[content] * 32 for content, _, _ in records], dtype=np.uint8).reshape(-1, 32)
    return fingerprint(hashes, [label for _, label, _ in records], [split for _, _, split in records])


@given(RECORDS, st.randoms())
def test_a_fingerprint_does_not_depend_on_the_order(records: list[tuple[int, str, str]], random: object) -> None:
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert of_records(shuffled) == of_records(records)


@given(RECORDS, RECORDS)
def test_a_fingerprint_tells_sets_apart(one: list[tuple[int, str, str]], other: list[tuple[int, str, str]]) -> None:
    assert (of_records(one) == of_records(other)) == (sorted(one) == sorted(other))
