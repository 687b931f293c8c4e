"""Reports of pruned models and pictures of families, over HTTP."""

from __future__ import annotations

import random
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from service.pareto import Contestant, front
from service.pareto_picture import picture
from service.report_page import page
from tests.problems import problem_of

SVG = "{http://www.w3.org/2000/svg}"


def test_a_pruned_model_has_a_report(trained_api: TestClient) -> None:
    parent, child = (trained_api.get(f"/v1/models/{name}").json() for name in ("tiny", "tiny pruned"))
    report = trained_api.get("/v1/models/tiny pruned/report").json()
    assert (report["model"], report["parent"]) == (child["id"], parent["id"])
    # A network this small is as fast as ever: its zeros save room only.
    assert report["verdict"] == "smaller_only"
    assert "no maintained runtime" in report["reason"]
    for part in ("validation", "test"):
        found = report["accuracy"][part]
        assert found["before"] == pytest.approx(parent["metrics"][f"{part}_accuracy"])
        assert found["after"] == pytest.approx(child["metrics"][f"{part}_accuracy"])
        assert found["after_cut"] < found["after"]
        assert found["difference"]["low"] <= found["difference"]["mean"] <= found["difference"]["high"]
        assert found["difference"]["mean"] == pytest.approx(found["after"] - found["before"], abs=1e-4)
    for name in ("parameters", "nonzero_parameters", "macs", "bytes"):
        assert report["sizes"][name] == {"before": parent[name], "after": child[name]}
    # Not what the worker's process holds, which started the one that was measured.
    assert all(0 < value < 300e6 for value in report["sizes"]["peak_memory_bytes"].values())
    assert [row["batch"] for row in report["latency"]] == [1, 8, 32]
    for row in report["latency"]:
        assert 0 < row["low"] <= row["speedup"] <= row["high"]
        assert all(row[who]["p50"] <= row[who]["p95"] for who in ("parent", "child"))
    assert [layer["name"] for layer in report["layers"]] == ["hidden.0", "head"]
    zeros = sum(layer["zeros"] * layer["shape"]["after"][0] * layer["shape"]["after"][1] for layer in report["layers"])
    assert zeros == pytest.approx(0.9 * (64 * 128 + 128 * 10), rel=0.01)
    job = trained_api.get(f"/v1/jobs/{child['job']}").json()
    assert (job["result"]["verdict"], job["result"]["reason"]) == (report["verdict"], report["reason"])


def test_a_browser_gets_a_page(trained_api: TestClient) -> None:
    response = trained_api.get("/v1/models/tiny pruned/report", headers={"accept": "text/html,*/*;q=0.8"})
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<h1>tiny pruned</h1>" in response.text
    assert "Smaller, not faster" in response.text
    assert "http" not in response.text.replace("http-equiv", "")


def test_nothing_in_a_name_is_taken_for_markup(trained_api: TestClient) -> None:
    report = trained_api.get("/v1/models/tiny pruned/report").json()
    report["classes"] = [{"label": "<script>1</script>", "before": 1.0, "after": 0.5}]
    report["layers"][0]["name"] = "<img src=x>"
    html = page("<b>&", report)
    assert not any(bad in html for bad in ("<script>", "<img", "<b>"))
    assert "&lt;script&gt;" in html
    item = contestant("<b>&\"'", accuracy=0.9, milliseconds=1.0, size=10)
    assert ElementTree.fromstring(picture([item], [item.model])).findall(f".//{SVG}circle")


def test_what_was_not_made_out_of_another_has_no_report(trained_api: TestClient) -> None:
    problem_of(trained_api.get("/v1/models/tiny/report"), 404)
    problem_of(trained_api.get("/v1/models/nobody/report"), 404)


def test_a_family_is_drawn(trained_api: TestClient) -> None:
    models = {model["name"]: model for model in trained_api.get("/v1/models").json()["items"]}
    family = models["tiny"]["family"]
    found = trained_api.get(f"/v1/families/{family}/pareto").json()
    assert [item["name"] for item in found["items"]] == ["tiny", "tiny pruned"]
    for item in found["items"]:
        model = models[item["name"]]
        assert item["test_accuracy"] == model["metrics"]["test_accuracy"]
        assert (item["bytes"], item["latency_ms"]) == (model["bytes"], model["latency_ms"]["batch_1_p50"])
    # The smallest is beaten by no other, whatever else it is.
    assert models["tiny pruned"]["id"] in found["front"]
    response = trained_api.get(f"/v1/families/{family}/pareto?format=svg")
    assert response.headers["content-type"] == "image/svg+xml"
    assert len(ElementTree.fromstring(response.text).findall(f".//{SVG}circle")) == 2
    problem_of(trained_api.get("/v1/families/fam_nobody/pareto"), 404)
    problem_of(trained_api.get(f"/v1/families/{family}/pareto?format=png"), 422)


def test_a_family_of_which_only_a_child_is_left_is_drawn(trained_api: TestClient) -> None:
    child = trained_api.get("/v1/models/tiny pruned").json()
    assert trained_api.delete("/v1/models/tiny").status_code == 204
    address = f"/v1/families/{child['family']}/pareto"
    found = trained_api.get(address).json()
    assert [item["model"] for item in found["items"]] == found["front"] == [child["id"]]
    drawn = ElementTree.fromstring(trained_api.get(f"{address}?format=svg").text)
    assert len(drawn.findall(f".//{SVG}circle")) == 1
    report = trained_api.get("/v1/models/tiny pruned/report").json()
    assert report["parent"] == child["parent"]
    assert trained_api.delete("/v1/models/tiny pruned").status_code == 204
    problem_of(trained_api.get(address), 404)


def contestant(name: str, *, accuracy: float, milliseconds: float | None, size: int) -> Contestant:
    return Contestant(
        model=name, name=name, kind="pruned", parent=None, test_accuracy=accuracy, latency_ms=milliseconds, bytes=size
    )


def test_the_front_is_what_no_other_beats() -> None:
    lots = random.Random(0)
    items = [
        contestant(str(n), accuracy=lots.randrange(5), milliseconds=lots.randrange(1, 5), size=lots.randrange(1, 5))
        for n in range(40)
    ]
    best = {item.model for item in items if item.model in front(items)}
    assert 0 < len(best) < 40
    for item in items:
        beaten = any(
            other.test_accuracy >= item.test_accuracy
            and other.latency_ms <= item.latency_ms
            and other.bytes <= item.bytes
            and (other.test_accuracy, other.latency_ms, other.bytes)
            != (item.test_accuracy, item.latency_ms, item.bytes)
            for other in items
        )
        assert (item.model in best) != beaten


def test_no_name_lies_on_another() -> None:
    items = [contestant(f"model {n}", accuracy=0.99, milliseconds=1.0 + n / 1000, size=10) for n in range(8)]
    items += [contestant("slow", accuracy=0.9, milliseconds=2.0, size=10)]
    names = ElementTree.fromstring(picture(items, [])).findall(f".//{SVG}text[@class='name']")
    assert len(names) == 9
    heights = sorted(float(name.attrib["y"]) for name in names)
    assert all(later - earlier >= 12 for earlier, later in pairwise(heights))


def test_models_that_were_not_timed_do_not_compete() -> None:
    untimed = contestant("a", accuracy=1.0, milliseconds=None, size=1)
    assert front([untimed]) == []
    assert "None of these models has been timed" in picture([untimed], [])
