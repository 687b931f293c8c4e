"""Where a model is served, by its stored figures: as measured, as asked for, and back."""

from __future__ import annotations

import pytest

from inference.choices import as_asked, as_measured, asked_of, matching, on_cpu_of, placement_of, runtimes_of, shown
from inference.devices import CPU, GPU
from inference.latency import Latency
from inference.placements import Placement

OLD = {
    "runtime": "openvino",
    "device": "cpu",
    "batch_1_p50": 1.0,
    "batch_8_p50": 4.0,
    "runtimes": {
        "onnxruntime": {"batch_1_p50": 2.0, "batch_8_p50": 9.0},
        "openvino": {"batch_1_p50": 1.0, "batch_8_p50": 4.0},
    },
    "skipped": {"openvino:gpu:f16": "off"},
}
HALF = Placement("openvino", "gpu", "f16")
FIGURES = [OLD, {"runtime": "openvino"}, {}, None]


def test_figures_of_older_models_mean_what_they_did():
    assert placement_of(OLD) == Placement("openvino", "cpu", "f32")
    assert shown(OLD) == {**OLD, "precision": "f32", "chosen_by": "measured"}
    assert placement_of(None) is placement_of({}) is shown(None) is None
    assert on_cpu_of(OLD) == on_cpu_of({"runtime": "openvino"}) == "openvino"
    assert on_cpu_of(None) is None


@pytest.mark.parametrize("figures", FIGURES)
def test_what_a_user_chose_can_be_taken_back(figures):
    chosen = as_asked(figures, {"device": "gpu"}, HALF, Latency(0.5, 1.5))
    assert placement_of(chosen) == HALF
    assert (chosen["batch_1_p50"], chosen["chosen_by"], chosen["skipped"]) == (0.5, "user", {})
    assert chosen["runtimes"][HALF.label] == {"batch_1_p50": 0.5, "batch_8_p50": 1.5}
    again = as_asked(chosen, {"runtime": "onnxruntime"}, Placement("onnxruntime"), Latency(2.5, 9.5))
    assert placement_of(as_measured(again)) == placement_of(figures)
    assert shown(as_measured(again)) is None or shown(as_measured(again))["chosen_by"] == "measured"
    assert as_measured(figures) == figures


def test_on_the_cpu_the_fastest_there_stands_in():
    chosen = as_asked(OLD, {"device": "gpu"}, HALF, Latency(0.5, 1.5))
    assert on_cpu_of(chosen) == "openvino"
    chosen["runtimes"]["onnxruntime"]["batch_1_p50"] = 0.9
    assert on_cpu_of(chosen) == "openvino", "as it was chosen: for one image and for eight"
    chosen["runtimes"]["onnxruntime"]["batch_8_p50"] = None
    assert on_cpu_of(chosen) == "onnxruntime"
    chosen["runtimes"]["onnxruntime"]["batch_8_p50"] = 4.1
    assert on_cpu_of(chosen) == "onnxruntime"
    assert runtimes_of(chosen) == {"openvino", "onnxruntime"}
    assert runtimes_of(None) == set()


def test_wishes_add_up_and_auto_wishes_nothing():
    assert asked_of(None, {"runtime": "openvino"}) == {"runtime": "openvino"}
    assert asked_of({"asked": {"runtime": "openvino"}}, {"device": "gpu"}) == {"runtime": "openvino", "device": "gpu"}
    assert asked_of({"asked": {"runtime": "openvino"}}, {"runtime": "auto", "device": "auto"}) == {}
    assert [each.label for each in matching({"device": "gpu"}, [CPU, GPU])] == ["openvino:gpu:f32", "openvino:gpu:f16"]
    assert matching({"runtime": "onnxruntime", "device": "gpu"}, [CPU, GPU]) == []
