from __future__ import annotations

import json

import numpy as np
import pytest

from formats.files import DamagedFiles
from inference.devices import available
from inference.measuring import measure
from inference.runtimes import RUNTIMES, CannotRun, physical_cores


def test_the_fastest_runtime_is_chosen(publish):
    found = measure(publish().directory, threads=1).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert set(found["runtimes"]) == set(RUNTIMES)
    assert found["skipped"] == {}
    assert found["device"] == "cpu"
    assert found["batch_1_p50"] == min(entry["batch_1_p50"] for entry in found["runtimes"].values())
    assert found["runtimes"][found["runtime"]]["batch_8_p50"] == found["batch_8_p50"]


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


def test_there_is_a_core():
    assert physical_cores() >= 1
