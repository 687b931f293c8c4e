"""Data sets made from files: what is in them does not depend on order and names, and no image is in two splits."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.datasets import (
    LEFT_OUT,
    PACK_NAME,
    PATHS_NAME,
    POOL,
    PREVIEW_NAME,
    TEST,
    VALIDATION,
    DatasetManifest,
    Index,
    Pack,
    SplitCounts,
    read_dataset,
    read_index,
)
from formats.images import decode_original, pixel_hash
from ingest.datasets import Request, make_dataset
from ingest.errors import BadArchive, BadDataset
from ingest.members import Member, Rejected, Split
from ingest.splits import job_splits
from specs.splits import Splits, choose_test, split_pool
from tests.ingest.samples import folders, image, made


def columns(directory: Path, *, less: tuple[str, ...] = ("offset",)) -> dict[str, list[Any]]:
    """The index, without what depends on the order of the files."""
    index = read_index(directory)
    return {
        field.name: getattr(index, field.name).tolist() for field in dataclasses.fields(Index) if field.name not in less
    }


def figures(manifest: DatasetManifest) -> dict[str, Any]:
    """What the manifest says of the images, without the hashes of files that depend on their order."""
    return manifest.model_dump(exclude={"files", "created"})


def renamed(member: Member, name: str) -> Member:
    return dataclasses.replace(member, path=f"{member.path.rpartition('/')[0]}/{name}")


def test_every_image_is_in_the_pack_under_its_path(tmp_path: Path) -> None:
    members = folders({"cat": 7, "dog": 5})
    manifest = made(tmp_path / "set", members)
    given_bytes = {member.path: member.data for member in members}
    with Pack(tmp_path / "set") as pack:
        index = pack.index
        paths = list(pack.paths())
        assert sorted(paths) == sorted(given_bytes)
        for number, path in enumerate(paths):
            data = pack.image(number)
            drawn = decode_original(data)
            assert data == given_bytes[path]
            assert manifest.classes[index.label[number]] == path.partition("/")[0]
            assert bytes(index.file_sha256[number]) == hashlib.sha256(data).digest()
            assert bytes(index.pixel_sha256[number]) == pixel_hash(drawn)
            assert (index.height[number], index.width[number], index.channels[number]) == drawn.shape
    assert read_dataset(tmp_path / "set", verify=True) == manifest
    assert set(manifest.files) == {PACK_NAME, "index.safetensors", PATHS_NAME, PREVIEW_NAME}


def test_a_manifest_says_what_is_in_the_set(tmp_path: Path) -> None:
    members = [*folders({"dog": 20, "cat": 10}), Member("README.md", b"Pets.")]
    manifest = made(tmp_path / "set", members, source={"kind": "upload"})
    assert (manifest.id, manifest.name, manifest.source) == ("ds_1", "pets", {"kind": "upload"})
    assert manifest.classes == ("cat", "dog")
    assert manifest.class_images == {"cat": 10, "dog": 20}
    assert manifest.images == 30
    assert manifest.splits == SplitCounts(train=19, validation=5, test=6)
    assert manifest.class_splits["cat"] == SplitCounts(train=6, validation=2, test=2)
    assert manifest.splits_from == "rule"
    assert manifest.layout == "folders"
    assert manifest.file_formats == {"PNG": 30}
    assert manifest.imbalance == 2.0
    assert (manifest.rejected_count, manifest.ignored) == (0, 1)


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_order_changes_nothing(tmp_path_factory: pytest.TempPathFactory, order: random.Random) -> None:
    members: list[Member | Rejected] = [*folders({"cat": 9, "dog": 8}), Rejected("x", "too_many_bytes", "Too large.")]
    # The same file under several names and classes, and one that is no image.
    members += [Member(path, image(3)) for path in ("cat/b.png", "dog/a.png", "cat/a.png")]
    members.append(Member("dog/broken.png", image(5)[:40]))
    directory = tmp_path_factory.mktemp("order")
    one = made(directory / "one", members, max_rejected=0.5)
    order.shuffle(members)
    other = made(directory / "other", members, max_rejected=0.5)
    assert figures(one) == figures(other)
    assert columns(directory / "one") == columns(directory / "other")
    assert (directory / "one" / PATHS_NAME).read_bytes() == (directory / "other" / PATHS_NAME).read_bytes()
    assert (directory / "one" / PREVIEW_NAME).read_bytes() == (directory / "other" / PREVIEW_NAME).read_bytes()


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    members = folders({"cat": 9, "dog": 8})
    assert made(tmp_path / "one", members).files == made(tmp_path / "other", members, threads=1).files


def test_names_change_nothing(tmp_path: Path) -> None:
    members = folders({"cat": 12, "dog": 12})
    one = made(tmp_path / "one", members)
    names = [hashlib.sha256(member.path.encode()).hexdigest() for member in members]
    other = made(tmp_path / "other", [renamed(member, name) for member, name in zip(members, names, strict=True)])
    assert figures(one) == figures(other)
    assert columns(tmp_path / "one", less=()) == columns(tmp_path / "other", less=())


def test_encoding_without_loss_changes_neither_splits_nor_fingerprint(tmp_path: Path) -> None:
    one = made(tmp_path / "one", folders({"cat": 12, "dog": 12}))
    other = made(tmp_path / "other", folders({"cat": 12, "dog": 12}, kind="BMP"))
    assert one.fingerprint == other.fingerprint
    changing = ("offset", "length", "file_sha256")
    assert columns(tmp_path / "one", less=changing) == columns(tmp_path / "other", less=changing)


def test_classes_splits_and_pixels_change_the_fingerprint(tmp_path: Path) -> None:
    members = folders({"cat": 12, "dog": 12})
    prints = {made(tmp_path / "0", members).fingerprint}
    for number, changed in enumerate(
        [
            [dataclasses.replace(member, path=member.path.replace("cat", "dgo")) for member in members],
            members[1:],
            [*members[1:], Member("cat/0.png", image(99))],
            [*members[:-1], dataclasses.replace(members[-1], path="cat/last.png")],
            [dataclasses.replace(m, label=m.path[:3], split="test" if m.path[4] in "123" else None) for m in members],
        ]
    ):
        prints.add(made(tmp_path / str(number + 1), changed).fingerprint)
    assert len(prints) == 6


def test_labels_and_splits_that_come_with_the_images_are_taken(tmp_path: Path) -> None:
    splits: list[Split | None] = ["train", "validation", "test", None]
    members = [
        Member(f"{number}", image(number), label="ab"[number % 2], split=splits[number // 2 % 4])
        for number in range(24)
    ]
    manifest = made(tmp_path / "set", members)
    assert (manifest.layout, manifest.splits_from) == ("given", "given")
    assert manifest.splits == SplitCounts(train=12, validation=6, test=6)


def test_a_manifest_file_tells_labels_and_splits(tmp_path: Path) -> None:
    rows = [f"images/{number}.png,{'ab'[number % 2]},{'test' if number > 7 else 'train'}" for number in range(12)]
    members = [Member("manifest.csv", "\n".join(["path,label,split", *rows]).encode())]
    members += [Member(f"images/{number}.png", image(number)) for number in range(12)]
    manifest = made(tmp_path / "set", members)
    assert (manifest.layout, manifest.splits_from, manifest.images) == ("manifest", "given test", 12)
    assert manifest.splits.test == 4


def test_a_file_that_a_manifest_names_and_that_is_damaged_is_rejected_once(tmp_path: Path) -> None:
    rows = [f"images/{number}.png,{'ab'[number % 2]}" for number in range(14)]
    members: list[Member | Rejected] = [Member("manifest.csv", "\n".join(["path,label", *rows]).encode())]
    members += [Member(f"images/{number}.png", image(number)) for number in range(11)]
    members.append(Member("images/11.png", image(11)[:60]))
    members.append(Rejected("images/12.png", "too_many_bytes", "Too large."))
    members.append(Member("images/not named.png", b"nothing"))
    manifest = made(tmp_path / "set", members, max_rejected=0.5)
    assert [(file.path, file.reason) for file in manifest.rejected] == [
        ("images/11.png", "truncated"),
        ("images/12.png", "too_many_bytes"),
        ("images/13.png", "missing"),
    ]
    assert (manifest.images, manifest.ignored) == (11, 1)


BAD = {
    "empty": (b"", "empty"),
    "truncated": (image(1)[:60], "truncated"),
    "tiff": (image(1, kind="TIFF"), "format_not_allowed"),
    "html": (b"<html></html>", "format_not_allowed"),
    "header": (b"\x89PNG\r\n\x1a\n" + bytes(30), "unreadable"),
    "large": (image(1, width=40, height=30), "too_large"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_image_is_rejected_with_its_reason(tmp_path: Path, kind: str) -> None:
    data, reason = BAD[kind]
    members = [*folders({"cat": 9, "dog": 9}), Member("dog/bad.png", data)]
    manifest = made(tmp_path / "set", members, max_rejected=0.06, max_pixels=1000)
    assert [(file.path, file.reason) for file in manifest.rejected] == [("dog/bad.png", reason)]
    assert manifest.rejected[0].message
    assert (manifest.images, manifest.rejected_count) == (18, 1)


def test_more_rejected_files_than_are_put_up_with_fail_the_set_and_are_all_named(tmp_path: Path) -> None:
    bad = [Member(f"dog/z{number}.png", data) for number, (data, _) in enumerate(BAD.values())]
    stream = [*folders({"cat": 30, "dog": 30}), *bad, Rejected("a link", "not_a_regular_file", "It is a link.")]
    with pytest.raises(BadDataset) as caught:
        made(tmp_path / "set", stream, max_pixels=1000)
    assert caught.value.reason == "too_many_rejected"
    assert "7 of 67" in caught.value.message
    assert '"a link"' in caught.value.message
    assert "max_rejected" in caught.value.hint
    assert [file.path for file in caught.value.rejected] == sorted(["a link", *(member.path for member in bad)])


def test_one_bad_file_among_fifty_is_too_many_unless_allowed(tmp_path: Path) -> None:
    stream = [*folders({"cat": 25, "dog": 24}), Member("dog/bad.png", b"")]
    with pytest.raises(BadDataset) as caught:
        made(tmp_path / "default", stream)
    assert caught.value.reason == "too_many_rejected"
    assert made(tmp_path / "allowed", stream, max_rejected=0.02).images == 49


def test_what_lies_beside_images_and_is_none_is_left_out_of_account(tmp_path: Path) -> None:
    beside = (
        "README",
        "LICENSE",
        "cat/notes.txt",
        "annotations/1.xml",
        "cat/1.json",
        ".DS_Store",
        "__MACOSX/cat/._1.png",
    )
    manifest = made(tmp_path / "set", [*folders({"cat": 9, "dog": 9}), *(Member(path, b"-") for path in beside)])
    assert (manifest.images, manifest.rejected_count, manifest.ignored) == (18, 0, len(beside))


def test_a_class_of_pictures_that_cannot_be_read_does_not_vanish_silently(tmp_path: Path) -> None:
    heic = [Member(f"fox/{number}.heic", b"\x00\x00\x00\x18ftypheic") for number in range(5)]
    with pytest.raises(BadDataset) as caught:
        made(tmp_path / "set", [*folders({"cat": 9, "dog": 9}), *heic])
    assert len(caught.value.rejected) == 5


def test_images_without_a_class_do_not_stay_in_the_pack(tmp_path: Path) -> None:
    stray = [Member(f"stray {number}.png", image(100 + number)) for number in range(3)]
    members = folders({"cat": 9, "dog": 9})
    mixed = [stray[0], *members[:5], stray[1], *members[5:], stray[2]]
    manifest = made(tmp_path / "set", mixed)
    assert (manifest.images, manifest.ignored) == (18, 3)
    assert (tmp_path / "set" / PACK_NAME).read_bytes() == b"".join(member.data for member in members)
    with Pack(tmp_path / "set") as pack:
        stored = {path: pack.image(number) for number, path in enumerate(pack.paths())}
    assert stored == {member.path: member.data for member in members}


@pytest.mark.parametrize(
    ("stream", "reason", "words"),
    [
        ([], "no_images", "no image"),
        ([Member("cat/1.png", b"")], "no_images", "cat/1.png"),
        ([Member("1.png", image(1))], "no_images", "label"),
        (folders({"cat": 20}), "one_class_only", '"cat"'),
        (folders({"cat": 20, "dog": 2}), "too_few_images", '"dog" has 2 images'),
        (
            [*folders({"cat": 20}), *[Member(f"dog/{number}.png", image(99)) for number in range(20)]],
            "too_few_images",
            "dog",
        ),
        ([*folders({"cat": 20}), Member("manifest.csv", b"a,b\n")], "bad_manifest", "manifest"),
    ],
)
def test_what_makes_no_data_set_is_told(
    tmp_path: Path, stream: list[Member | Rejected], reason: str, words: str
) -> None:
    with pytest.raises(BadDataset, match=words) as caught:
        made(tmp_path / "set", stream)
    assert caught.value.reason == reason
    assert caught.value.hint


def test_bad_datasets_name_the_rejected_whatever_their_reason(tmp_path: Path) -> None:
    bad = Member("cat/bad.png", b"")
    for number, stream in enumerate([[bad], folders({"cat": 20}), folders({"cat": 20, "dog": 1})]):
        with pytest.raises(BadDataset) as caught:
            made(tmp_path / str(number), [*stream, bad], max_rejected=0.2)
        assert [file.path for file in caught.value.rejected] == ["cat/bad.png"] * (2 if number == 0 else 1)


def test_three_images_make_every_split(tmp_path: Path) -> None:
    manifest = made(tmp_path / "set", folders({"cat": 3, "dog": 3}))
    assert manifest.splits == SplitCounts(train=2, validation=2, test=2)


def test_a_given_test_split_may_lack_a_class_and_a_warning_says_so(tmp_path: Path) -> None:
    members = [dataclasses.replace(member, path="train/" + member.path) for member in folders({"cat": 9, "dog": 9})]
    manifest = made(tmp_path / "set", [*members, Member("test/cat/1.png", image(77))])
    assert manifest.splits_from == "given test"
    assert manifest.splits.test == 1
    assert any('"dog"' in warning and "test" in warning for warning in manifest.warnings)


def test_a_class_that_only_the_test_split_has_is_too_few(tmp_path: Path) -> None:
    members = [dataclasses.replace(member, path="train/" + member.path) for member in folders({"cat": 9, "dog": 9})]
    with pytest.raises(BadDataset, match='"fox"') as caught:
        made(tmp_path / "set", [*members, Member("test/fox/1.png", image(77))])
    assert caught.value.reason == "too_few_images"


def test_validation_that_is_wholly_in_the_test_split_is_made_anew(tmp_path: Path) -> None:
    members = [dataclasses.replace(member, path="train/" + member.path) for member in folders({"cat": 9, "dog": 9})]
    members += [
        Member(f"{split}/{label}/1.png", image(70 + ord(label[0])))
        for split in ("test", "val")
        for label in ("cat", "dog")
    ]
    manifest = made(tmp_path / "set", members)
    assert manifest.splits_from == "given test"
    assert manifest.conflicts.left_out == 2
    assert any("validation" in warning for warning in manifest.warnings)


def test_duplicates_and_contradictions_are_counted_and_shown(tmp_path: Path) -> None:
    members = [dataclasses.replace(member, path="train/" + member.path) for member in folders({"cat": 9, "dog": 9})]
    members += [
        Member("train/cat/same bytes.png", image(0)),
        Member("train/cat/same pixels.bmp", image(1, kind="BMP")),
        Member("train/dog/other label.png", image(2)),
        Member("test/cat/leak.png", image(3)),
        Member("test/dog/clean.png", image(55)),
    ]
    manifest = made(tmp_path / "set", members)
    assert (manifest.duplicates.same_bytes, manifest.duplicates.same_pixels) == (3, 4)
    assert len(manifest.duplicates.examples) == 4
    assert (manifest.conflicts.labels, manifest.conflicts.splits, manifest.conflicts.left_out) == (1, 1, 1)
    shown = {example.kind: example for example in manifest.conflicts.examples}
    assert shown["labels"].paths == ("train/cat/2.png", "train/dog/other label.png")
    assert shown["labels"].labels == ("cat", "dog")
    assert shown["splits"].paths == ("train/cat/3.png", "test/cat/leak.png")
    assert shown["splits"].splits == ("train", "test")
    index = read_index(tmp_path / "set")
    assert (index.split == LEFT_OUT).sum() == 1
    assert manifest.images == 23


CONTENTS = st.integers(0, 12)
LABELS = st.sampled_from(["a", "b"])
SPLITS = st.sampled_from([None, "train", "validation", "test"])
FEW_SEEDS = (0, 1, 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(CONTENTS, LABELS, SPLITS), max_size=40), st.sampled_from([0.1, 0.5]))
def test_no_content_is_in_two_splits(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, str, Split | None]], fraction: float
) -> None:
    directory = tmp_path_factory.mktemp("leaks") / "set"
    # Enough of its own for each class; what is drawn repeats it, contradicts it and leaks.
    own = [(number, "ab"[number % 2], None) for number in range(13)] + [(20 + n, "ab"[n % 2], None) for n in range(6)]
    records = [*own, *drawn]
    members = [Member(str(n), image(content), label, split) for n, (content, label, split) in enumerate(records)]
    manifest = made(directory, members)
    index = read_index(directory)
    contents = np.array(index.contents())
    for seed in FEW_SEEDS:
        splits = job_splits(index, seed=seed, validation_fraction=fraction)
        parts = [set(contents[numbers].tolist()) for numbers in (splits.train, splits.validation, splits.test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert all(parts)
        assert {int(label) for label in index.label[splits.train]} == {0, 1}
        assert splits.test == index.numbers(TEST)
    asked = [split for _, _, split in records]
    assert (index.split == TEST).sum() == asked.count("test") or "test" not in asked
    assert (index.split == LEFT_OUT).sum() == manifest.conflicts.left_out
    assert sum(vars(manifest.splits).values()) + manifest.conflicts.left_out <= manifest.images


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(CONTENTS, LABELS), max_size=30), st.integers(0, 3), st.sampled_from([0.1, 0.4]))
def test_splits_of_jobs_are_those_of_the_rule(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, str]], seed: int, fraction: float
) -> None:
    directory = tmp_path_factory.mktemp("rule") / "set"
    records = [(20 + n, "ab"[n % 2]) for n in range(8)] + drawn
    made(directory, [Member(str(n), image(content), label) for n, (content, label) in enumerate(records)])
    index = read_index(directory)
    contents, labels, pool = index.contents(), index.label.tolist(), index.numbers(POOL)
    train, validation = split_pool(contents, labels, pool, seed=seed, validation_fraction=fraction)
    assert job_splits(index, seed=seed, validation_fraction=fraction) == Splits(train, validation, index.numbers(TEST))
    assert index.numbers(TEST) == sorted(choose_test(contents, labels))


def test_given_splits_are_what_jobs_get_whatever_their_seed(tmp_path: Path) -> None:
    members = [Member(str(n), image(n), "ab"[n % 2], ("train", "validation", "test")[n // 10]) for n in range(30)]
    made(tmp_path / "set", members)
    index = read_index(tmp_path / "set")
    for seed in FEW_SEEDS:
        splits = job_splits(index, seed=seed, validation_fraction=0.3)
        assert (splits.train, splits.validation, splits.test) == tuple(map(index.numbers, (POOL, VALIDATION, TEST)))


def test_jobs_of_another_seed_validate_on_other_images_and_test_on_the_same(tmp_path: Path) -> None:
    made(tmp_path / "set", folders({"cat": 20, "dog": 20}))
    index = read_index(tmp_path / "set")
    one, other = (job_splits(index, seed=seed, validation_fraction=0.25) for seed in (0, 1))
    assert one.test == other.test
    assert set(one.validation) != set(other.validation)
    assert sorted(one.train + one.validation) == sorted(other.train + other.validation) == index.numbers(POOL)


def test_progress_is_reported_and_may_stop_the_reading(tmp_path: Path) -> None:
    phases: list[tuple[str, int, int | None]] = []
    (tmp_path / "set").mkdir()
    request = Request("ds_1", "pets")
    make_dataset(folders({"cat": 90, "dog": 90}), tmp_path / "set", request, lambda *step: phases.append(step))
    assert list(dict.fromkeys(phase for phase, _, _ in phases)) == ["reading", "describing", "writing"]
    assert [done for phase, done, _ in phases if phase == "reading"][-1] == 180
    (tmp_path / "stopped").mkdir()

    def stop(*_: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        make_dataset(folders({"cat": 90, "dog": 90}), tmp_path / "stopped", request, stop)


def test_what_is_wrong_with_the_archive_comes_through(tmp_path: Path) -> None:
    def broken() -> Iterator[Member]:
        yield from folders({"cat": 100})
        raise BadArchive("damaged_archive", "It breaks off.", "Send it again.")

    with pytest.raises(BadArchive, match="breaks off"):
        made(tmp_path / "set", broken())


def test_hostile_paths_stay_text(tmp_path: Path) -> None:
    names = ['"quoted"', "여섯", "\u202etxt.exe", "a" * 255, "../../etc/passwd", "new\nline"]
    members = [Member(f"c{n % 2}/{name}.png", image(n), label=f"c{n % 2}") for n, name in enumerate(names)]
    made(tmp_path / "set", members)
    with Pack(tmp_path / "set") as pack:
        assert sorted(pack.paths()) == sorted(member.path for member in members)
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        *(PACK_NAME, PATHS_NAME, PREVIEW_NAME, "index.safetensors", "dataset.json")
    }
