"""Networks kept compiled: used again, never believed when damaged, and never more than may be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from formats.weights import write_dense
from inference.kernel_cache import DIGEST_BYTES, KernelCache, key_of
from inference.measuring import measure
from inference.models import GoldenMismatch, load_model, read_stored
from inference.runtimes import RUNTIMES
from tests.inference.fake_gpu import CALLS, fake

ROOM = 1 << 20


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path / "kernels", capacity_bytes=ROOM)


def files_of(cache: KernelCache) -> list[Path]:
    return sorted(cache.folder.iterdir()) if cache.folder.exists() else []


def test_what_is_put_in_comes_out_and_nobody_else_may_read_it(cache):
    key = key_of({"a": 1})
    assert cache.get(key) is None
    cache.put(key, b"network")
    assert cache.get(key) == b"network"
    assert cache.get(key_of({"a": 2})) is None
    (file,) = files_of(cache)
    if os.name != "nt":
        assert (file.stat().st_mode & 0o077, cache.folder.stat().st_mode & 0o077) == (0, 0)


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "longer"])
def test_what_is_damaged_is_removed(cache, harm):
    key = key_of({})
    cache.put(key, b"network" * 100)
    (file,) = files_of(cache)
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[-1] ^= 1
    harmed = {"flip": data, "cut": data[:DIGEST_BYTES], "empty": b"", "longer": data + b"x"}[harm]
    file.write_bytes(harmed)
    assert cache.get(key) is None
    assert files_of(cache) == []


def test_the_oldest_go_first_and_use_keeps(tmp_path):
    cache = KernelCache(tmp_path, capacity_bytes=3 * (DIGEST_BYTES + 100))
    for number in range(3):
        cache.put(str(number), b"x" * 100)
        os.utime(tmp_path / f"{number}.blob", (number, number))
    assert cache.get("0") is not None
    cache.put("3", b"x" * 100)
    assert [file.stem for file in files_of(cache)] == ["0", "2", "3"]
    cache.put("4", b"x" * 1000)  # more than there is room for in all
    assert len(files_of(cache)) == 3


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "kernels").write_bytes(b"a file")
    cache = KernelCache(tmp_path / "kernels", capacity_bytes=ROOM)
    cache.put("key", b"network")
    assert cache.get("key") is None
    off = KernelCache(tmp_path / "off", capacity_bytes=0)
    off.put("key", b"network")
    assert not off.folder.exists()


@pytest.fixture
def load(cache):
    """Loads a published model on a device that counts how often it compiles."""
    CALLS.clear()

    def load(published):
        runtime, device = RUNTIMES["openvino"], fake("right")
        return read_stored(published.directory).load(runtime, threads=1, device=device, kernels=cache)

    return load


def test_a_second_load_takes_up_what_the_first_compiled(publish, pixels, cache, load):
    published, images = publish(), pixels(5, 3)
    for _ in range(2):
        np.testing.assert_allclose(load(published).predict(images), published.expected(images), rtol=1e-4, atol=1e-4)
    assert CALLS == {"compile": 1, "import": 1}
    assert len(files_of(cache)) == 1


def test_other_weights_or_another_version_are_another_network(publish, cache, load, monkeypatch):
    first, other = publish(), publish("other", seed=1)
    load(first)
    load(other)
    assert CALLS == {"compile": 2}
    assert len(files_of(cache)) == 2
    monkeypatch.setattr("inference.runtimes.version", lambda _package: "another")
    load(first)
    assert CALLS == {"compile": 3}


def test_a_network_that_answers_otherwise_is_compiled_anew(publish, pixels, cache, load):
    published, images = publish(), pixels(5, 3)
    load(published)
    (file,) = files_of(cache)
    load(publish("other", seed=1))
    (foreign,) = set(files_of(cache)) - {file}
    file.write_bytes(foreign.read_bytes())
    np.testing.assert_allclose(load(published).predict(images), published.expected(images), rtol=1e-4, atol=1e-4)
    assert CALLS == {"compile": 3, "import": 1}
    load(published)
    assert CALLS == {"compile": 3, "import": 2}


def test_rubbish_that_looks_whole_is_compiled_anew(publish, pixels, cache, load):
    published, images = publish(), pixels(2, 3)
    load(published)
    (file,) = files_of(cache)
    cache.put(file.stem, b"rubbish")
    np.testing.assert_allclose(load(published).predict(images), published.expected(images), rtol=1e-4, atol=1e-4)
    assert CALLS == {"compile": 2, "import": 1}


def test_a_model_that_disagrees_is_not_kept(publish, cache):
    published = publish()
    write_dense(published.directory / published.weights_file, {**published.weights, "head.bias": np.ones(4, "f") * 99})
    published.record()
    with pytest.raises(GoldenMismatch):
        load_model(published.directory, runtime="openvino", threads=1, kernels=cache)
    assert files_of(cache) == []


def test_what_is_kept_holds_no_path_and_no_setting(publish, cache, monkeypatch):
    monkeypatch.setenv("PRUNEYARD_API_KEY", "a-secret-of-the-test")
    published = publish()
    load_model(published.directory, runtime="openvino", threads=1, kernels=cache)
    (file,) = files_of(cache)
    data = file.read_bytes()
    for secret in ("a-secret-of-the-test", str(published.directory), str(Path.home()), os.environ.get("USER") or "???"):
        if secret not in {"/", "root"}:
            assert secret.encode() not in data


def test_the_fastest_is_kept_when_it_is_measured(publish, cache):
    found = measure(publish().directory, threads=1, kernels=cache)
    assert len(files_of(cache)) == (found.on_cpu == "openvino")
