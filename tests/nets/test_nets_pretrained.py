"""Pretrained weights: the catalogue is torchvision's, files are found and checked, and they fit our networks."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nets import architectures, pretrained
from nets.datasets import Dataset
from nets.errors import PretrainedDamaged, PretrainedMismatch, PretrainedUnavailable
from nets.layers import layers_of
from nets.pretrained import Places, Published, Weights
from specs.architectures import ARCHITECTURES
from specs.options import Options
from specs.pretrained import PRETRAINED, PretrainedNetwork, check_pretrained, find_pretrained, with_paper_stem

INCOMPLETE = {"IMAGENET1K_FEATURES"}
ENTRIES = [entry for entry in PRETRAINED if entry.name in ARCHITECTURES]
# One of each kind that differs: plain, without counters in its file, with heads on the way, with other image sizes.
SAMPLES = ["resnet18", "mobilenet_v2", "shufflenet_v2", "googlenet"]


def options_of(entry: PretrainedNetwork, **changes: Any) -> Options:
    kind = ARCHITECTURES[entry.name].options
    return with_paper_stem(kind(**{"width": entry.width, **changes}))


def entry_of(name: str) -> PretrainedNetwork:
    return next(entry for entry in PRETRAINED if entry.name == name and entry.width == 1.0)


def build(entry: PretrainedNetwork, *, classes: int = 10, channels: int = 3, **changes: Any) -> nn.Module:
    options = options_of(entry, **changes)
    return architectures.build(options, classes=classes, channels=channels, image_size=64, seed=3).eval()


def peer_of(entry: PretrainedNetwork) -> nn.Module:
    """torchvision's network with weights and statistics that no two networks share."""
    arguments = {"init_weights": False} if entry.name in {"googlenet", "inception_v3"} else {}
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.get_model(entry.peer, weights=None, **arguments)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
    return network.eval()


def published(name: str, digits: str) -> Published:
    return Published(f"https://download.invalid/{name}-{digits}.pth", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def place(folder: Path, name: str, state: dict[str, Any]) -> Published:
    """Writes a file as torchvision publishes them: pickled, with the first digits of its SHA-256 in its name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "unnamed.pth"
    torch.save(state, path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(folder / f"{name}-{digits}.pth")
    return published(name, digits)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "placed", tmp_path / "home" / "pretrained")


def same(found: Weights, tensors: dict[str, Tensor]) -> bool:
    read = load_file(found.path)
    return read.keys() == tensors.keys() and all(torch.equal(read[name], tensors[name]) for name in read)


@pytest.mark.parametrize("entry", PRETRAINED, ids=lambda entry: entry.peer)
def test_the_catalogue_has_the_names_that_torchvision_has(entry: PretrainedNetwork) -> None:
    theirs = torchvision.models.get_model_weights(entry.peer)
    assert entry.weights == tuple(weights.name for weights in theirs if weights.name not in INCOMPLETE)
    for name in entry.weights:
        found = pretrained.published(options_of(entry), name)
        assert found.address == theirs[name].url
        assert len(found.mean) == len(found.std) == 3
        assert len(found.digits) >= 8
        assert int(found.digits, 16) >= 0
        check_pretrained(options_of(entry), name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_that_torchvision_has_weights_for_is_in_the_catalogue(name: str) -> None:
    theirs = set(torchvision.models.list_models(module=torchvision.models))
    alike = {peer for peer in theirs if peer == name or peer.startswith(f"{name}_x")}
    assert {entry.peer for entry in PRETRAINED if entry.name == name} == alike
    assert (find_pretrained(ARCHITECTURES[name].options()) is not None) == bool(alike)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.peer)
def test_layers_have_the_names_and_shapes_of_the_weights(entry: PretrainedNetwork) -> None:
    """All of them, without storage."""
    with torch.device("meta"):
        ours = architectures.build(options_of(entry), classes=1000, channels=3, image_size=224)
        arguments = {"init_weights": False} if entry.name in {"googlenet", "inception_v3"} else {}
        peer = torchvision.models.get_model(entry.peer, weights=None, **arguments)
    theirs = {name: value.shape for name, value in peer.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()}.items() <= theirs.items()
    assert layers_of(ours).heads[-1] == list(dict(peer.named_modules()))[-1]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_network_with_all_weights_answers_as_torchvisions(name: str, places: Places) -> None:
    entry = entry_of(name)
    peer, ours = peer_of(entry), build(entry, classes=1000)
    assert places.placed is not None
    pretrained.find(place(places.placed, name, peer.state_dict()), places).load_into(ours)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), peer(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLES)
def test_only_the_head_is_made_anew_for_other_classes(name: str, places: Places) -> None:
    entry = entry_of(name)
    peer, ours, fresh = peer_of(entry), build(entry), build(entry)
    assert places.placed is not None
    pretrained.find(place(places.placed, name, peer.state_dict()), places).load_into(ours)
    (head,) = layers_of(ours).heads
    theirs, untouched = peer.state_dict(), fresh.state_dict()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, (untouched if key.startswith(f"{head}.") else theirs)[key]), key


@pytest.mark.parametrize("name", SAMPLES)
def test_grey_images_look_to_the_network_as_grey_in_three_channels(name: str, places: Places) -> None:
    entry = entry_of(name)
    assert places.placed is not None
    found = pretrained.find(place(places.placed, name, peer_of(entry).state_dict()), places)
    colour, grey = build(entry, classes=1000), build(entry, classes=1000, channels=1)
    for network in (colour, grey):
        found.load_into(network)
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_auxiliary_heads_keep_their_fresh_last_layer(places: Places) -> None:
    entry = entry_of("googlenet")
    peer, ours, fresh = peer_of(entry), build(entry, auxiliary=True), build(entry, auxiliary=True)
    assert places.placed is not None
    pretrained.find(place(places.placed, "googlenet", peer.state_dict()), places).load_into(ours)
    heads = layers_of(ours).heads
    assert len(heads) == 3
    for key, value in ours.state_dict().items():
        wanted = fresh if key.rpartition(".")[0] in heads else peer
        assert torch.equal(value, wanted.state_dict()[key]), key


def test_densenets_names_of_old_are_understood(places: Places) -> None:
    entry = entry_of("densenet121")
    peer, ours = peer_of(entry), build(entry)

    def old(name: str) -> str:
        for part in ("norm", "conv"):
            for number in "12":
                name = name.replace(f".{part}{number}.", f".{part}.{number}.") if "denselayer" in name else name
        return name

    # Files of that age have no counters either.
    state = {old(name): value for name, value in peer.state_dict().items() if "num_batches" not in name}
    assert any(".norm.1." in name for name in state)
    assert places.placed is not None
    pretrained.find(place(places.placed, "densenet121", state), places).load_into(ours)
    assert torch.equal(
        ours.features.denseblock2.denselayer3.conv2.weight, peer.features.denseblock2.denselayer3.conv2.weight
    )


@pytest.mark.parametrize("changes", [{"stem": "small"}, {"width": 0.5}])
def test_weights_that_do_not_fit_are_refused_with_the_options_to_change(
    places: Places, changes: dict[str, Any]
) -> None:
    entry = entry_of("resnet18")
    ours = build(entry, **changes)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    assert places.placed is not None
    found = pretrained.find(place(places.placed, "resnet18", peer_of(entry).state_dict()), places)
    with pytest.raises(PretrainedMismatch, match=r"conv1\.weight.*width 1, stem paper"):
        found.load_into(ours)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_images_are_normalised_as_the_weights_expect(few: Dataset) -> None:
    weights = Weights(published("resnet18", "00000000"), Path("nowhere"))
    grey = weights.normalise(few)
    assert grey.mean == pytest.approx((0.5,))
    assert grey.std == pytest.approx((0.25,))
    colour = weights.normalise(replace(few, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert (colour.mean, colour.std) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    imagenet, halves = (pretrained.published(options_of(entry_of(name)), "IMAGENET1K_V1") for name in SAMPLES[::3])
    assert imagenet.mean == (0.485, 0.456, 0.406)
    # torchvision's GoogLeNet turns the one into the other by itself.
    peer = torchvision.models.GoogLeNet(transform_input=True, init_weights=False)
    pixels = torch.rand(1, 3, 4, 4)
    given = (pixels - torch.tensor(imagenet.mean)[:, None, None]) / torch.tensor(imagenet.std)[:, None, None]
    wanted = (pixels - torch.tensor(halves.mean)[:, None, None]) / torch.tensor(halves.std)[:, None, None]
    torch.testing.assert_close(peer._transform_input(given), wanted)


def test_a_placed_file_is_converted_once(places: Places, tensors: dict[str, Tensor]) -> None:
    assert places.placed is not None
    weights = place(places.placed, "net", tensors)
    found = pretrained.find(weights, places)
    assert found.path == places.kept / f"{weights.file.stem}.safetensors"
    assert same(found, tensors)
    written = found.path.stat().st_mtime_ns
    assert pretrained.find(weights, places).path.stat().st_mtime_ns == written
    (places.placed / weights.file.name).unlink()
    assert same(pretrained.find(weights, Places(None, places.kept)), tensors)
    assert [path.name for path in places.kept.iterdir()] == [found.path.name]


@pytest.mark.parametrize("folder", ["placed", "kept"])
def test_safetensors_of_the_same_name_are_taken_as_they_are(
    places: Places, tensors: dict[str, Tensor], folder: str
) -> None:
    chosen: Path = getattr(places, folder)
    chosen.mkdir(parents=True)
    save_file(tensors, chosen / "net-01234567.safetensors")
    found = pretrained.find(published("net", "01234567"), places)
    assert found.path.parent == chosen
    assert same(found, tensors)


def test_a_file_that_is_not_the_published_one_is_refused(places: Places, tensors: dict[str, Tensor]) -> None:
    assert places.placed is not None
    weights = place(places.placed, "net", tensors)
    path = places.placed / weights.file.name
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(PretrainedDamaged, match="SHA-256"):
        pretrained.find(weights, places)
    assert not places.kept.exists()


class _Opened:
    """What a hostile file would do when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_holds_more_than_tensors_is_refused_unopened(places: Places, tmp_path: Path, packed: bool) -> None:
    assert places.placed is not None
    places.placed.mkdir()
    path, sign = places.placed / "unnamed", tmp_path / "opened"
    if packed:
        torch.save({"weight": torch.ones(2), "more": _Opened(sign)}, path)
    else:
        path.write_bytes(pickle.dumps(_Opened(sign), protocol=2))
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path.rename(places.placed / f"net-{digits}.pth")
    with pytest.raises(PretrainedDamaged, match=r"net-.*\.pth"):
        pretrained.find(published("net", digits), places)
    assert not sign.exists()


@pytest.mark.parametrize("content", [["a list"], {"weight": "not a tensor"}, {"weight": [1.0, 2.0]}])
def test_a_file_of_other_things_is_refused(places: Places, content: Any) -> None:
    assert places.placed is not None
    with pytest.raises(PretrainedDamaged, match="tensors"):
        pretrained.find(place(places.placed, "net", content), places)


def test_safetensors_that_are_none_are_refused(places: Places) -> None:
    assert places.placed is not None
    places.placed.mkdir()
    (places.placed / "net-01234567.safetensors").write_bytes(b"not at all")
    with pytest.raises(PretrainedDamaged, match="safetensors"):
        pretrained.find(published("net", "01234567"), places).load_into(nn.Linear(2, 2))


def test_without_internet_the_error_names_the_file_within_seconds(places: Places) -> None:
    began = time.monotonic()
    with pytest.raises(PretrainedUnavailable, match=r"net-01234567\.pth.*PRUNEYARD_PRETRAINED_DIR"):
        pretrained.find(published("net", "01234567"), places)
    assert time.monotonic() - began < 30
    assert not places.kept.exists()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An address, and the folder that is served there."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", folder
        http.shutdown()
        thread.join()


def test_a_file_that_is_nowhere_is_downloaded_and_kept(
    places: Places, server: tuple[str, Path], tensors: dict[str, Tensor]
) -> None:
    address, folder = server
    weights = place(folder, "net", tensors)
    weights = replace(weights, address=f"{address}/{weights.file.name}")
    assert same(pretrained.find(weights, Places(None, places.kept)), tensors)
    (folder / weights.file.name).unlink()
    assert same(pretrained.find(weights, places), tensors)
    assert len(list(places.kept.iterdir())) == 1


def test_a_download_that_is_not_the_published_file_leaves_nothing(
    places: Places, server: tuple[str, Path], tensors: dict[str, Tensor]
) -> None:
    address, folder = server
    weights = place(folder, "net", tensors)
    (folder / weights.file.name).write_bytes(b"something else")
    with pytest.raises(PretrainedUnavailable, match="hash"):
        pretrained.find(replace(weights, address=f"{address}/{weights.file.name}"), places)
    assert list(places.kept.iterdir()) == []
