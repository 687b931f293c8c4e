"""Models in memory, deadlines, and requests that come slowly, break off or meet a model that goes."""

from __future__ import annotations

import asyncio
import base64
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from inference.answers import AnswerRule
from inference.models import LoadedModel, load_model
from service import references
from service.app import create_app
from service.explainer import Explainer, Question
from service.predictor import LOADERS, Predictor
from service.uploads import Upload
from specs.settings import Settings
from store import models
from store.artifacts import Artifacts
from store.database import Database
from store.errors import NotFound
from tests.conftest import LOOPBACK, wait_for
from tests.problems import problem_of

PNG = {"content-type": "image/png"}


def state(api: TestClient, name: str) -> tuple[bool, bool]:
    """Whether a model is in memory, and whether it is pinned."""
    found = api.get(f"/v1/models/{name}/load").json()
    return found["loaded"], found["pinned"]


def ask(api: TestClient, data: bytes, name: str = "tiny", **headers: str) -> Any:
    return api.post(f"/v1/models/{name}/predict", content=data, headers=PNG | headers)


@pytest.fixture
def digit(test_digits: list[tuple[bytes, str]]) -> bytes:
    return test_digits[0][0]


def test_a_model_is_loaded_kept_and_dropped(trained_api: TestClient, digit: bytes) -> None:
    assert state(trained_api, "tiny") == (False, False)
    loaded = trained_api.post("/v1/models/tiny/load").json()
    assert loaded == {"model": trained_api.get("/v1/models/tiny").json()["id"], "loaded": True, "pinned": False}
    answer = ask(trained_api, digit).json()
    for _ in range(2):
        assert trained_api.post("/v1/models/tiny/unload").json() == loaded | {"loaded": False}
    assert ask(trained_api, digit).json() == answer
    assert state(trained_api, "tiny") == (True, False)


def test_a_pinned_model_stays_whatever_else_is_loaded(trained_settings: Settings, digit: bytes) -> None:
    narrow = trained_settings.model_copy(update={"model_cache_bytes": 0})
    with TestClient(create_app(narrow), base_url=LOOPBACK) as api:
        assert ask(api, digit).status_code == ask(api, digit, "tiny pruned").status_code == 200
        assert state(api, "tiny") == (False, False)
        assert api.post("/v1/models/tiny/load?pin=true").json()["pinned"]
        assert ask(api, digit, "tiny pruned").status_code == 200
        assert state(api, "tiny") == (True, True)
        api.post("/v1/models/tiny/unload")
        assert state(api, "tiny") == (False, False)


def test_models_of_the_settings_are_there_from_the_start(trained_settings: Settings) -> None:
    chosen = trained_settings.model_copy(update={"preload": ("nobody", "tiny")})
    with TestClient(create_app(chosen), base_url=LOOPBACK) as api:
        assert wait_for(lambda: state(api, "tiny") == (True, True))


@pytest.mark.parametrize("what", ["load", "unload"])
def test_an_unknown_model_is_neither_loaded_nor_dropped(trained_api: TestClient, what: str) -> None:
    problem_of(trained_api.post(f"/v1/models/nobody/{what}"), 404)


def test_a_model_whose_files_are_gone_is_told_and_others_go_on(trained_settings: Settings, digit: bytes) -> None:
    with TestClient(create_app(trained_settings), base_url=LOOPBACK) as api:
        model = api.get("/v1/models/tiny").json()["id"]
        (trained_settings.home / "models" / model / "golden.safetensors").write_bytes(b"damaged")
        for _ in range(2):
            problem_of(api.post("/v1/models/tiny/load?pin=true"), 503)
            problem_of(ask(api, digit), 503)
        assert state(api, "tiny") == (False, False)
        assert ask(api, digit, "tiny pruned").status_code == 200


def test_an_answer_that_comes_too_late_is_told_as_such(trained_api: TestClient, digit: bytes) -> None:
    # The model has yet to be loaded, runtime and all, which takes far longer.
    late = ask(trained_api, digit, **{"x-timeout-ms": "1"})
    assert "1 ms" in problem_of(late, 504)["detail"]
    assert ask(trained_api, digit, **{"x-timeout-ms": "60000"}).status_code == 200


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "soon", "", "3600001", "9" * 5000, "NaN"])
def test_a_bad_deadline_is_refused(trained_api: TestClient, digit: bytes, value: str) -> None:
    problem_of(ask(trained_api, digit, **{"x-timeout-ms": value}), 422, "#/header:X-Timeout-Ms")


def test_a_model_deleted_under_load_answers_rightly_or_not_at_all(trained_api: TestClient, digit: bytes) -> None:
    right = ask(trained_api, digit, "tiny pruned").json()
    seen: Counter[int] = Counter()
    answers = []

    def keep_asking() -> None:
        while not seen[404]:
            response = ask(trained_api, digit, "tiny pruned")
            seen[response.status_code] += 1
            if response.status_code == 200:
                answers.append(response.json())

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for asker in askers:
        asker.start()
    wait_for(lambda: seen[200] > 20)
    assert trained_api.delete("/v1/models/tiny pruned").status_code == 204
    for asker in askers:
        asker.join(30)
    assert set(seen) == {200, 404}
    assert all(answer["model"] == right["model"] for answer in answers)
    assert all(answer["predictions"][0]["label"] == right["predictions"][0]["label"] for answer in answers)
    assert ask(trained_api, digit).status_code == 200


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_bodies_that_come_slowly_or_break_off_hold_nobody_up(trained_settings: Settings, digit: bytes) -> None:
    from tests.service.server import Server  # noqa: PLC0415 - needs limits of POSIX

    with Server(trained_settings, environment={"PRUNEYARD_BODY_SECONDS": "1"}) as server:
        server.begin("POST /v1/models/tiny/predict", digit[:20], whole=len(digit)).close()
        slow = server.begin("POST /v1/models/tiny/predict", digit[:20], whole=len(digit))
        assert ask(server.api, digit).status_code == 200  # type: ignore[arg-type]
        slow.settimeout(20)
        answer = slow.recv(2000)
        assert b" 408 " in answer
        assert b"within 1 seconds" in answer + slow.recv(2000)
        slow.close()
        assert ask(server.api, digit).status_code == 200  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["/v1/models/prod/predict", "/v1/models/prod/explain", "/v2/models/prod/infer"])
def test_an_alias_that_moves_is_followed_when_its_model_goes_before_it_is_there(
    trained_settings: Settings, digit: bytes, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SECONDS", 60.0)
    with TestClient(create_app(trained_settings), base_url=LOOPBACK) as api:
        there = api.put("/v1/aliases/prod", json={"model": "tiny"}).json()["model"]
        assert api.get("/v1/models/prod/load").json() == {"model": there, "loaded": False, "pinned": False}
        with TestClient(create_app(trained_settings), base_url=LOOPBACK) as other:  # this one does not hear of it
            left = other.put("/v1/aliases/prod", json={"model": "tiny pruned"}).json()["model"]
            assert other.delete(f"/v1/models/{there}").status_code == 204
        if "v2" in what:
            tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(digit).decode()]}
            answer = api.post(what, json={"inputs": [tensor]})
        else:
            answer = api.post(what, content=digit, headers=PNG)
        assert answer.status_code == 200, answer.text
        assert api.get(f"/v1/models/{left}/load").json()["loaded"]


class Shelf:
    """Loads the models of a data folder, those `at_once` at once, the others when they are let go."""

    def __init__(self, settings: Settings, *at_once: str) -> None:
        self.artifacts = Artifacts(settings.home)
        self.at_once = set(at_once)
        self.let_go = threading.Event()
        self.loads: Counter[str] = Counter()

    def load(self, model_id: str) -> LoadedModel:
        self.loads[model_id] += 1
        if model_id not in self.at_once:
            assert self.let_go.wait(20)
        return load_model(self.artifacts.model(model_id), threads=1)


async def begun(shelf: Shelf, loads: int) -> None:
    """Goes on when so many loads have begun."""
    async with asyncio.timeout(10):
        while shelf.loads.total() < loads:
            await asyncio.sleep(0.001)


@pytest.fixture
def trained(trained_settings: Settings) -> Iterator[Database]:
    database = Database.of(trained_settings)
    yield database
    database.close()


def test_models_that_are_being_loaded_hold_up_none_that_is_there(trained_settings: Settings, trained: Database) -> None:
    async def ask() -> None:
        shelf = Shelf(trained_settings)
        predictor = Predictor(trained_settings, trained, shelf.load)
        there, cold = await predictor.resolve("tiny"), await predictor.resolve("tiny pruned")
        shelf.at_once.add(there)
        waiting = [asyncio.create_task(predictor.loaded(cold)) for _ in range(3 * LOADERS)]
        await asyncio.sleep(0)
        waiting.pop().cancel()
        async with asyncio.timeout(10):
            # Their waiters hold no thread, neither of loads nor of looks at what a reference means.
            assert (await predictor.loaded(there)).manifest.id == there
            waiting += [asyncio.create_task(predictor.loaded(f"mdl_{number}")) for number in range(LOADERS)]
            await asyncio.sleep(0)
            assert await predictor.resolve("tiny", anew=True) == there
        shelf.let_go.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert len(set(map(id, found[:-LOADERS]))) == 1
        assert all(isinstance(each, Exception) for each in found[-LOADERS:])
        assert shelf.loads[cold] == 1
        await predictor.close()

    asyncio.run(ask())


def test_who_comes_after_a_model_was_dropped_gets_it_anew(trained_settings: Settings, trained: Database) -> None:
    async def ask() -> None:
        shelf = Shelf(trained_settings)
        predictor = Predictor(trained_settings, trained, shelf.load)
        model_id = await predictor.resolve("tiny")
        before = asyncio.create_task(predictor.loaded(model_id))
        await begun(shelf, 1)
        predictor.unload(model_id)
        after = asyncio.create_task(predictor.loaded(model_id))
        await begun(shelf, 2)
        shelf.let_go.set()
        assert await before is not await after
        assert await predictor.loaded(model_id) is await after
        await predictor.close()

    asyncio.run(ask())


def test_networks_take_turns_whoever_asks_them(trained_settings: Settings, trained: Database, digit: bytes) -> None:
    """Two at a time would fight for the same cores: batches of two models, single images, explanations."""
    at_once: list[int] = []
    running, lock = set[object](), threading.Lock()

    def load(model_id: str) -> LoadedModel:
        model = load_model(Artifacts(trained_settings.home).model(model_id), threads=1)

        def network(images: NDArray[np.float32]) -> NDArray[np.float32]:
            me = object()
            with lock:
                running.add(me)
                at_once.append(len(running))
            time.sleep(0.001)
            try:
                return model.network(images)
            finally:
                with lock:
                    running.remove(me)

        return replace(model, network=network)

    async def ask() -> None:
        predictor = Predictor(trained_settings, trained, load)
        explainer = Explainer(trained_settings, trained, Artifacts(trained_settings.home), predictor.turns.in_turn)
        models = [await predictor.load(name) for name in ("tiny", "tiny pruned")]

        async def predict(times: int) -> None:
            for number in range(times):
                model = models[number % 2]
                await predictor.predict(model, await predictor.decode(model, [digit]), AnswerRule(1, 0.0, None))

        async def explain() -> None:
            pixels = await predictor.decode(models[0], [digit])
            question = Question(None, "occlusion", None, overlay=True)
            for _ in range(3):
                await explainer.draw(models[0], pixels[0], Upload(files=[digit]), question)

        await asyncio.gather(explain(), predict(40))
        await asyncio.gather(explain(), *(predict(5) for _ in range(10)))
        explainer.close()
        await predictor.close()

    asyncio.run(ask())
    assert len(at_once) > 50
    assert max(at_once) == 1


def test_a_model_deleted_while_it_is_pinned_leaves_no_pin(trained_settings: Settings, trained: Database) -> None:
    async def ask() -> None:
        shelf = Shelf(trained_settings)
        predictor = Predictor(trained_settings, trained, shelf.load)
        model_id = await predictor.resolve("tiny")
        pinning = asyncio.create_task(predictor.load(model_id, pin=True))
        await begun(shelf, 1)
        predictor.forget(model_id)
        with trained.write() as session:
            models.delete_model(session, model_id)
        shelf.let_go.set()
        with pytest.raises(NotFound):
            await pinning
        assert not predictor.is_pinned(model_id)
        assert predictor.cache_stats().pinned == 0
        await predictor.close()

    asyncio.run(ask())
