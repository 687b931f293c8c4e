"""Calibrated probabilities, thresholds and label sets over HTTP, and what is told of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.report_page import page
from specs.settings import Settings
from tests.conftest import forget_calibration
from tests.problems import problem_of

Digits = list[tuple[bytes, str]]
MODELS = ("tiny", "tiny pruned")


def predict(api: TestClient, name: str, images: Digits, **query: Any) -> dict[str, Any]:
    """The answer for some of the digits."""
    response = api.post(f"/v1/models/{name}/predict", files=[("image", data) for data, _ in images], params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_what_is_told_of_a_model_is_what_it_does(trained_api: TestClient, test_digits: Digits, name: str) -> None:
    told = trained_api.get(f"/v1/models/{name}").json()["calibration"]
    assert (told["images"], told["test"]["images"]) == (287, len(test_digits))
    for row in told["test"]["coverage"]:
        held, labels = 0, 0
        for start in range(0, len(test_digits), 200):
            part = test_digits[start : start + 200]
            found = predict(trained_api, name, part, coverage=row["asked"])
            assert found["coverage"] == row["asked"]
            assert "coverage_note" not in found
            sets = [each["label_set"] for each in found["predictions"]]
            held += sum(label in each for each, (_, label) in zip(sets, part, strict=True))
            labels += sum(len(each) for each in sets)
        # The runtime rounds otherwise than PyTorch: one image may lie on the other side.
        assert held / len(test_digits) == pytest.approx(row["measured"], abs=1.5 / len(test_digits))
        assert labels / len(test_digits) == pytest.approx(row["mean_set_size"], abs=1.5 / len(test_digits))
        assert row["measured"] >= row["asked"] - 3 * math.sqrt(row["asked"] * (1 - row["asked"]) * (1 / 287 + 1 / 359))
    assert [row["asked"] for row in told["test"]["coverage"]] == [0.9, 0.95]


def test_probabilities_have_the_temperature_of_the_model(
    trained_api: TestClient, trained_settings: Settings, test_digits: Digits
) -> None:
    model = trained_api.get("/v1/models/tiny pruned").json()
    calibrated = predict(trained_api, "tiny", test_digits[:20], top_k=10)
    kept = predict(trained_api, "tiny pruned", test_digits[:20], top_k=10)
    temperature = forget_calibration(trained_settings, model["id"])
    assert temperature == model["calibration"]["temperature"]
    assert abs(temperature - 1) > 0.05, "one that does nothing would tell nothing"
    with_manifest_of_before = TestClient(trained_api.app, base_url=str(trained_api.base_url))
    with with_manifest_of_before as api:  # opens a new house, which has loaded nothing
        plain = predict(api, "tiny pruned", test_digits[:20], top_k=10, coverage=0.9)
        assert predict(api, "tiny", test_digits[:20], top_k=10) == calibrated
    assert "without a calibration" in plain["coverage_note"]
    for before, after in zip(plain["predictions"], kept["predictions"], strict=True):
        assert sorted(before["label_set"]) == list("0123456789")
        assert before["label"] == after["label"]
        powers = [answer["probability"] ** (1 / temperature) for answer in before["top"]]
        wanted = [power / sum(powers) for power in powers]
        assert [answer["probability"] for answer in after["top"]] == pytest.approx(wanted, rel=1e-3)


def test_parameters_combine(trained_api: TestClient, test_digits: Digits) -> None:
    some = test_digits[:100]
    whole = predict(trained_api, "tiny pruned", some, top_k=10, coverage=0.99)["predictions"]
    assert any(len(each["label_set"]) > 1 for each in whole)
    for top_k in (1, 2):
        for threshold in (0, 0.2, 1):
            found = predict(trained_api, "tiny pruned", some, top_k=top_k, threshold=threshold, coverage=0.99)
            for each, full in zip(found["predictions"], whole, strict=True):
                wanted = [answer for answer in full["top"][:top_k] if answer["probability"] >= threshold]
                assert each["top"] == (wanted or full["top"][:1])
                assert each["label_set"] == full["label_set"]


def test_label_sets_grow_with_coverage(trained_api: TestClient, test_digits: Digits) -> None:
    sizes = []
    before: list[list[str]] = [[] for _ in test_digits[:100]]
    for coverage in (0.5, 0.8, 0.953, 0.99, 0.996, 0.999999):
        found = predict(trained_api, "tiny", test_digits[:100], coverage=coverage)
        sets = [each["label_set"] for each in found["predictions"]]
        assert all(earlier == later[: len(earlier)] for earlier, later in zip(before, sets, strict=True))
        sizes.append(sum(map(len, sets)))
        before = sets
    # 287 images cannot promise more than 287 of 288.
    assert ("287 validation images" in found["coverage_note"], sizes[-1]) == (True, 1000)
    assert sizes[0] == 100
    assert sizes[-2] < 1000


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", "1", "1.0", "0", "0.49999", "-1", "2", "x", "", "0.9;", "1e400"]
)
def test_a_bad_coverage_is_refused(trained_api: TestClient, test_digits: Digits, value: str) -> None:
    image = {"content": test_digits[0][0], "headers": {"content-type": "image/png"}}
    found = trained_api.post(f"/v1/models/tiny/predict?coverage={value}", **image)
    assert value not in {"x", "0.9;", "1e400"} or value not in found.text
    problem_of(found, 422, "query:coverage")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1.001", "-0.1", "-1", "2", "x", "", "1e400"])
def test_a_bad_threshold_is_refused(trained_api: TestClient, test_digits: Digits, value: str) -> None:
    image = {"content": test_digits[0][0], "headers": {"content-type": "image/png"}}
    found = trained_api.post(f"/v1/models/tiny/predict?threshold={value}", **image)
    problem_of(found, 422, "query:threshold")
    assert trained_api.post("/v1/models/tiny/predict?threshold=1", **image).status_code == 200


def test_the_report_tells_of_parent_and_child(trained_api: TestClient) -> None:
    report = trained_api.get("/v1/models/tiny pruned/report").json()
    found = report["calibration"]
    models = [trained_api.get(f"/v1/models/{name}").json()["calibration"] for name in MODELS]
    for key, wanted in (
        ("temperature", [each["temperature"] for each in models]),
        ("ece", [each["test"]["ece"] for each in models]),
        ("ece_uncalibrated", [each["test"]["ece_uncalibrated"] for each in models]),
    ):
        assert [found[key]["before"], found[key]["after"]] == pytest.approx(wanted, abs=1e-5)
    assert found["ece_uncalibrated"] == report["calibration_error"]
    for number, row in enumerate(found["coverage"]):
        wanted = [each["test"]["coverage"][number] for each in models]
        assert [row["asked"]] * 2 == [each["asked"] for each in wanted]
        for key in ("measured", "mean_set_size"):
            assert [row[key]["before"], row[key]["after"]] == [each[key] for each in wanted]
    html = trained_api.get("/v1/models/tiny pruned/report", headers={"accept": "text/html"}).text
    assert "<h2>Confidence</h2>" in html
    assert f"{found['ece']['after']:.4f}" in html
    assert "359 test images" in html


def test_reports_of_before_and_of_children_of_such_are_shown(trained_api: TestClient) -> None:
    report = trained_api.get("/v1/models/tiny pruned/report").json()
    without = page("old", {**report, "calibration": None})
    assert f"{report['calibration_error']['after']:.4f}" in without
    found = report["calibration"]
    for key in ("ece", "validation_images"):
        found[key]["before"] = None
    for row in found["coverage"]:
        row["measured"]["before"] = row["mean_set_size"]["before"] = None
    assert "<td>–</td>" in page("child", report)
