"""Data sets that torchvision reads: what is known of them without torch, and which files can be placed by hand.

Figures are those of the published sets. Images without labels (STL-10) and the extra part of SVHN are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specs.registry import Registry

TorchvisionSplit = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class TorchvisionSet:
    """A published data set.

    `loader` is an import string of torchvision's class, `variant` what it is asked for where it has several. `target`
    is an import string of the class in `nets` that knows how the set lies on the disk. `native_size` is the side of
    its square images in pixels, None for photographs of many sizes. `train`, `validation` and `test` count images; 0
    where the set has no such split. `files` are the published ones; they can be placed by hand in `folder`, a path
    below the folder of downloads. `licence` is None where the authors name none.
    """

    name: str
    title: str
    loader: str
    target: str
    classes: int
    channels: int
    native_size: int | None
    train: int
    test: int
    folder: str
    files: tuple[str, ...]
    source: str
    licence: str | None = None
    validation: int = 0
    variant: str | None = None

    @property
    def splits(self) -> dict[TorchvisionSplit, int]:
        """Images of each split that the set has, in the order in which they are read."""
        counts: dict[TorchvisionSplit, int] = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: count for split, count in counts.items() if count}

    @property
    def images(self) -> int:
        return self.train + self.validation + self.test


IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _like_mnist(name: str, title: str, loader: str, *, source: str, licence: str) -> TorchvisionSet:
    return TorchvisionSet(
        name=name,
        title=title,
        loader=f"torchvision.datasets:{loader}",
        target="nets.torchvision_layouts:Idx",
        classes=10,
        channels=1,
        native_size=28,
        train=60_000,
        test=10_000,
        folder=f"{loader}/raw",
        files=IDX_FILES,
        source=source,
        licence=licence,
    )


def _emnist(variant: str, title: str, *, classes: int, train: int, test: int) -> TorchvisionSet:
    return TorchvisionSet(
        name=f"emnist-{variant}",
        title=f"EMNIST: {title}, 28 x 28",
        loader="torchvision.datasets:EMNIST",
        target="nets.torchvision_layouts:Emnist",
        variant=variant,
        classes=classes,
        channels=1,
        native_size=28,
        train=train,
        test=test,
        folder="EMNIST/raw",
        files=("gzip.zip",),
        source="Cohen, Afshar, Tapson, van Schaik: EMNIST: an extension of MNIST to handwritten letters, "
        "arXiv 1702.05373, table II",
    )


def _cifar(classes: int) -> TorchvisionSet:
    return TorchvisionSet(
        name=f"cifar{classes}",
        title=f"CIFAR-{classes}: small photographs, 32 x 32",
        loader=f"torchvision.datasets:CIFAR{classes}",
        target="nets.torchvision_layouts:Cifar",
        classes=classes,
        channels=3,
        native_size=32,
        train=50_000,
        test=10_000,
        folder="",
        files=(f"cifar-{classes}-python.tar.gz",),
        source="Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009, chapter 3",
    )


def _grey() -> list[TorchvisionSet]:
    return [
        _like_mnist(
            "mnist",
            "MNIST: handwritten digits, 28 x 28",
            "MNIST",
            source="LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, "
            "Proceedings of the IEEE 86, 1998",
            licence="CC BY-SA 3.0",
        ),
        _like_mnist(
            "fashion-mnist",
            "Fashion-MNIST: pictures of clothing, 28 x 28",
            "FashionMNIST",
            source="Xiao, Rasul, Vollgraf: Fashion-MNIST: a Novel Image Dataset, arXiv 1708.07747",
            licence="MIT",
        ),
        _like_mnist(
            "kmnist",
            "Kuzushiji-MNIST: cursive Japanese characters, 28 x 28",
            "KMNIST",
            source="Clanuwat et al.: Deep Learning for Classical Japanese Literature, arXiv 1812.01718",
            licence="CC BY-SA 4.0",
        ),
        _emnist("balanced", "digits and letters, balanced", classes=47, train=112_800, test=18_800),
        _emnist("byclass", "digits, upper and lower case", classes=62, train=697_932, test=116_323),
        _emnist("bymerge", "digits and letters, look-alikes merged", classes=47, train=697_932, test=116_323),
        _emnist("letters", "letters, both cases as one", classes=26, train=124_800, test=20_800),
        _emnist("digits", "digits, balanced", classes=10, train=240_000, test=40_000),
        _emnist("mnist", "digits, as many as MNIST has", classes=10, train=60_000, test=10_000),
    ]


def _colour() -> list[TorchvisionSet]:
    return [
        _cifar(10),
        _cifar(100),
        TorchvisionSet(
            name="svhn",
            title="Street View House Numbers, cropped digits, 32 x 32",
            loader="torchvision.datasets:SVHN",
            target="nets.torchvision_layouts:Svhn",
            classes=10,
            channels=3,
            native_size=32,
            train=73_257,
            test=26_032,
            folder="",
            files=("train_32x32.mat", "test_32x32.mat"),
            source="Netzer et al.: Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS workshop, "
            "2011",
            licence="for non-commercial use only",
        ),
        TorchvisionSet(
            name="stl10",
            title="STL-10: photographs, 96 x 96",
            loader="torchvision.datasets:STL10",
            target="nets.torchvision_layouts:Stl",
            classes=10,
            channels=3,
            native_size=96,
            train=5_000,
            test=8_000,
            folder="",
            files=("stl10_binary.tar.gz",),
            source="Coates, Lee, Ng: An Analysis of Single-Layer Networks in Unsupervised Feature Learning, "
            "AISTATS 2011",
        ),
    ]


def _photographs() -> list[TorchvisionSet]:
    return [
        TorchvisionSet(
            name="flowers102",
            title="Oxford 102 Flowers: photographs",
            loader="torchvision.datasets:Flowers102",
            target="nets.torchvision_layouts:Flowers",
            classes=102,
            channels=3,
            native_size=None,
            train=1_020,
            validation=1_020,
            test=6_149,
            folder="flowers-102",
            files=("102flowers.tgz", "imagelabels.mat", "setid.mat"),
            source="Nilsback, Zisserman: Automated Flower Classification over a Large Number of Classes, ICVGIP 2008",
        ),
        TorchvisionSet(
            name="oxford-pets",
            title="Oxford-IIIT Pet: photographs of cats and dogs",
            loader="torchvision.datasets:OxfordIIITPet",
            target="nets.torchvision_layouts:Pets",
            classes=37,
            channels=3,
            native_size=None,
            train=3_680,
            test=3_669,
            folder="oxford-iiit-pet",
            files=("images.tar.gz", "annotations.tar.gz"),
            source="Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012",
            licence="CC BY-SA 4.0",
        ),
    ]


TORCHVISION_SETS: Registry[TorchvisionSet] = Registry("torchvision data set", _grey() + _colour() + _photographs())
