"""Pretrained weights: torchvision's, found on this machine or downloaded once, and fitted to a network.

torchvision publishes pickled files. They are read by PyTorch's loader that takes nothing but tensors, in this file
only, after the SHA-256 was held against the digits in the file's name, and kept as safetensors from then on.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model_weights  # type: ignore[import-untyped]

from formats.files import sha256_of
from nets.datasets import Dataset
from nets.downloads import OURS_TO_TELL, in_a_few_words, stalls_end, why_unreachable
from nets.errors import PretrainedDamaged, PretrainedMismatch, PretrainedUnavailable, is_out_of_memory
from nets.layers import layers_of
from specs.options import Options
from specs.pretrained import find_pretrained

KNOCK_SECONDS = 5.0
SHOWN_LAYERS = 4
# torchvision's own networks of these weights turn ImageNet's normalisation into this one before their first layer.
HALVES = {"googlenet", "inception_v3"}
# The published files of densenets are older than the rule that module names have no dots.
OLD_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$")


@dataclass(frozen=True)
class Published:
    """Weights as they are published: the address of the file, and the normalisation of images they expect (RGB)."""

    address: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def file(self) -> PurePosixPath:
        """The file's name; it ends with the first digits of its SHA-256."""
        return PurePosixPath(self.address.rpartition("/")[2])

    @property
    def digits(self) -> str:
        return self.file.stem.rpartition("-")[2]


@dataclass(frozen=True)
class Weights:
    """Published weights that are on this machine, in a safetensors file."""

    published: Published
    path: Path

    def load_into(self, network: nn.Module) -> None:
        """Puts them into a network with fresh weights.

        Heads of another number of classes keep their fresh weights. For images of one channel the first convolution
        takes the sum over the three channels, which is what it would give for grey in all three. Raises
        PretrainedMismatch if any other layer is missing or of another shape.
        """
        given = {_renamed(name): tensor for name, tensor in _read(self.path).items()}
        state, layers = network.state_dict(), layers_of(network)
        first = f"{layers.first}.weight"
        if first in given and given[first].ndim == 4 and state[first].shape[1] == 1:
            given[first] = given[first].sum(dim=1, keepdim=True)
        fitting = {name: value for name, value in given.items() if name in state and value.shape == state[name].shape}
        heads = {f"{head}.{part}" for head in layers.heads for part in ("weight", "bias")}
        # Counters of batch normalisation are not in all files, and nothing here depends on them.
        strange = [name for name in state if name not in heads | fitting.keys() and not _is_counter(name)]
        if strange:
            raise PretrainedMismatch(", ".join(strange[:SHOWN_LAYERS]) + (" ..." if strange[SHOWN_LAYERS:] else ""))
        network.load_state_dict(fitting, strict=False)

    def normalise(self, data: Dataset) -> Dataset:
        """The data with the normalisation that they expect; grey images take the mean of the three channels'."""
        mean, std = self.published.mean, self.published.std
        if data.channels != len(mean):
            mean, std = ((sum(values) / len(values),) * data.channels for values in (mean, std))
        return replace(data, mean=mean, std=std)


@dataclass(frozen=True)
class Places:
    """Folders for files of weights: `placed` by the user, if there is one, and `kept` by us; `kept` may not exist."""

    placed: Path | None
    kept: Path


def published(network: Options, weights: str) -> Published:
    """What torchvision says of the weights of this name for a network that `specs.pretrained` lists."""
    found = find_pretrained(network)
    assert found is not None, f"{network.name} was accepted with weights that there are not"
    entry = get_model_weights(found.peer)[weights]
    if found.name in HALVES:
        return Published(entry.url, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    look = entry.transforms()
    return Published(entry.url, tuple(look.mean), tuple(look.std))


def find(weights: Published, places: Places) -> Weights:
    """The weights on this machine: torchvision's file is made into safetensors, and downloaded if it is nowhere.

    Raises PretrainedUnavailable within seconds where there is no internet, PretrainedDamaged for a file that is not
    the published one.
    """
    return Weights(weights, _found(weights, places))


def _found(weights: Published, places: Places) -> Path:
    kept = places.kept / f"{weights.file.stem}.safetensors"
    for folder in (places.placed, places.kept):
        if folder is not None and (folder / kept.name).is_file():
            return folder / kept.name
        if folder is not None and (folder / weights.file.name).is_file():
            return kept if kept.is_file() else _convert(folder / weights.file.name, kept, weights)
    download = _download(weights, places.kept)
    try:
        return _convert(download, kept, weights)
    finally:
        download.unlink(missing_ok=True)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _renamed(name: str) -> str:
    found = OLD_NAME.match(name)
    return found.group(1) + found.group(2) if found else name


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise PretrainedDamaged(path.name, f"this is not a safetensors file ({error})") from error


def _convert(source: Path, target: Path, weights: Published) -> Path:
    """Writes torchvision's file as safetensors, whole or not at all."""
    if not sha256_of(source).startswith(weights.digits):
        raise PretrainedDamaged(source.name, "its SHA-256 does not begin with the digits in its name")
    tensors = _unpacked(source)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    filling = target.with_suffix(f".{secrets.token_hex(8)}.tmp")
    try:
        save_file(tensors, filling)
        with filling.open("rb+") as file:
            os.fsync(file.fileno())
        filling.replace(target)
    finally:
        filling.unlink(missing_ok=True)
    return target


def _unpacked(source: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, OSError):
            raise
        raise PretrainedDamaged(source.name, "it is not a file of tensors") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise PretrainedDamaged(source.name, "it holds other things than tensors")
    return {str(name): tensor.detach().contiguous().clone() for name, tensor in found.items()}


def _download(weights: Published, folder: Path) -> Path:
    cause = why_unreachable([weights.address], seconds=KNOCK_SECONDS)
    if cause is not None:
        raise PretrainedUnavailable(weights.file.name, cause)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"{secrets.token_hex(8)}.{weights.file.name}"
    try:
        with stalls_end():
            torch.hub.download_url_to_file(weights.address, str(target), hash_prefix=weights.digits, progress=False)
    except (OSError, HTTPException, RuntimeError) as error:
        with suppress(FileNotFoundError):
            target.unlink()
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in OURS_TO_TELL):
            raise
        raise PretrainedUnavailable(weights.file.name, in_a_few_words(error)) from error
    return target
