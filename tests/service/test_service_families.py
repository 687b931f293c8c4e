"""A family asked as one: which of its models answers, and what is said when none fits."""

from __future__ import annotations

import base64
import io
import random
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import Engine, event

from service.app import create_app
from service.choice import NothingFits, Wish, choose
from service.pareto import Contestant
from specs.settings import Settings
from store import models
from store.database import Database
from tests.conftest import LOOPBACK, spoil_golden, wait_for
from tests.problems import problem_of

PNG = {"content-type": "image/png"}
Family = tuple[TestClient, str, dict[str, str]]


def set_figures(settings: Settings, figures: dict[str, tuple[float | None, float, float]]) -> None:
    """Gives models of these names a latency, a validation and a test accuracy, as if so measured."""
    database = Database.of(settings)
    with database.write() as session:
        for name, (latency, validation, test) in figures.items():
            row = models.find_model(session, name)
            row.latency = None if latency is None else {**(row.latency or {}), "batch_1_p50": latency}
            metrics = {**row.facts["metrics"], "validation_accuracy": validation, "test_accuracy": test}
            row.facts = {**row.facts, "metrics": metrics}
    database.close()


@pytest.fixture
def family(trained_settings: Settings) -> Iterator[Family]:
    """A service whose `tiny` is the more accurate and `tiny pruned` the faster; its address, and its models' ids.

    By test accuracy it is the other way round.
    """
    set_figures(trained_settings, {"tiny": (1.99999, 0.98012345, 0.90), "tiny pruned": (0.512345, 0.95, 0.96)})
    with TestClient(create_app(trained_settings), base_url=LOOPBACK) as api:
        found = {model["name"]: model for model in api.get("/v1/models").json()["items"]}
        yield api, f"/v1/families/{found['tiny']['family']}", {name: model["id"] for name, model in found.items()}


WISHES: list[tuple[dict[str, float], str, str]] = [
    ({}, "tiny", "most accurate"),
    ({"latency_budget_ms": 2}, "tiny", "at most 2 ms"),
    ({"latency_budget_ms": 1.9}, "tiny pruned", "at most 1.9 ms: 1 of the family's 2"),
    ({"min_accuracy": 0.95}, "tiny pruned", "fastest of those with a validation accuracy of at least 0.95"),
    ({"min_accuracy": 0.951}, "tiny", "1 of the family's 2"),
    ({"latency_budget_ms": 3, "min_accuracy": 0.9}, "tiny", "3 ms and a validation accuracy of at least 0.9: 2 of"),
    ({"latency_budget_ms": 1, "min_accuracy": 0.9}, "tiny pruned", "most accurate"),
]


def test_the_best_that_fits_answers(family: Family, test_digits: list[tuple[bytes, str]]) -> None:
    api, address, ids = family
    image = test_digits[0][0]
    for query, name, words in WISHES:
        response = api.post(f"{address}/predict", params={**query, "top_k": 2}, content=image, headers=PNG)
        assert response.status_code == 200, response.text
        answer = response.json()
        chosen = answer.pop("chosen")
        assert answer == api.post(f"/v1/models/{name}/predict?top_k=2", content=image, headers=PNG).json()
        assert words in chosen.pop("reason")
        model = api.get(f"/v1/models/{name}").json()
        assert chosen == {
            "model": ids[name],
            "name": name,
            "latency_ms": model["latency_ms"]["batch_1_p50"],
            "validation_accuracy": model["metrics"]["validation_accuracy"],
            "test_accuracy": model["metrics"]["test_accuracy"],
        }


def test_a_family_takes_what_a_model_takes(family: Family, test_digits: list[tuple[bytes, str]]) -> None:
    api, address, _ = family
    image = test_digits[0][0]
    pixels = np.asarray(Image.open(io.BytesIO(image))).tobytes()
    raw = {"content-type": "application/octet-stream", "x-shape": "1,8,8,1"}
    path = f"{address}/predict"
    answers = [
        api.post(path, content=image, headers=PNG).json(),
        api.post(path, files={"image": image}).json(),
        api.post(path, json={"images": [base64.b64encode(image).decode()]}).json(),
        api.post(path, content=pixels, headers=raw).json(),
    ]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["predictions"][0]["label"] == test_digits[0][1]
    problem_of(api.post(path, content=b"no image", headers=PNG), 415)
    problem_of(api.post(path, content=b"{}", headers={"content-type": "application/json"}), 422, "#/images")
    problem_of(api.post(path, content=image, headers={"content-type": "text/plain"}), 415)
    problem_of(api.post("/v1/families/fam_nobody/predict", content=image, headers=PNG), 404)


NEAREST: list[tuple[dict[str, float], dict[str, str]]] = [
    ({"latency_budget_ms": 0.1}, {"latency_budget_ms": "tiny pruned"}),
    ({"min_accuracy": 0.99}, {"min_accuracy": "tiny"}),
    ({"latency_budget_ms": 1, "min_accuracy": 0.97}, {"latency_budget_ms": "tiny", "min_accuracy": "tiny pruned"}),
    ({"latency_budget_ms": 0.1, "min_accuracy": 0.97}, {"latency_budget_ms": "tiny"}),
    ({"latency_budget_ms": 1, "min_accuracy": 0.99}, {"min_accuracy": "tiny pruned"}),
    ({"latency_budget_ms": 0.1, "min_accuracy": 1}, {"latency_budget_ms": "tiny pruned", "min_accuracy": "tiny"}),
]


def test_when_none_fits_the_nearest_are_named(family: Family, test_digits: list[tuple[bytes, str]]) -> None:
    api, address, ids = family
    for query, nearest in NEAREST:
        response = api.post(f"{address}/predict", params=query, content=test_digits[0][0], headers=PNG)
        found = problem_of(response, 422)
        assert [error["pointer"] for error in found["errors"]] == [f"query:{field}" for field in nearest]
        assert [item["model"] for item in found["nearest"]] == [ids[name] for name in nearest.values()]
        assert all(item["latency_ms"] and item["validation_accuracy"] for item in found["nearest"])


def test_what_is_hinted_is_enough(family: Family, test_digits: list[tuple[bytes, str]]) -> None:
    api, address, ids = family
    for query, nearest in NEAREST[:-1]:  # of the last, neither field alone will do
        response = api.post(f"{address}/predict", params=query, content=test_digits[0][0], headers=PNG)
        for error in response.json()["errors"]:
            field = error["pointer"].partition(":")[2]
            (number,) = re.findall(r"[0-9]+(?:\.[0-9]+)?", error["hint"])
            eased = api.post(
                f"{address}/predict", params={**query, field: number}, content=test_digits[0][0], headers=PNG
            )
            assert eased.json()["model"] == ids[nearest[field]], error


BAD_WISHES = {
    "latency_budget_ms": ("0", "-1", "nan", "inf", "fast", ""),
    "min_accuracy": ("-0.1", "1.1", "90 %", "NaN", ""),
    "top_k": ("0",),
}


def test_a_model_that_cannot_be_had_leaves_the_others(
    family: Family, trained_settings: Settings, test_digits: list[tuple[bytes, str]]
) -> None:
    api, address, ids = family
    spoil_golden(trained_settings, ids["tiny"])
    image = test_digits[0][0]
    answer = api.post(f"{address}/predict", content=image, headers=PNG)
    assert (answer.status_code, answer.json()["model"]) == (200, ids["tiny pruned"]), answer.text
    # What fits is there and broken, which is another thing than that none fits.
    broken = api.post(f"{address}/predict?min_accuracy=0.97", content=image, headers=PNG)
    assert "logits" in problem_of(broken, 503)["detail"]
    problem_of(api.post(f"{address}/predict?min_accuracy=0.99", content=image, headers=PNG), 422)


def test_a_bad_wish_is_refused(family: Family, test_digits: list[tuple[bytes, str]]) -> None:
    api, address, _ = family
    for field, values in BAD_WISHES.items():
        for value in values:
            response = api.post(f"{address}/predict", params={field: value}, content=test_digits[0][0], headers=PNG)
            problem_of(response, 422, f"query:{field}")


def test_a_model_that_was_not_timed_is_in_no_budget(
    trained_settings: Settings, test_digits: list[tuple[bytes, str]]
) -> None:
    set_figures(trained_settings, {"tiny": (None, 0.98, 0.98), "tiny pruned": (None, 0.95, 0.95)})
    with TestClient(create_app(trained_settings), base_url=LOOPBACK) as api:
        path = f"/v1/families/{api.get('/v1/models/tiny').json()['family']}/predict"

        def ask(**query: float) -> Any:
            return api.post(path, params=query, content=test_digits[0][0], headers=PNG)

        assert ask().json()["chosen"]["latency_ms"] is None
        assert ask(min_accuracy=0.9).json()["chosen"]["name"] == "tiny"
        found = problem_of(ask(latency_budget_ms=1000), 422, "query:latency_budget_ms")
        assert "timed" in found["errors"][0]["message"]


def test_the_database_is_not_asked_each_time(family: Family, test_digits: list[tuple[bytes, str]]) -> None:
    api, address, _ = family
    statements: list[object] = []

    def note(*arguments: object) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        started = time.monotonic()
        for _ in range(100):
            answer = api.post(f"{address}/predict", content=test_digits[0][0], headers=PNG)
            assert answer.status_code == 200
        seconds = time.monotonic() - started
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    # In each second the figures of the family and where the model is, and what the watch over workers asks.
    assert 0 < len(statements) <= 10 * (seconds + 2)


def test_a_deleted_model_is_chosen_no_more(family: Family, test_digits: list[tuple[bytes, str]]) -> None:
    """By this service or another one; and whoever asks meanwhile gets the answer of one model."""
    api, address, ids = family
    path, form = f"{address}/predict", [("image", data) for data, _ in test_digits[:64]]
    own = {ids[name]: api.post(f"/v1/models/{name}/predict", files=form).json()["predictions"] for name in ids}
    over = threading.Event()
    answers: list[Any] = []

    def ask() -> None:
        while not over.is_set():
            answers.append(api.post(path, files=form))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(answers) > 8)
        assert api.delete("/v1/models/tiny").status_code == 204
        assert api.post(path, files=form).json()["model"] == ids["tiny pruned"]
        so_far = len(answers)
        wait_for(lambda: len(answers) > so_far + 8)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    for answer in (answer.json() for answer in answers):
        assert answer["chosen"]["model"] == answer["model"]
        for given, expected in zip(answer["predictions"], own[answer["model"]], strict=True):
            assert given["probability"] == pytest.approx(expected["probability"], abs=1e-5)
    assert {answer.json()["model"] for answer in answers} == set(own)
    assert api.delete("/v1/models/tiny pruned").status_code == 204
    problem_of(api.post(path, files=form), 404)


def test_a_model_that_another_process_deleted_is_chosen_no_more(
    family: Family,
    trained_settings: Settings,
    test_digits: list[tuple[bytes, str]],
) -> None:
    api, address, ids = family

    def ask() -> Any:
        response = api.post(f"{address}/predict", content=test_digits[0][0], headers=PNG)
        assert response.status_code == 200, response.text
        return response.json()["model"]

    assert ask() == ids["tiny"]
    other = Database.of(trained_settings)
    with other.write() as session:
        models.delete_model(session, ids["tiny"])
    other.close()
    wait_for(lambda: ask() == ids["tiny pruned"])


def contestant(number: int, *, accuracy: float | None, milliseconds: float | None) -> Contestant:
    return Contestant(
        model=f"mdl_{number:02}",
        name=str(number),
        kind="pruned",
        parent=None,
        validation_accuracy=accuracy,
        test_accuracy=1.0,
        latency_ms=milliseconds,
        bytes=10,
    )


def test_no_model_that_fits_is_better_than_the_one_chosen() -> None:
    lots = random.Random(0)
    chosen = refused = 0
    for _ in range(300):
        items = [
            contestant(number, accuracy=lots.randrange(5) / 5, milliseconds=lots.choice((None, 1.0, 2.0, 3.0)))
            for number in range(lots.randrange(1, 6))
        ]
        budget, minimum = lots.choice((None, 1.0, 2.0)), lots.choice((None, 0.2, 0.6, 0.8))
        fitting = [
            item
            for item in items
            if (budget is None or (item.latency_ms is not None and item.latency_ms <= budget))
            and (minimum is None or (item.validation_accuracy or 0.0) >= minimum)
        ]
        wish = Wish(budget, minimum)
        if not fitting:
            refused += 1
            with pytest.raises(NothingFits) as caught:
                choose(items, wish)
            assert caught.value.problems
            assert caught.value.more["nearest"]
            continue
        chosen += 1
        found = choose(items, wish)
        assert found.model in {item.model for item in fitting}
        mine = (-(found.validation_accuracy or 0.0), found.latency_ms or 99.0)
        others = [(-(item.validation_accuracy or 0.0), item.latency_ms or 99.0) for item in fitting]
        if budget is None and minimum is not None:
            mine, others = mine[::-1], [other[::-1] for other in others]
        assert mine == min(others)
    assert chosen > 50
    assert refused > 50
