from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard

from formats.files import DamagedFiles
from formats.graphs import GRAPH_NAME
from formats.manifest import GOLDEN_NAME, MANIFEST_NAME
from formats.weights import write_dense
from inference.models import GoldenMismatch, load_model
from inference.runtimes import RUNTIMES, CannotRun
from specs.registry import UnknownName


@pytest.mark.parametrize("coding", ["dense", "sparse-3"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_predicts_what_the_network_means(publish, pixels, runtime, channels, coding):
    published = publish(channels=channels, coding=coding)
    model = load_model(published.directory, runtime=runtime, threads=1)
    assert model.runtime == runtime
    assert model.bytes > 0
    for count in (0, 1, 2, 5, 33, 1):
        images = pixels(count, channels, seed=count)
        logits = model.predict(images)
        assert logits.dtype == np.float32
        assert logits.shape == (count, 4)
        np.testing.assert_allclose(logits, published.expected(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_answers_of_concurrent_calls_do_not_mix(publish, pixels, runtime):
    published = publish()
    model = load_model(published.directory, runtime=runtime, threads=2)
    batches = [pixels(1 + seed % 5, 3, seed=seed) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(model.predict, batches))
    for images, logits in zip(batches, answers, strict=True):
        np.testing.assert_allclose(logits, published.expected(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_answers_stay_when_the_next_call_is_made(publish, pixels, runtime):
    model = load_model(publish().directory, runtime=runtime, threads=1)
    first = model.predict(pixels(2, 3, seed=1))
    kept = first.copy()
    model.predict(pixels(2, 3, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_takes_a_runtime_that_works_when_none_is_named(publish):
    assert load_model(publish().directory, runtime=None, threads=0).runtime in RUNTIMES


def test_an_unknown_runtime_gets_the_nearest_name(publish):
    with pytest.raises(UnknownName, match="Did you mean 'openvino'"):
        load_model(publish().directory, runtime="openvin", threads=1)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(np.float32, (1, 8, 8, 3)), (np.uint8, (8, 8, 3)), (np.uint8, (1, 3, 8, 8)), (np.uint8, (1, 8, 8, 1))],
)
def test_other_pixels_are_refused(publish, dtype, shape):
    model = load_model(publish().directory, threads=1)
    with pytest.raises(ValueError, match=r"pixels must be uint8 \(N, 8, 8, 3\)"):
        model.predict(np.zeros(shape, dtype))


@pytest.mark.parametrize("runtime", [None, *RUNTIMES])
def test_a_model_that_does_not_repeat_its_golden_answers_is_refused(publish, pixels, runtime):
    published = publish()
    images = pixels(3, 3)
    published.write_golden(images, published.expected(images) * np.float32(1.01))
    with pytest.raises(GoldenMismatch, match="off the golden logits"):
        load_model(published.directory, runtime=runtime, threads=1)


def test_rounding_of_another_runtime_is_accepted(publish, pixels):
    published = publish()
    images = pixels(3, 3)
    published.write_golden(images, published.expected(images) * np.float32(1.0001))
    load_model(published.directory, threads=1)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_logits_that_are_no_numbers_are_no_match(publish, runtime):
    published = publish()
    write_dense(
        published.directory / published.weights_file, published.weights | {"head.bias": np.full(4, np.nan, "f")}
    )
    published.record()
    with pytest.raises(GoldenMismatch):
        load_model(published.directory, runtime=runtime, threads=1)


@pytest.mark.parametrize("name", [GRAPH_NAME, GOLDEN_NAME, "weights.safetensors", MANIFEST_NAME])
@pytest.mark.parametrize("harm", ["missing", "cut", "flipped"])
def test_damaged_files_are_noticed(publish, name, harm):
    directory = publish().directory
    path = directory / name
    data = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[0] ^= 0xFF
        path.write_bytes(data)
    with pytest.raises(DamagedFiles):
        load_model(directory, threads=1)


@pytest.mark.parametrize("name", [GRAPH_NAME, GOLDEN_NAME, "weights.safetensors"])
@pytest.mark.parametrize("rubbish", [b"", b"rubbish", zstandard.compress(b"rubbish"), zstandard.compress(b"")])
def test_recorded_rubbish_is_noticed_too(publish, name, rubbish):
    published = publish()
    (published.directory / name).write_bytes(rubbish)
    published.record()
    with pytest.raises(DamagedFiles):
        load_model(published.directory, threads=1)


def test_weights_outside_the_directory_are_not_read(publish):
    published = publish()
    weights = published.record().weights.model_copy(update={"file": "../other/weights.safetensors"})
    publish("other")
    published.record(weights=weights)
    with pytest.raises(DamagedFiles, match="does not record"):
        load_model(published.directory, threads=1)


@pytest.mark.parametrize(
    ("shape", "logits"),
    [((0, 8, 8, 3), (0, 4)), ((2, 8, 8, 1), (2, 4)), ((2, 8, 8, 3), (2, 5)), ((2, 8, 8, 3), (1, 4))],
)
def test_golden_answers_of_another_shape_are_damage(publish, shape, logits):
    published = publish()
    published.write_golden(np.zeros(shape, np.uint8), np.zeros(logits, np.float32))
    with pytest.raises(DamagedFiles, match="golden"):
        load_model(published.directory, threads=1)


def test_preprocessing_without_a_mean_for_each_channel_is_damage(publish):
    published = publish()
    published.rule = published.rule.model_copy(update={"std": (0.2, 0.0, 0.3)})
    published.record()
    with pytest.raises(DamagedFiles, match="deviation"):
        load_model(published.directory, threads=1)


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=lambda entry: entry.name)
def test_a_graph_that_is_none_cannot_run(runtime):
    with pytest.raises(CannotRun, match=f"{runtime.title} cannot run this model"):
        runtime.compile(b"not a graph", threads=1)
