"""Graphics, with made-up ones: none was at hand. What is right is used, and nothing else takes the process down."""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from inference.devices import GPU, available
from inference.gpu import DeviceFault, Graphics, load_placed
from inference.guarded import Guarded
from inference.latency import Latency
from inference.measuring import LEAST_GAIN, fastest, measure
from inference.placements import Placement, placements
from inference.trial import DeviceAbsent, TrialDied, TrialFailed
from tests.inference.fake_gpu import LATER, fake

SINGLE, HALF = (Placement("openvino", "gpu", precision) for precision in ("f32", "f16"))
BROKEN = {
    "wrong": (TrialFailed, "off the golden logits"),
    "no_numbers": (TrialFailed, "off the golden logits"),
    "raises": (TrialFailed, "CL_OUT_OF_RESOURCES"),
    "hangs": (TrialDied, "did not end within 3 seconds"),
    "absent": (DeviceAbsent, "no gpu on this machine"),
}
if sys.platform != "win32":
    BROKEN["crashes"] = (TrialDied, "killed by SIGABRT")


@pytest.fixture(autouse=True)
def _nothing_later() -> Iterator[None]:
    yield
    LATER.clear()


@pytest.fixture
def told() -> list[DeviceFault]:
    return []


def up(directory, device, told, placement=SINGLE):
    """The model on the device, which has come up or failed to."""
    model = load_placed(directory, placement, threads=1, graphics=Graphics(device, told=told.append))
    assert isinstance(model.network, Guarded)
    assert model.network.settle(60)
    return model


class Bench:
    """A network guarded without another process: the device is a function, the CPU answers with zeros."""

    def __init__(self, device, **choices):
        self.told = []
        self.given_up = []
        limits = {"call_seconds": 0.5, "up_seconds": 60.0, **choices}
        self.network = Guarded(
            lambda images: np.zeros((len(images), 2), np.float32),
            device if choices else lambda: (device, 1.0),
            usable=lambda: not self.given_up,
            on_failure=self.told.append,
            on_fault=self.given_up.append,
            **limits,
        )

    def ask(self, count):
        return self.network(np.zeros((count, 3, 8, 8), np.float32)).tolist()


def ones(images):
    return np.ones((len(images), 2), np.float32)


def test_graphics_that_are_not_here_are_not_looked_for(publish):
    if GPU.may_be_there():
        pytest.skip("this machine may have some")
    with pytest.raises(DeviceAbsent, match="no gpu on this machine"):
        Graphics().try_out(publish().directory, SINGLE, threads=1, seconds=0.1)
    found = measure(publish("other").directory, threads=1, graphics=Graphics())
    assert (found.device, found.skipped) == ("cpu", {})
    assert [device["name"] for device in available()] == ["CPU"]


@pytest.mark.parametrize("behaviour", BROKEN)
def test_a_trial_ends_whatever_the_device_does(publish, behaviour):
    kind, words = BROKEN[behaviour]
    seconds = 3.0 if behaviour == "hangs" else 60.0
    graphics = Graphics(fake(behaviour, trial_seconds=seconds))
    with pytest.raises(kind, match=words):
        graphics.try_out(publish().directory, SINGLE, threads=1, seconds=0.1)


@pytest.mark.parametrize(
    ("behaviour", "skipped"),
    [
        ("rounding", set()),
        ("half_wrong", {"openvino:gpu:f16"}),
        ("exits", {"openvino:gpu:f32"}),  # half precision is not tried after that
    ],
)
def test_all_ways_are_measured_and_what_fails_is_skipped_with_its_reason(publish, behaviour, skipped):
    found = measure(publish().directory, threads=1, graphics=Graphics(fake(behaviour)))
    stored = json.loads(json.dumps(found.as_dict()))
    assert stored == found.as_dict()
    assert set(stored["skipped"]) == skipped
    assert all(stored["skipped"].values())
    ways = {"onnxruntime", "openvino", "openvino:gpu:f32", "openvino:gpu:f16"}
    assert set(stored["runtimes"]) == (ways - skipped if behaviour != "exits" else {"onnxruntime", "openvino"})
    label = Placement(found.runtime, found.device, found.precision).label
    assert stored["runtimes"][label]["batch_1_p50"] == found.batch_1_p50
    assert found.on_cpu in {"onnxruntime", "openvino"}


def test_graphics_are_chosen_only_if_they_are_faster_by_more_than_chance():
    cpu, other = Placement("onnxruntime"), Placement("openvino")
    figures = {cpu: Latency(1.0, 9.0), other: Latency(2.0, 8.0)}
    assert fastest(figures) == cpu
    for times, best in ((0.999 / LEAST_GAIN, SINGLE), (1.001 / LEAST_GAIN, cpu)):
        assert fastest({**figures, SINGLE: Latency(times * 1.0, times * 9.0)}) == best
    assert fastest({**figures, SINGLE: Latency(0.5, 1.0), HALF: Latency(0.4, 1.0)}) == HALF
    assert fastest({**figures, SINGLE: Latency(0.5, 1.0), HALF: Latency(0.6, 1.0)}) == SINGLE


def test_half_precision_is_held_to_what_half_precision_can(publish):
    Graphics(fake("sloppy")).try_out(publish().directory, HALF, threads=1, seconds=0.1)


def test_a_model_is_served_by_graphics_that_agree(publish, pixels, told):
    published = publish()
    model = up(published.directory, fake("right"), told)
    assert (model.runtime, model.device.name, model.precision, model.prompt) == ("openvino", "gpu", "f32", False)
    assert model.network.on_device
    LATER["alter"] = lambda logits, _half: logits + np.float32(1)  # only the made-up device does so
    images = pixels(5, 3)
    np.testing.assert_allclose(model.predict(images), published.expected(images) + 1, rtol=1e-4, atol=1e-4)
    assert told == []


def test_the_cpu_answers_for_graphics_that_do_not_come_up(publish, pixels, told):
    published, images = publish(), pixels(5, 3)
    model = up(published.directory, fake("wrong"), told)
    assert not model.network.on_device
    np.testing.assert_allclose(model.predict(images), published.expected(images), rtol=1e-4, atol=1e-4)
    (fault,) = told
    assert (fault.model, fault.placement, fault.lasting) == ("mdl_test", SINGLE, False)
    assert fault.reason


def test_nobody_waits_for_graphics_to_come_up():
    gate = threading.Event()

    def bring_up():
        gate.wait(60)
        return ones, 1.0

    bench = Bench(bring_up, up_seconds=60.0)
    assert bench.ask(2) == [[0, 0]] * 2
    gate.set()
    assert bench.network.settle(60)
    assert bench.ask(2) == [[1, 1]] * 2
    assert bench.told == bench.given_up == []


def test_graphics_that_never_come_up_are_told_once():
    gate = threading.Event()
    bench = Bench(lambda: (gate.wait(60), 1.0), up_seconds=0.0)
    assert [bench.ask(1) for _ in range(3)] == [[[0, 0]]] * 3
    gate.set()
    assert bench.told == ["it did not come up"]


def hang(_images):
    time.sleep(30)


def fail(_images):
    raise RuntimeError("CL_DEVICE_LOST")


FAULTS = {
    "hangs": (hang, "did not answer within 0.5 seconds"),
    "raises": (fail, "CL_DEVICE_LOST"),
    "no numbers": (lambda images: ones(images) * np.float32("inf"), "no numbers"),
    "words": (lambda images: np.full((len(images), 2), "bird"), "no numbers"),
    "nothing": (lambda _images: None, "something else than logits"),
    "too little": (lambda images: ones(images[1:]), "something else than logits"),
    "a scalar": (lambda _images: np.array(1, np.float32), "something else than logits"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_answered_by_the_cpu_and_the_device_is_not_asked_again(fault):
    device, words = FAULTS[fault]
    bench = Bench(device)
    assert bench.network.settle(60)
    assert bench.network.on_device
    answers = []
    callers = [threading.Thread(target=lambda: answers.append(bench.ask(2))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert answers == [[[0, 0]] * 2] * len(callers)
    assert words in bench.given_up[0]
    assert not bench.network.on_device


def test_values_that_no_device_can_compute_with_are_no_fault_of_it(publish, pixels, told):
    published = publish()
    model = up(published.directory, fake("right"), told, HALF)
    images = model.normalise(pixels(3, 3))
    absurd = images.copy()
    absurd[1] = 3e38
    answers = model.network(absurd)
    assert np.isfinite(answers).all(axis=1).tolist() == [True, False, True]
    # Half precision ends at 65504, which single precision computes with.
    LATER["alter"] = lambda logits, _half: np.where(np.abs(logits) > 65504, np.float32("inf"), logits)
    assert np.isfinite(model.network(images * np.float32(1e6))).all()
    assert (told, model.network.on_device) == ([], True)
    LATER["alter"] = lambda logits, _half: logits * np.float32("nan")
    np.testing.assert_allclose(model.network(images), published.expected(pixels(3, 3)), rtol=1e-4, atol=1e-4)
    assert [(fault.reason, fault.lasting) for fault in told] == [("it answered with what are no numbers", True)]
    assert not model.network.on_device


def test_a_fault_of_one_model_ends_the_graphics_for_all(publish, pixels, told):
    published, images = publish(), pixels(5, 3)
    graphics = Graphics(fake("right"), told=told.append)
    models = [load_placed(published.directory, SINGLE, threads=1, graphics=graphics) for _ in range(2)]
    assert all(model.network.settle(60) and model.network.on_device for model in models)
    LATER["alter"] = lambda logits, _half: logits * np.float32("nan")
    np.testing.assert_allclose(models[0].predict(images), published.expected(images), rtol=1e-4, atol=1e-4)
    assert [fault.lasting for fault in told] == [True]
    assert "no numbers" in graphics.failure
    assert not any(model.network.on_device for model in models)
    assert load_placed(published.directory, SINGLE, threads=1, graphics=graphics).device.name == "cpu"


def test_a_model_that_is_dropped_leaves_its_thread():
    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "device"]

    before = set(threads())
    bench = Bench(ones)
    assert bench.ask(1)
    (own,) = set(threads()) - before
    del bench
    gc.collect()
    own.join(10)
    assert not own.is_alive()


def test_a_placement_is_a_runtime_on_a_device_that_it_can_use():
    assert [each.label for each in placements([fake("right")])] == ["openvino:gpu:f32", "openvino:gpu:f16"]
