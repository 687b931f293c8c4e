from __future__ import annotations

import json

import numpy as np
import pytest

from formats.files import DamagedFiles
from inference.devices import available
from inference.latency import Latency
from inference.measuring import fastest, measure
from inference.placements import Placement
from inference.runtimes import RUNTIMES, CannotRun


def test_the_fastest_runtime_is_chosen(publish):
    found = measure(publish().directory, threads=1).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert set(found["runtimes"]) == set(RUNTIMES)
    assert found["skipped"] == {}
    assert found["device"] == "cpu"
    costs = {name: entry["batch_1_p50"] * entry["batch_8_p50"] for name, entry in found["runtimes"].items()}
    assert found["runtime"] == min(costs, key=costs.__getitem__)
    assert found["runtimes"][found["runtime"]]["batch_8_p50"] == found["batch_8_p50"]


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ((1.0, 4.0), (2.0, 5.0), 0),
        ((1.0, 40.0), (2.0, 5.0), 1),  # a little slower for one image, far quicker for eight
        ((1.0, None), (0.9, 1.0), 1),  # where one was too slow to try, one image decides
        ((0.8, None), (0.9, 1.0), 0),
    ],
)
def test_one_image_and_eight_count_as_much(one, other, better):
    ways = [Placement("onnxruntime"), Placement("openvino")]
    measured = dict(zip(ways, (Latency(*one), Latency(*other)), strict=True))
    assert fastest(measured) == ways[better]


def test_another_device_has_to_be_faster_by_more_than_chance():
    cpu, gpu = Placement("openvino"), Placement("openvino", "gpu", "f16")
    assert fastest({cpu: Latency(1.0, 4.0), gpu: Latency(0.97, 3.9)}) == cpu
    assert fastest({cpu: Latency(1.0, 4.0), gpu: Latency(0.5, 2.0)}) == gpu


def test_a_model_that_no_runtime_agrees_with_says_why(publish, pixels):
    published = publish()
    images = pixels(2, 3)
    published.write_golden(images, published.expected(images) + np.float32(1))
    with pytest.raises(CannotRun, match="openvino is 1 off the golden logits"):
        measure(published.directory, threads=1)


def test_damaged_files_are_nobodys_latency(publish):
    published = publish()
    (published.directory / "weights.safetensors").unlink()
    with pytest.raises(DamagedFiles):
        measure(published.directory, threads=1)


def test_devices_are_named():
    assert all(set(device) == {"name", "full_name"} and all(device.values()) for device in available())
