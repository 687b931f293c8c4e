"""Aliases over HTTP: moved back, remembered, and moved while others ask."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.conftest import wait_for
from tests.problems import problem_of

PNG = {"content-type": "image/png"}
MODELS = ("tiny", "tiny pruned")


def point(api: TestClient, name: str) -> dict[str, Any]:
    response = api.put("/v1/aliases/prod", json={"model": name})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize("verb", [":rollback", "/rollback"])
def test_an_alias_is_moved_back(trained_api: TestClient, test_digits: list[tuple[bytes, str]], verb: str) -> None:
    ids = [point(trained_api, name)["model"] for name in MODELS]
    answer = trained_api.post("/v1/models/prod/predict", content=test_digits[0][0], headers=PNG).json()
    assert answer["model"] == ids[1]
    moved = trained_api.post(f"/v1/aliases/prod{verb}").json()
    assert (moved["model"], moved["name"]) == (ids[0], "tiny")
    answer = trained_api.post("/v1/models/prod/predict", content=test_digits[0][0], headers=PNG).json()
    assert answer["model"] == ids[0]
    assert trained_api.get("/v1/aliases/prod").json() == moved
    assert trained_api.get("/v1/aliases").json()["items"] == [moved]
    assert "no other model" in problem_of(trained_api.post(f"/v1/aliases/prod{verb}"), 409)["detail"]
    assert trained_api.get("/v1/aliases/prod").json() == moved


def test_where_an_alias_pointed_is_read_in_pages(trained_api: TestClient) -> None:
    ids = [point(trained_api, name)["model"] for name in MODELS]
    point(trained_api, MODELS[1])
    trained_api.post("/v1/aliases/prod:rollback").raise_for_status()
    trained_api.delete("/v1/aliases/prod").raise_for_status()
    whole = trained_api.get("/v1/aliases/prod/history").json()
    assert [(item["action"], item["model"], item["name"], item["deleted"]) for item in whole["items"]] == [
        ("remove", None, None, False),
        ("rollback", ids[0], "tiny", False),
        ("set", ids[1], "tiny pruned", False),
        ("set", ids[0], "tiny", False),
    ]
    times = [item["since"] for item in whole["items"]]
    assert times == sorted(times, reverse=True)
    first = trained_api.get("/v1/aliases/prod/history?limit=3").json()
    second = trained_api.get(f"/v1/aliases/prod/history?limit=3&cursor={first['next_cursor']}").json()
    assert first["items"] + second["items"] == whole["items"]
    assert second["next_cursor"] is None


def test_a_model_that_only_history_mentions_may_be_deleted(trained_api: TestClient) -> None:
    ids = [point(trained_api, name)["model"] for name in MODELS]
    assert trained_api.delete("/v1/models/tiny").status_code == 204
    detail = problem_of(trained_api.post("/v1/aliases/prod:rollback"), 409)["detail"]
    assert "tiny" in detail
    assert ids[0] in detail
    items = trained_api.get("/v1/aliases/prod/history").json()["items"]
    assert [(item["model"], item["deleted"]) for item in items] == [(ids[1], False), (ids[0], True)]


@pytest.mark.parametrize("alias", ["nobody", "mdl_0", "x" * 101, ".hidden", "a%0ab", "a:b"])
def test_an_alias_that_is_not_there_is_not_found(trained_api: TestClient, alias: str) -> None:
    for method, path in (("GET", ""), ("GET", "/history"), ("POST", ":rollback"), ("POST", "/rollback")):
        response = trained_api.request(method, f"/v1/aliases/{alias}{path}")
        assert response.status_code in {404, 422}, response.text
        problem_of(response, response.status_code)


def test_an_answer_is_of_one_model_whatever_its_alias_does_meanwhile(
    trained_api: TestClient, test_digits: list[tuple[bytes, str]]
) -> None:
    """Many images a request, so that aliases move while some are decoded and others wait for their turn."""
    form = [("image", data) for data, _ in test_digits[:64]]
    own = {}
    for name in MODELS:
        answer = trained_api.post(f"/v1/models/{name}/predict", files=form).json()
        own[answer["model"]] = answer["predictions"]
    point(trained_api, MODELS[0])
    over = threading.Event()
    answers: list[Any] = []

    def ask() -> None:
        while not over.is_set():
            answers.append(trained_api.post("/v1/models/prod/predict", files=form))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        _move_back_and_forth(trained_api, test_digits[0][0], times=20)
        # The one that it no longer points at may go while its last answers are under way.
        point(trained_api, MODELS[1])
        assert trained_api.delete(f"/v1/models/{MODELS[0]}").status_code == 204
        so_far = len(answers)
        wait_for(lambda: len(answers) > so_far + 8)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    for answer in (answer.json() for answer in answers):
        for given, expected in zip(answer["predictions"], own[answer["model"]], strict=True):
            assert given["label"] == expected["label"]
            assert given["probability"] == pytest.approx(expected["probability"], abs=1e-5)
    assert {answer.json()["model"] for answer in answers} == set(own)


def _move_back_and_forth(api: TestClient, image: bytes, *, times: int) -> None:
    """Whoever has moved it finds it moved, with his next request."""
    for turn in range(times):
        moved = point(api, MODELS[1]) if turn % 2 == 0 else api.post("/v1/aliases/prod:rollback").json()
        response = api.post("/v1/models/prod/predict", content=image, headers=PNG)
        assert response.json()["model"] == moved["model"]
