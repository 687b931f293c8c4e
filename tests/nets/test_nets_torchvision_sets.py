"""The sets that torchvision reads, as tiny sets in their own formats, through the real loaders, without a network."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as torchvision_datasets

from nets.downloads import INCOMING, why_unreachable
from nets.torchvision_sets import DamagedSet, LabelledImage, SetNotFound, open_set, read_set
from specs.registry import UnknownName
from specs.torchvision_sets import TORCHVISION_SETS, TorchvisionSet
from tests.conftest import png

ROOT = Path(__file__).parents[2]
MNIST_TEST_FILES = ROOT.parent / "shared" / "data" / "mnist-t10k"
SETS = list(TORCHVISION_SETS.values())
LIKE_MNIST = [entry for entry in SETS if entry.target.endswith(":Idx")]
EMNIST = [entry for entry in SETS if entry.target.endswith(":Emnist")]
PHOTOGRAPHS = [entry for entry in SETS if entry.native_size is None]
DIGITS = TORCHVISION_SETS["mnist"]
# The images of a tiny set, by split: pixels as they must come out (or the bytes of a file), and the class's number.
Tiny = dict[str, list[tuple[Any, int]]]
each_set = pytest.mark.parametrize("entry", SETS, ids=lambda entry: entry.name)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def write(path: Path, data: bytes) -> str:
    """Writes a file; its MD5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return md5(data)


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def mat(**arrays: Any) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


def idx(array: NDArray[np.uint8]) -> bytes:
    """An array in the format of MNIST's files."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def squares(entry: TorchvisionSet, split: str, count: int = 5) -> list[tuple[NDArray[np.uint8], int]]:
    """Random pixels of shape (height, width[, 3]) and their classes, the first and the last among them."""
    rng = np.random.default_rng([*entry.name.encode(), len(split)])
    side = entry.native_size or 20
    pixels = rng.integers(0, 256, (count, side, side, 3)[: 3 + (entry.channels == 3)], dtype=np.uint8)
    return list(zip(pixels, [0, entry.classes - 1, *rng.integers(0, entry.classes, count - 2).tolist()], strict=True))


def arrays(items: list[tuple[NDArray[np.uint8], int]]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return np.stack([pixels for pixels, _ in items]), np.array([label for _, label in items], dtype=np.uint8)


def tiny_of(entry: TorchvisionSet) -> Tiny:
    return {split: squares(entry, split) for split in entry.splits}


def make_idx(entry: TorchvisionSet, folder: Path, patch: pytest.MonkeyPatch) -> Tiny:
    tiny, resources = tiny_of(entry), []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels, labels = arrays(tiny[split])
        for name, data in ((f"{prefix}-images-idx3-ubyte", pixels), (f"{prefix}-labels-idx1-ubyte", labels)):
            packed = write(folder / entry.folder / f"{name}.gz", gzip.compress(idx(data), mtime=0))
            resources.append((f"{name}.gz", packed))
    patch.setattr(resolve_name(entry.loader), "resources", resources)
    return tiny


def make_emnist(entry: TorchvisionSet, folder: Path, patch: pytest.MonkeyPatch) -> Tiny:
    tiny, packed = tiny_of(entry), io.BytesIO()
    first = 1 if entry.variant == "letters" else 0
    with zipfile.ZipFile(packed, "w") as archive:
        for split, items in tiny.items():
            pixels, labels = arrays(items)
            prefix = f"gzip/emnist-{entry.variant}-{split}"
            # The published files hold columns first.
            archive.writestr(f"{prefix}-images-idx3-ubyte.gz", gzip.compress(idx(pixels.transpose(0, 2, 1))))
            archive.writestr(f"{prefix}-labels-idx1-ubyte.gz", gzip.compress(idx(labels + np.uint8(first))))
    digest = write(folder / entry.folder / "gzip.zip", packed.getvalue())
    patch.setattr(torchvision_datasets.EMNIST, "md5", digest)
    return tiny


def make_cifar(entry: TorchvisionSet, folder: Path, patch: pytest.MonkeyPatch) -> Tiny:
    loader, tiny, files = resolve_name(entry.loader), tiny_of(entry), {}
    key = "labels" if entry.classes == 10 else "fine_labels"
    names = {"train": [name for name, _ in loader.train_list], "test": [name for name, _ in loader.test_list]}
    for split, batches in names.items():
        for part, name in zip(np.array_split(np.arange(len(tiny[split])), len(batches)), batches, strict=True):
            pixels, labels = arrays([tiny[split][number] for number in part])
            content = {"data": pixels.transpose(0, 3, 1, 2).reshape(len(part), -1), key: labels.tolist()}
            files[name] = pickle.dumps(content)
    files[loader.meta["filename"]] = pickle.dumps({loader.meta["key"]: [f"class {n}" for n in range(entry.classes)]})
    packed = tar({f"{loader.base_folder}/{name}": data for name, data in files.items()})
    patch.setattr(loader, "tgz_md5", write(folder / loader.filename, packed))
    patch.setattr(loader, "train_list", [[name, md5(files[name])] for name in names["train"]])
    patch.setattr(loader, "test_list", [[name, md5(files[name])] for name in names["test"]])
    patch.setattr(loader, "meta", {**loader.meta, "md5": md5(files[loader.meta["filename"]])})
    return tiny


def make_svhn(entry: TorchvisionSet, folder: Path, patch: pytest.MonkeyPatch) -> Tiny:
    loader, tiny = torchvision_datasets.SVHN, tiny_of(entry)
    split_list = dict(loader.split_list)
    for split, items in tiny.items():
        pixels, labels = arrays(items)
        # The published labels are 1 to 10, where 10 is the digit 0.
        data = mat(X=pixels.transpose(1, 2, 3, 0), y=np.where(labels == 0, 10, labels)[:, None])
        url, name, _ = split_list[split]
        split_list[split] = [url, name, write(folder / name, data)]
    patch.setattr(loader, "split_list", split_list)
    return tiny


def make_stl(entry: TorchvisionSet, folder: Path, patch: pytest.MonkeyPatch) -> Tiny:
    loader, tiny = torchvision_datasets.STL10, tiny_of(entry)
    files = {"class_names.txt": b"".join(b"class %d\n" % number for number in range(10)), "unlabeled_X.bin": b"\0" * 9}
    for split, items in tiny.items():
        pixels, labels = arrays(items)
        files[f"{split}_X.bin"] = pixels.transpose(0, 3, 2, 1).tobytes()
        files[f"{split}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
    packed = tar({f"{loader.base_folder}/{name}": data for name, data in files.items()})
    patch.setattr(loader, "tgz_md5", write(folder / loader.filename, packed))
    for attribute in ("train_list", "test_list"):
        patch.setattr(loader, attribute, [[name, md5(files[name])] for name, _ in getattr(loader, attribute)])
    return tiny


def photographs(entry: TorchvisionSet) -> Tiny:
    """JPEG files of all classes in each split."""
    return {
        split: [
            (png(np.full((9, 12, 3), (index * 80, label * 2, 7)), kind="JPEG"), label) for label in range(entry.classes)
        ]
        for index, split in enumerate(entry.splits)
    }


def make_flowers(entry: TorchvisionSet, folder: Path, patch: pytest.MonkeyPatch) -> Tiny:
    loader, tiny = torchvision_datasets.Flowers102, photographs(entry)
    items = [item for split in tiny.values() for item in split]
    images = {f"jpg/image_{number:05d}.jpg": data for number, (data, _) in enumerate(items, 1)}
    numbers = np.arange(1, len(items) + 1).reshape(3, -1)
    contents = {
        "image": tar(images),
        "label": mat(labels=[label + 1 for _, label in items]),
        "setid": mat(trnid=numbers[0], valid=numbers[1], tstid=numbers[2]),
    }
    names = {key: name for key, (name, _) in loader._file_dict.items()}
    published = {key: (names[key], write(folder / entry.folder / names[key], contents[key])) for key in contents}
    patch.setattr(loader, "_file_dict", published)
    return tiny


def make_pets(entry: TorchvisionSet, folder: Path, patch: pytest.MonkeyPatch) -> Tiny:
    loader, tiny = torchvision_datasets.OxfordIIITPet, photographs(entry)
    images, annotations = {}, {}
    for split, table in (("train", "trainval"), ("test", "test")):
        names = [f"big_dog_{chr(97 + label % 26)}{label // 26}_{split}" for _, label in tiny[split]]
        images |= {f"images/{name}.jpg": data for name, (data, _) in zip(names, tiny[split], strict=True)}
        lines = [f"{name} {label + 1} 1 1\n" for name, (_, label) in zip(names, tiny[split], strict=True)]
        annotations[f"annotations/{table}.txt"] = "".join(lines).encode()
    packed = {"images.tar.gz": tar(images), "annotations.tar.gz": tar(annotations)}
    urls = {Path(url).name: url for url, _ in loader._RESOURCES}
    resources = [(urls[name], write(folder / entry.folder / name, data)) for name, data in packed.items()]
    patch.setattr(loader, "_RESOURCES", tuple(resources))
    return tiny


MAKERS: dict[str, Callable[[TorchvisionSet, Path, pytest.MonkeyPatch], Tiny]] = {
    "Idx": make_idx,
    "Emnist": make_emnist,
    "Cifar": make_cifar,
    "Svhn": make_svhn,
    "Stl": make_stl,
    "Flowers": make_flowers,
    "Pets": make_pets,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "downloads"


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TorchvisionSet], Tiny]:
    """Makes a tiny set and places its published files where they are to be placed by hand."""

    def placed(entry: TorchvisionSet) -> Tiny:
        return MAKERS[entry.target.partition(":")[2]](entry, folder, monkeypatch)

    return placed


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for by HTTP fails at once, on every machine."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
    # Made anew when next asked for: it keeps the proxies of the time when it was made.
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def contents(image: LabelledImage, wanted: Any) -> bytes:
    """What is to be compared: pixels of arrays, bytes of photographs."""
    if isinstance(wanted, bytes):
        return image.data
    with Image.open(io.BytesIO(image.data), formats=["PNG"]) as opened:
        return np.asarray(opened).tobytes()


def check(entry: TorchvisionSet, images: list[LabelledImage], tiny: Tiny) -> None:
    wanted = [(split, *item) for split, items in tiny.items() for item in items]
    assert [image.split for image in images] == [split for split, _, _ in wanted]
    for image, (_, pixels, _) in zip(images, wanted, strict=True):
        assert contents(image, pixels) == (pixels if isinstance(pixels, bytes) else pixels.tobytes())
    assert len({image.path for image in images}) == len(images)
    # Each class has one name and each name one class.
    pairs = {(image.label, label) for image, (_, _, label) in zip(images, wanted, strict=True)}
    assert len({name for name, _ in pairs}) == len({label for _, label in pairs}) == len(pairs)


def packed_files(entry: TorchvisionSet, folder: Path) -> list[Path]:
    return [folder / entry.folder / name for name in entry.files if not name.endswith(".mat")]


@each_set
def test_placed_files_are_unpacked_and_read(entry: TorchvisionSet, folder: Path, place: Any) -> None:
    tiny = place(entry)
    first = list(read_set(entry.name, folder, download=False))
    check(entry, first, tiny)
    # From now on the unpacked files will do.
    for path in packed_files(entry, folder):
        path.unlink()
    assert list(read_set(entry.name, folder, download=False)) == first
    assert not list(folder.glob(f"{INCOMING}*"))


@each_set
def test_placed_files_are_read_without_a_network(
    entry: TorchvisionSet, folder: Path, place: Any, no_network: None
) -> None:
    tiny = place(entry)
    check(entry, list(read_set(entry.name, folder)), tiny)


@each_set
def test_a_folder_of_any_name_will_do(entry: TorchvisionSet, folder: Path, place: Any) -> None:
    tiny = place(entry)
    (folder / "from a stick" / "sets").mkdir(parents=True)
    for number, name in enumerate(entry.files):
        shutil.move(folder / entry.folder / name, folder / "from a stick" / ("sets" if number else "") / name)
    check(entry, list(read_set(entry.name, folder, download=False)), tiny)


@each_set
def test_what_differs_from_the_published_set_is_noted(entry: TorchvisionSet, folder: Path, place: Any) -> None:
    tiny = place(entry)
    reading = open_set(entry.name, folder, download=False)
    assert reading.notes == []
    list(reading.images)
    differing = [split for split, count in entry.splits.items() if len(tiny[split]) != count]
    assert len(reading.notes) == len(differing)
    for note, split in zip(reading.notes, differing, strict=True):
        assert split in note
        assert f"{entry.splits[split]:,}" in note


@each_set
def test_the_figures_are_those_of_torchvision(entry: TorchvisionSet, folder: Path, place: Any) -> None:
    loader = resolve_name(entry.loader)
    names = loader.classes_split_dict[entry.variant] if entry.variant else getattr(loader, "classes", None)
    if names is not None:
        assert len([name for name in names if name != "N/A"]) == entry.classes
    place(entry)
    for image in read_set(entry.name, folder, download=False):
        with Image.open(io.BytesIO(image.data)) as opened:
            assert len(opened.getbands()) == entry.channels
            assert entry.native_size is None or opened.size == (entry.native_size, entry.native_size)
    assert entry.images == sum(entry.splits.values())


def test_class_names_are_for_people(folder: Path, place: Any) -> None:
    names = {}
    for entry in SETS:
        place(entry)
        names[entry.name] = {image.label for image in read_set(entry.name, folder, download=False)}
        assert all(name.strip() == name and name for name in names[entry.name])
    assert {"0", "9"} <= names["mnist"]
    assert {"T-shirt/top", "Ankle boot"} <= names["fashion-mnist"]
    assert {"a", "z"} <= names["emnist-letters"]
    assert {"0", "t"} <= names["emnist-balanced"]
    assert {"0", "9"} <= names["svhn"]
    assert {"pink primrose", "blackberry lily"} <= names["flowers102"]
    assert len(names["oxford-pets"]) == 37
    assert "Big Dog A0" in names["oxford-pets"]


def test_paths_name_split_and_image(folder: Path, place: Any) -> None:
    for name, first in (("mnist", "train/00000"), ("flowers102", "train/image_00001.jpg")):
        place(TORCHVISION_SETS[name])
        assert next(read_set(name, folder, download=False)).path == first


@each_set
def test_without_a_network_the_error_says_what_to_place_where(
    entry: TorchvisionSet, folder: Path, no_network: None
) -> None:
    with pytest.raises(SetNotFound) as caught:
        open_set(entry.name, folder)
    sentence = str(caught.value)
    assert entry.name in sentence
    assert f"could not be downloaded: {os.strerror(errno.ECONNREFUSED)}." in sentence
    assert all(name in sentence for name in entry.files)
    assert f" in downloads/{entry.folder}".rstrip("/") in sentence
    assert str(folder) not in sentence
    assert "\n" not in sentence
    assert not folder.exists() or not list(folder.iterdir())


@each_set
def test_nothing_is_downloaded_that_is_not_to_be(entry: TorchvisionSet, folder: Path, served: Any) -> None:
    asked = served(entry)
    with pytest.raises(SetNotFound, match="switched off"):
        open_set(entry.name, folder, download=False)
    assert asked == []


class Request(NamedTuple):
    """A request to the server of tiny sets, and how long sockets waited by default when it came."""

    method: str
    file: str
    timeout: float | None


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, folder: Path) -> Iterator[Any]:
    """Serves the published files of a tiny set on the loopback, where torchvision is told to look for them."""
    asked: list[Request] = []
    shelf = tmp_path / "served"
    shelf.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(Request(self.command, Path(self.path).name, socket.getdefaulttimeout()))

        def log_error(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(shelf)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def serve(entry: TorchvisionSet) -> list[Request]:
        place(entry)
        for name in entry.files:
            shutil.move(folder / entry.folder / name, shelf / name)
        shutil.rmtree(folder)
        _look_at(entry, f"http://127.0.0.1:{server.server_port}/", monkeypatch)
        return asked

    yield serve
    server.shutdown()
    server.server_close()


def _look_at(entry: TorchvisionSet, address: str, patch: pytest.MonkeyPatch) -> None:
    loader = resolve_name(entry.loader)
    if hasattr(loader, "url"):
        patch.setattr(loader, "url", address + entry.files[0])
    elif hasattr(loader, "mirrors"):
        patch.setattr(loader, "mirrors", [address])
    elif hasattr(loader, "split_list"):
        lists = {split: [address + name, name, digest] for split, (_, name, digest) in loader.split_list.items()}
        patch.setattr(loader, "split_list", lists)
    elif hasattr(loader, "_file_dict"):
        patch.setattr(loader, "_download_url_prefix", address)
    else:
        patch.setattr(loader, "_RESOURCES", tuple((address + Path(u).name, digest) for u, digest in loader._RESOURCES))


@each_set
def test_what_is_absent_is_downloaded_once(entry: TorchvisionSet, folder: Path, served: Any) -> None:
    asked = served(entry)
    first = list(read_set(entry.name, folder))
    assert {image.split for image in first} == set(entry.splits)
    fetched = [request for request in asked if request.method == "GET"]
    assert {request.file for request in fetched} == set(entry.files)
    # Nobody waits for ever for a server that says no more; afterwards everything is as it was.
    assert None not in {request.timeout for request in fetched}
    assert socket.getdefaulttimeout() is None
    asked.clear()
    assert list(read_set(entry.name, folder)) == first
    assert asked == []
    assert not list(folder.glob(f"{INCOMING}*"))


@pytest.mark.parametrize("entry", [entry for entry in SETS if len(entry.files) > 1], ids=lambda entry: entry.name)
def test_only_what_is_absent_is_downloaded(entry: TorchvisionSet, folder: Path, tmp_path: Path, served: Any) -> None:
    asked = served(entry)
    (folder / entry.folder).mkdir(parents=True, exist_ok=True)
    shutil.move(tmp_path / "served" / entry.files[0], folder / entry.folder / entry.files[0])
    assert {image.split for image in read_set(entry.name, folder)} == set(entry.splits)
    assert {request.file for request in asked if request.method == "GET"} == set(entry.files[1:])


def test_a_download_that_is_not_the_published_file_is_not_kept(folder: Path, tmp_path: Path, served: Any) -> None:
    served(DIGITS)
    (tmp_path / "served" / "t10k-images-idx3-ubyte.gz").write_bytes(b"please sign in first")
    with pytest.raises(SetNotFound, match="corrupted"):
        open_set("mnist", folder)
    assert socket.getdefaulttimeout() is None
    assert list(folder.iterdir()) == []


def test_an_address_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert why_unreachable([address, address], seconds=0.2) in {"no answer within 0.2 s", "timed out"}


def test_one_mirror_that_answers_is_enough(served: Any, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    served(DIGITS)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    alive = f"{torchvision_datasets.MNIST.mirrors[0]}nothing-here"
    assert why_unreachable(["http://mirror.invalid/x", alive]) is None
    assert why_unreachable(["http://mirror.invalid/x"]) is not None


@pytest.mark.parametrize("entry", LIKE_MNIST, ids=lambda entry: entry.name)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_part_is_read_without_splits_and_noted(
    entry: TorchvisionSet, split: str, packed: bool, folder: Path, place: Any, no_network: None
) -> None:
    tiny = place(entry)
    prefix = "train" if split == "train" else "t10k"
    for name in entry.files:
        path = folder / entry.folder / name
        if name.startswith(prefix) and not packed:
            write(path.with_suffix(""), gzip.decompress(path.read_bytes()))
        if not name.startswith(prefix) or not packed:
            path.unlink()
    reading = open_set(entry.name, folder)
    images = list(reading.images)
    assert [image.split for image in images] == [None] * len(tiny[split])
    assert [contents(image, pixels) for image, (pixels, _) in zip(images, tiny[split], strict=True)] == [
        pixels.tobytes() for pixels, _ in tiny[split]
    ]
    assert f"Only the {split} images" in reading.notes[0]
    assert all(name in reading.notes[0] for name in entry.files if not name.startswith(prefix))


def test_one_file_of_svhn_is_a_part(folder: Path, place: Any, no_network: None) -> None:
    tiny = place(TORCHVISION_SETS["svhn"])
    (folder / "test_32x32.mat").unlink()
    reading = open_set("svhn", folder)
    assert [image.split for image in reading.images] == [None] * len(tiny["train"])
    assert "test_32x32.mat" in reading.notes[0]


def test_half_a_split_is_no_part(folder: Path, place: Any, no_network: None) -> None:
    place(DIGITS)
    for name in DIGITS.files[1:]:
        (folder / DIGITS.folder / name).unlink()
    with pytest.raises(SetNotFound):
        open_set("mnist", folder)


def test_the_other_part_is_fetched_as_soon_as_it_can_be(folder: Path, tmp_path: Path, served: Any) -> None:
    asked = served(DIGITS)
    for name in DIGITS.files[2:]:
        write(folder / "mnist" / name, (tmp_path / "served" / name).read_bytes())
    assert {image.split for image in read_set("mnist", folder, download=False)} == {None}
    assert {image.split for image in read_set("mnist", folder)} == {"train", "test"}
    assert not any("t10k" in request.file for request in asked)


@pytest.mark.parametrize("entry", LIKE_MNIST, ids=lambda entry: entry.name)
def test_a_folder_of_the_sets_name_takes_packed_and_plain_files(
    entry: TorchvisionSet, folder: Path, place: Any
) -> None:
    tiny = place(entry)
    for number, name in enumerate(entry.files):
        data = (folder / entry.folder / name).read_bytes()
        plain = number % 2 == 0
        write(folder / entry.name / (Path(name).stem if plain else name), gzip.decompress(data) if plain else data)
    shutil.rmtree(folder / entry.folder)
    check(entry, list(read_set(entry.name, folder, download=False)), tiny)


def test_files_of_one_name_are_told_apart(folder: Path, place: Any) -> None:
    """MNIST, Fashion-MNIST and Kuzushiji-MNIST share the names of their files."""
    tiny = {entry.name: place(entry) for entry in LIKE_MNIST}
    shutil.rmtree(folder / DIGITS.folder)
    with pytest.raises(SetNotFound):
        open_set("mnist", folder, download=False)
    entry = TORCHVISION_SETS["kmnist"]
    check(entry, list(read_set("kmnist", folder, download=False)), tiny["kmnist"])


@each_set
def test_a_damaged_archive_is_named(entry: TorchvisionSet, folder: Path, place: Any, no_network: None) -> None:
    place(entry)
    path = folder / entry.folder / entry.files[-1]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DamagedSet, match="Remove it") as caught:
        list(read_set(entry.name, folder))
    assert caught.value.path == f"{entry.folder}/{entry.files[-1]}".lstrip("/")
    assert f"downloads/{caught.value.path}" in str(caught.value)
    assert path.exists()


UNPACKED = [
    ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
    ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte"),
    ("emnist-digits", "EMNIST/raw/emnist-digits-test-images-idx3-ubyte"),
    ("cifar10", "cifar-10-batches-py/data_batch_3"),
    ("cifar10", "cifar-10-batches-py/batches.meta"),
    ("cifar100", "cifar-100-python/test"),
    ("svhn", "test_32x32.mat"),
    ("stl10", "stl10_binary/train_y.bin"),
    ("stl10", "stl10_binary/class_names.txt"),
    ("flowers102", "flowers-102/setid.mat"),
    ("oxford-pets", "oxford-iiit-pet/annotations/trainval.txt"),
]


@pytest.mark.parametrize(("name", "path"), UNPACKED)
@pytest.mark.parametrize("left", [0.0, 0.5])
def test_a_cut_file_is_named(name: str, path: str, left: float, folder: Path, place: Any, no_network: None) -> None:
    place(TORCHVISION_SETS[name])
    list(read_set(name, folder))
    data = (folder / path).read_bytes()
    (folder / path).write_bytes(data[: int(len(data) * left)])
    with pytest.raises(DamagedSet) as caught:
        list(read_set(name, folder))
    assert caught.value.path == path


@pytest.mark.parametrize("name", ["mnist", "emnist-letters"])
@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 3, 200], [1, 2, 3], list(range(1, 9))], ids=["no such class", "too few", "too many"]
)
def test_labels_that_cannot_be_are_told(
    name: str, labels: list[int], folder: Path, place: Any, no_network: None
) -> None:
    entry = TORCHVISION_SETS[name]
    place(entry)
    list(read_set(name, folder))
    (path,) = (folder / entry.folder).glob("*train-labels-idx1-ubyte")
    path.write_bytes(idx(np.array(labels, dtype=np.uint8)))
    with pytest.raises(DamagedSet) as caught:
        list(read_set(name, folder))
    assert caught.value.path == f"{entry.folder}/{path.name}"


def test_a_cut_file_in_the_folder_of_the_sets_name_is_named_where_it_lies(folder: Path, place: Any) -> None:
    place(DIGITS)
    data = gzip.decompress((folder / DIGITS.folder / DIGITS.files[0]).read_bytes())
    write(folder / "mnist" / "train-images-idx3-ubyte", data[:-1])
    with pytest.raises(DamagedSet) as caught:
        open_set("mnist", folder, download=False)
    assert caught.value.path == "mnist/train-images-idx3-ubyte"


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("part", ["train", "test", "meta"])
def test_no_pickle_is_opened_but_a_published_one(
    name: str, part: str, folder: Path, tmp_path: Path, place: Any, no_network: None
) -> None:
    place(TORCHVISION_SETS[name])
    list(read_set(name, folder))
    loader = resolve_name(TORCHVISION_SETS[name].loader)
    victim = {"train": loader.train_list[0][0], "test": loader.test_list[0][0], "meta": loader.meta["filename"]}[part]
    (folder / loader.base_folder / victim).write_bytes(pickle.dumps(Payload(tmp_path / "owned")))
    with pytest.raises(DamagedSet) as caught:
        list(read_set(name, folder))
    assert caught.value.path == f"{loader.base_folder}/{victim}"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("entry", LIKE_MNIST + EMNIST, ids=lambda entry: entry.name)
def test_files_of_old_versions_of_torchvision_are_not_opened(entry: TorchvisionSet, folder: Path, place: Any) -> None:
    tiny = place(entry)
    processed = folder / Path(entry.folder).parent / "processed"
    processed.mkdir(parents=True)
    names = (
        [f"training_{entry.variant}.pt", f"test_{entry.variant}.pt"] if entry.variant else ["training.pt", "test.pt"]
    )
    for name in names:
        torch.save((torch.zeros(2, 28, 28, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)), processed / name)
    check(entry, list(read_set(entry.name, folder, download=False)), tiny)


@pytest.mark.parametrize("entry", PHOTOGRAPHS, ids=lambda entry: entry.name)
def test_a_photograph_that_is_missing_is_named(entry: TorchvisionSet, folder: Path, place: Any) -> None:
    place(entry)
    last = list(read_set(entry.name, folder, download=False))[-1].path.partition("/")[2]
    (path,) = (folder / entry.folder).glob(f"*/{last}")
    path.unlink()
    with pytest.raises(DamagedSet) as caught:
        list(read_set(entry.name, folder, download=False))
    assert last in str(caught.value)
    # What the sentence asks for helps: the archive is still there.
    shutil.rmtree(folder / caught.value.path)
    assert list(read_set(entry.name, folder, download=False))[-1].path.endswith(last)


@pytest.mark.parametrize("name", ["../../../secret", "../annotations/secret", "a/../../../../secret"])
def test_a_list_cannot_name_files_elsewhere(name: str, folder: Path, place: Any) -> None:
    place(TORCHVISION_SETS["oxford-pets"])
    list(read_set("oxford-pets", folder, download=False))
    base = folder / "oxford-iiit-pet"
    (base / "images" / "a").mkdir()
    for elsewhere in (folder.parent, base / "annotations"):
        (elsewhere / "secret_1.jpg").write_bytes(b"secret")
    table = base / "annotations" / "test.txt"
    first, *rest = table.read_text().splitlines(keepends=True)
    table.write_text("".join([first.replace(first.split()[0], f"{name}_1"), *rest]))
    assert (base / "images" / f"{name}_1.jpg").read_bytes() == b"secret"
    with pytest.raises(DamagedSet, match="secret"):
        list(read_set("oxford-pets", folder, download=False))


def test_what_a_killed_process_left_is_removed_when_it_is_old(folder: Path, place: Any) -> None:
    place(DIGITS)
    old, new = folder / f"{INCOMING}old", folder / f"{INCOMING}new"
    for path in (old, new):
        write(path / "MNIST" / "part", b"half a file")
    for path in (old / "MNIST" / "part", old / "MNIST", old):
        os.utime(path, (0, 0))
    os.utime(new, (0, 0))
    list(read_set("mnist", folder, download=False))
    assert not old.exists()
    assert (new / "MNIST" / "part").exists()


def test_what_others_are_downloading_is_not_taken_for_placed(folder: Path, place: Any) -> None:
    place(DIGITS)
    shutil.move(folder / "MNIST", folder / f"{INCOMING}other")
    with pytest.raises(SetNotFound):
        open_set("mnist", folder, download=False)


def test_an_unknown_name_offers_known_ones(folder: Path) -> None:
    with pytest.raises(UnknownName, match="fashion-mnist"):
        open_set("fashon-mnist", folder)


def test_the_list_of_sets_needs_no_torch() -> None:
    program = "import sys, specs.torchvision_sets; print(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "torchvision", "numpy"} & set(ended.stdout.split())


@each_set
def test_the_docs_have_its_figures_and_files(entry: TorchvisionSet) -> None:
    lines = (ROOT / "docs" / "torchvision-sets.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{entry.name}` |")]
    assert all(f"{count:,}" in line for count in entry.splits.values())
    assert f"| {entry.classes} |" in line
    assert all(f"`{name}`" in line for name in entry.files)
    assert f"`downloads/{entry.folder}".rstrip("/") + "`" in line
    assert (entry.licence or "none named") in line


@pytest.mark.skipif(not MNIST_TEST_FILES.is_dir(), reason="the test images of MNIST are not beside the repository")
def test_the_real_test_images_of_mnist_are_read(folder: Path, no_network: None) -> None:
    shutil.copytree(MNIST_TEST_FILES, folder / "mnist-t10k")
    reading = open_set("mnist", folder)
    images = list(reading.images)
    assert len(images) == DIGITS.test == 10_000
    labels = Counter(image.label for image in images)
    assert labels == dict(zip("0123456789", (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009), strict=True))
    assert {image.split for image in images} == {None}
    assert len(reading.notes) == 1
