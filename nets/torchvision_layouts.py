"""How the sets that torchvision reads lie on the disk, and how their images and class names are got from its loaders.

File names, MD5 sums and addresses are torchvision's own: they are taken from its classes and stand nowhere else.
Paths are relative to the folder of downloads, which is torchvision's `root`.
"""

from __future__ import annotations

import io
import math
import struct
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from pkgutil import resolve_name
from typing import Any

from PIL import Image
from torchvision.datasets.utils import check_integrity  # type: ignore[import-untyped]

from nets.errors import NetError
from specs.torchvision_sets import TorchvisionSet, TorchvisionSplit

# What loaders raise over files that are not what they take them for.
UNREADABLE = (AssertionError, EOFError, LookupError, OSError, RuntimeError, SystemError, TypeError, ValueError)


class DamagedSet(NetError):
    """A file of a set is cut or not the published one, or a folder lacks one; `path` is below that of downloads."""

    def __init__(self, name: str, path: str, problem: str = "is damaged or is not the published file") -> None:
        super().__init__(
            f"downloads/{path} of the data set {name} {problem}. "
            f"Remove it, then place a whole copy or let it be downloaded."
        )
        self.path = path


class Layout(ABC):
    """One set: what is published, what its loader reads, and what comes out of it."""

    def __init__(self, entry: TorchvisionSet) -> None:
        self.entry = entry
        self.loader: Any = resolve_name(entry.loader)

    @abstractmethod
    def published(self, split: TorchvisionSplit) -> dict[str, str]:
        """The MD5 of each published file that a split needs, by its name."""

    @abstractmethod
    def addresses(self) -> list[str]:
        """Where torchvision downloads from: one address for each mirror."""

    @abstractmethod
    def files(self, split: TorchvisionSplit) -> dict[str, str | None]:
        """Paths that must be there for a split to be read, with the MD5 that the loader holds them to, if any."""

    @abstractmethod
    def load(self, root: Path, split: TorchvisionSplit, *, download: bool = False) -> Any:
        """Torchvision's data set of one split; what it raises is torchvision's. With `download` it unpacks, too."""

    def forms(self, name: str, md5: str) -> dict[str, str | None]:
        """The names under which a published file may be placed, the preferred one first, with their MD5 if known."""
        return {name: md5}

    def is_whole(self, path: Path, md5: str | None) -> bool:
        """Whether a placed file is the published one, as far as can be told."""
        return bool(check_integrity(path, md5))

    def item(self, dataset: Any, number: int) -> tuple[bytes, int, str]:
        """An image as the bytes of a file, the number of its class, and a name for it."""
        image, label = dataset[number]
        return png(image), int(label), f"{number:05d}"

    def class_names(self, dataset: Any) -> dict[int, str]:
        """The name of each class by its number."""
        return dict(enumerate(dataset.classes))

    def is_unpacked(self, root: Path, split: TorchvisionSplit) -> bool:
        """Whether everything that the loader reads for a split is there, whole or not."""
        return all((root / path).exists() for path in self.files(split))

    def damaged_file(self, root: Path, split: TorchvisionSplit) -> str:
        """Which file is at fault when a split cannot be read: one with another MD5, else one without."""
        files = self.files(split)
        wrong = [path for path, md5 in files.items() if md5 is not None and not check_integrity(root / path, md5)]
        unchecked = [path for path, md5 in files.items() if md5 is None]
        return (wrong + unchecked + list(files))[0]


class Idx(Layout):
    """MNIST and what came in its files: big-endian arrays of bytes, two files a split."""

    def published(self, split: TorchvisionSplit) -> dict[str, str]:
        prefix = "train" if split == "train" else "t10k"
        return {name: md5 for name, md5 in self.loader.resources if name.startswith(prefix)}

    def addresses(self) -> list[str]:
        return [f"{mirror}{self.loader.resources[0][0]}" for mirror in self.loader.mirrors]

    def files(self, split: TorchvisionSplit) -> dict[str, str | None]:
        # Torchvision knows the MD5 of the packed files only.
        return {f"{self.entry.folder}/{PurePosixPath(name).stem}": None for name in self.published(split)}

    def forms(self, name: str, md5: str) -> dict[str, str | None]:
        return {PurePosixPath(name).stem: None, name: md5}

    def load(self, root: Path, split: TorchvisionSplit, *, download: bool = False) -> Any:
        raw = root / self.entry.folder
        absent = [item for item in self.published(split).items() if not (raw / PurePosixPath(item[0]).stem).exists()]
        loader = self._without_pickle(resources=absent)
        return _paired(loader(root, train=split == "train", download=download))

    def _without_pickle(self, **attributes: Any) -> Any:
        # Torchvision reads `processed/*.pt`, the files of its older versions, if it finds them: pickles of any origin.
        # The name stays, because the loader makes the folder's name of it.
        attributes["_check_legacy_exist"] = lambda _: False
        return type(self.loader.__name__, (self.loader,), attributes)

    def class_names(self, dataset: Any) -> dict[int, str]:
        # "0 - zero" is the digit 0.
        return {number: name.partition(" - ")[0] for number, name in enumerate(dataset.classes)}

    def is_whole(self, path: Path, md5: str | None) -> bool:
        return _has_length_of_its_head(path) if md5 is None else super().is_whole(path, md5)

    def damaged_file(self, root: Path, split: TorchvisionSplit) -> str:
        images, labels = self.files(split)
        # Where the file of images is whole, either the other one is not, or its labels are too few or too large.
        return labels if self.is_whole(root / images, None) else images


class Emnist(Idx):
    """EMNIST: one archive of all variants, each in files like MNIST's."""

    def published(self, split: TorchvisionSplit) -> dict[str, str]:  # noqa: ARG002 - one archive for all
        return {PurePosixPath(self.loader.url).name: self.loader.md5}

    def addresses(self) -> list[str]:
        return [self.loader.url]

    def forms(self, name: str, md5: str) -> dict[str, str | None]:
        return {name: md5}

    def files(self, split: TorchvisionSplit) -> dict[str, str | None]:
        prefix = f"{self.entry.folder}/emnist-{self.entry.variant}-{split}"
        return {f"{prefix}-images-idx3-ubyte": None, f"{prefix}-labels-idx1-ubyte": None}

    def load(self, root: Path, split: TorchvisionSplit, *, download: bool = False) -> Any:
        loader = self._without_pickle()
        return _paired(loader(root, split=self.entry.variant, train=split == "train", download=download))

    def item(self, dataset: Any, number: int) -> tuple[bytes, int, str]:
        # The files hold columns where MNIST's hold rows, and torchvision leaves them lying on their side.
        image, label = dataset[number]
        return png(image.transpose(Image.Transpose.TRANSPOSE)), int(label), f"{number:05d}"

    def class_names(self, dataset: Any) -> dict[int, str]:
        # The letters count from 1; torchvision fills the place of 0.
        return {number: name for number, name in enumerate(dataset.classes) if name != "N/A"}


class Cifar(Layout):
    """CIFAR: an archive of pickled arrays. The loader checks the MD5 of each file before it reads one."""

    def published(self, split: TorchvisionSplit) -> dict[str, str]:  # noqa: ARG002 - one archive for all
        return {self.loader.filename: self.loader.tgz_md5}

    def addresses(self) -> list[str]:
        return [self.loader.url]

    def files(self, split: TorchvisionSplit) -> dict[str, str | None]:  # noqa: ARG002 - the loader checks all of them
        meta = (self.loader.meta["filename"], self.loader.meta["md5"])
        batches = [*self.loader.train_list, *self.loader.test_list, meta]
        return {f"{self.loader.base_folder}/{name}": md5 for name, md5 in batches}

    def load(self, root: Path, split: TorchvisionSplit, *, download: bool = False) -> Any:
        return self.loader(root, train=split == "train", download=download)


class Svhn(Layout):
    """SVHN: a MATLAB file for each split, read as it is published."""

    def published(self, split: TorchvisionSplit) -> dict[str, str]:
        _, name, md5 = self.loader.split_list[split]
        return {name: md5}

    def addresses(self) -> list[str]:
        return [self.loader.split_list["train"][0]]

    def files(self, split: TorchvisionSplit) -> dict[str, str | None]:
        return {**self.published(split)}

    def load(self, root: Path, split: TorchvisionSplit, *, download: bool = False) -> Any:
        return self.loader(root, split=split, download=download)

    def class_names(self, dataset: Any) -> dict[int, str]:  # noqa: ARG002 - torchvision has none
        return {digit: str(digit) for digit in range(10)}


class Stl(Layout):
    """STL-10: an archive of plain arrays. It has 100,000 images without labels, too, which nobody reads here."""

    def published(self, split: TorchvisionSplit) -> dict[str, str]:  # noqa: ARG002 - one archive for all
        return {self.loader.filename: self.loader.tgz_md5}

    def addresses(self) -> list[str]:
        return [self.loader.url]

    def files(self, split: TorchvisionSplit) -> dict[str, str | None]:  # noqa: ARG002 - the loader checks all of them
        arrays = [*self.loader.train_list, *self.loader.test_list, (self.loader.class_names_file, None)]
        return {f"{self.loader.base_folder}/{name}": md5 for name, md5 in arrays}

    def load(self, root: Path, split: TorchvisionSplit, *, download: bool = False) -> Any:
        return self.loader(root, split=split, download=download)


class Flowers(Layout):
    """Oxford 102 Flowers: an archive of JPEG files, and two MATLAB files with labels and splits."""

    def published(self, split: TorchvisionSplit) -> dict[str, str]:  # noqa: ARG002 - one archive for all
        return dict(self.loader._file_dict.values())

    def addresses(self) -> list[str]:
        return [f"{self.loader._download_url_prefix}{self.loader._file_dict['setid'][0]}"]

    def files(self, split: TorchvisionSplit) -> dict[str, str | None]:  # noqa: ARG002 - the loader checks all of them
        tables = [self.loader._file_dict[name] for name in ("label", "setid")]
        return {f"{self.entry.folder}/{name}": md5 for name, md5 in tables} | {self.photographs: None}

    @property
    def photographs(self) -> str:
        """The folder of the images."""
        return f"{self.entry.folder}/jpg"

    def load(self, root: Path, split: TorchvisionSplit, *, download: bool = False) -> Any:
        # As "loader" of an image its path is enough: the file is passed on as it is.
        name = "val" if split == "validation" else split
        return self.loader(root, split=name, download=download, loader=Path)

    def item(self, dataset: Any, number: int) -> tuple[bytes, int, str]:
        path, label = dataset[number]
        return self._photograph(dataset, path), int(label), path.name

    def _photograph(self, dataset: Any, path: Path) -> bytes:
        """The bytes of an image file that lies where it should: unpacked lists of names may be anybody's."""
        if path.parent != Path(dataset.root) / self.photographs or not path.is_file():
            raise DamagedSet(self.entry.name, self.photographs, f"lacks the file {path.name[:80]!r}")
        return path.read_bytes()


class Pets(Flowers):
    """Oxford-IIIT Pet: an archive of JPEG files, and one of text files with labels and splits."""

    def published(self, split: TorchvisionSplit) -> dict[str, str]:  # noqa: ARG002 - two archives for all
        return {PurePosixPath(url).name: md5 for url, md5 in self.loader._RESOURCES}

    def addresses(self) -> list[str]:
        return [self.loader._RESOURCES[0][0]]

    def files(self, split: TorchvisionSplit) -> dict[str, str | None]:
        table = "trainval" if split == "train" else "test"
        return {f"{self.entry.folder}/annotations/{table}.txt": None, self.photographs: None}

    @property
    def photographs(self) -> str:
        return f"{self.entry.folder}/images"

    def load(self, root: Path, split: TorchvisionSplit, *, download: bool = False) -> Any:
        return self.loader(root, split="trainval" if split == "train" else "test", download=download)

    def item(self, dataset: Any, number: int) -> tuple[bytes, int, str]:
        # This loader has no public way to the file: it decodes the image.
        path = dataset._images[number]
        return self._photograph(dataset, path), dataset._labels[number], path.name


def png(image: Image.Image) -> bytes:
    """An image as a PNG file, packed fast rather than small."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _paired(dataset: Any) -> Any:
    if len(dataset.data) != len(dataset.targets):
        raise ValueError(f"{len(dataset.data)} images and {len(dataset.targets)} labels")
    return dataset


def _has_length_of_its_head(path: Path) -> bool:
    """Whether an unpacked IDX file of bytes is as long as its head says: 2 zeros, type 8, dimensions, their sizes."""
    with path.open("rb") as file:
        head = file.read(16)
    dimensions = head[3] if head[:3] == b"\0\0\x08" and len(head) > 3 else 0
    length = 4 + 4 * dimensions
    if dimensions not in {1, 3} or len(head) < length:
        return False
    sizes: tuple[int, ...] = struct.unpack_from(f">{dimensions}I", head, 4)
    return path.stat().st_size == length + math.prod(sizes)
