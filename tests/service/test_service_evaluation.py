"""What models are right and wrong about, and the curves of trainings, over HTTP and as pictures."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient

from service import confusion_picture, curves_picture
from service.evaluation import evaluation
from service.schemas import MetricView
from store.metrics import COLUMNS
from store.tables import Model
from tests.problems import problem_of

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>&\"'\ufffe"


def test_every_model_tells_what_it_is_right_and_wrong_about(trained_api: TestClient) -> None:
    digits = trained_api.get("/v1/datasets/digits").json()
    for name in ("tiny", "tiny pruned"):
        model = trained_api.get(f"/v1/models/{name}").json()
        found = trained_api.get(f"/v1/models/{name}/evaluation").json()
        assert found["model"] == model["id"]
        assert found["images"] == digits["splits"]["test"]
        assert found["accuracy"] == pytest.approx(model["metrics"]["test_accuracy"])
        assert found["interval"][0] < found["accuracy"] < found["interval"][1]
        assert (found["test_loss"], found["validation_loss"]) == (
            model["metrics"]["test_loss"],
            model["metrics"]["validation_loss"],
        )
        cells = {(row, column): count for row, column, count in found["confusion"]}
        assert all(count > 0 for count in cells.values())
        for each in found["classes"]:
            index = each["index"]
            assert each["label"] == model["classes"][index]
            assert each["images"] == sum(count for (row, _), count in cells.items() if row == index)
            assert each["named"] == sum(count for (_, column), count in cells.items() if column == index)
            assert each["right"] == cells.get((index, index), 0)
            assert each["recall"] == pytest.approx(each["right"] / each["images"])
        wrong = sum(count for (row, column), count in cells.items() if row != column)
        assert sum(mistake["images"] for mistake in found["mistakes"]) == wrong > 0
        counts = [mistake["images"] for mistake in found["mistakes"]]
        assert counts == sorted(counts, reverse=True)


def test_mistakes_are_drawn(trained_api: TestClient) -> None:
    found = trained_api.get("/v1/models/tiny/evaluation").json()
    response = trained_api.get("/v1/models/tiny/confusion.svg")
    assert response.headers["content-type"] == "image/svg+xml"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    cells = ElementTree.fromstring(response.text).findall(f".//{SVG}rect[@class='cell']")
    assert len(cells) == len(found["confusion"])


def test_curves_are_drawn(trained_api: TestClient) -> None:
    job = trained_api.get("/v1/models/tiny").json()["job"]
    epochs = len(trained_api.get(f"/v1/jobs/{job}/metrics").json()["items"])
    response = trained_api.get(f"/v1/jobs/{job}/curves.svg")
    assert response.headers["content-type"] == "image/svg+xml"
    drawing = ElementTree.fromstring(response.text)
    lines = drawing.findall(f".//{SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [epochs] * 4
    assert f"{epochs} epochs; the best on validation images is epoch" in response.text


@pytest.mark.parametrize("path", ["/v1/models/{}/evaluation", "/v1/models/{}/confusion.svg", "/v1/jobs/{}/curves.svg"])
def test_what_is_not_there_is_told(trained_api: TestClient, path: str) -> None:
    problem_of(trained_api.get(path.format("nobody")), 404)


def test_a_model_of_before_there_were_evaluations_says_so(trained_api: TestClient) -> None:
    house = trained_api.app.state.house  # type: ignore[attr-defined]
    with house.database.write() as session:
        model = session.query(Model).filter_by(name="tiny").one()
        before, model.confusion = model.confusion, None
    try:
        for what in ("evaluation", "confusion.svg"):
            assert (
                "before there were evaluations" in problem_of(trained_api.get(f"/v1/models/tiny/{what}"), 404)["detail"]
            )
    finally:
        with house.database.write() as session:
            session.query(Model).filter_by(name="tiny").one().confusion = before


def row(labels: list[str]) -> Model:
    return Model(id="mdl_1", facts={"classes": labels, "metrics": {}})


def test_classes_without_images_count_for_nothing() -> None:
    found = evaluation(row(["a", "b", "c"]), [[0, 0, 3], [0, 1, 1], [1, 1, 2]])
    assert (found.images, found.accuracy) == (6, pytest.approx(5 / 6))
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 1) / 2)
    assert [each.recall for each in found.classes] == [0.75, 1.0, None]
    assert [each.precision for each in found.classes] == [1.0, pytest.approx(2 / 3), None]
    assert found.interval == (pytest.approx(0.4365, abs=1e-4), pytest.approx(0.9699, abs=1e-4))


def test_of_many_classes_those_with_mistakes_are_drawn() -> None:
    labels = [f"{HOSTILE} {number} of a long name" for number in range(1000)]
    cells = [[number, number, 10] for number in range(1000)] + [
        [number, number + 1, 2] for number in range(500, 600, 2)
    ]
    found = evaluation(row(labels), cells)
    text = confusion_picture.picture(found, HOSTILE)
    drawn = ElementTree.fromstring(text)
    assert len(drawn.findall(f".//{SVG}rect[@class='cell']")) == 40 + 20
    assert "40 of 1000 classes" in text
    assert "<script>" not in text


def epoch(number: int, value: float | None) -> MetricView:
    return MetricView(epoch=number, **dict.fromkeys(COLUMNS, value), non_finite=value is None)


def test_the_last_epoch_of_many_is_drawn_and_a_gap_is_one() -> None:
    values = [0.5 if number != 501 else None for number in range(800)]
    drawing = ElementTree.fromstring(
        curves_picture.picture([epoch(n + 1, value) for n, value in enumerate(values)], "x")
    )
    lines = [line.attrib["points"].split() for line in drawing.findall(f".//{SVG}polyline")]
    assert len(lines) == 8
    ends = sorted({float(line[-1].partition(",")[0]) for line in lines})
    steps = (ends[1] - ends[0]) / (800 - 501)
    # The gap begins after epoch 501, and the lines end with the last epoch.
    assert (ends[1] - float(lines[0][0].partition(",")[0])) / steps == pytest.approx(799, rel=0.01)


@pytest.mark.parametrize(
    ("values", "lines", "dots"),
    [
        ([], 0, 0),
        ([None], 0, 0),
        ([0.5], 0, 4),
        ([0.5, 0.4, None, 0.3, None, 0.2, 0.1], 8, 4),
        ([1.0 / (n + 1) for n in range(10_000)], 4, 0),
    ],
    ids=["none yet", "nothing finite", "one", "gaps", "many"],
)
def test_curves_of_all_kinds(values: list[float | None], lines: int, dots: int) -> None:
    text = curves_picture.picture([epoch(number + 1, value) for number, value in enumerate(values)], HOSTILE)
    drawing = ElementTree.fromstring(text)
    assert len(drawing.findall(f".//{SVG}polyline")) == lines
    legend = 4 if values else 0
    assert len(drawing.findall(f".//{SVG}circle")) == dots + legend
    assert "<script>" not in text
    assert len(text) < 40_000
