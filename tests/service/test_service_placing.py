"""Where a model is served, chosen over HTTP. The graphics are made up: none was at hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from inference.devices import Device
from inference.runtimes import RUNTIMES
from service.app import create_app
from specs.settings import Settings
from tests.conftest import LOOPBACK, wait_for
from tests.inference.fake_gpu import LATER, fake
from tests.problems import problem_of

PNG = {"content-type": "image/png"}
TINY = "/v1/models/tiny"


@pytest.fixture
def api_with(trained_settings: Settings) -> Iterator[Callable[[Device], TestClient]]:
    clients: list[TestClient] = []

    def start(graphics: Device) -> TestClient:
        client = TestClient(create_app(trained_settings, graphics=graphics), base_url=LOOPBACK)
        clients.append(client)
        return client.__enter__()

    yield start
    LATER.clear()
    for client in clients:
        client.__exit__(None, None, None)


def change(api: TestClient, **changes: str) -> dict[str, Any]:
    response = api.patch(TINY, json=changes)
    assert response.status_code == 200, response.text
    model: dict[str, Any] = response.json()
    assert api.get(f"/v1/models/{model['id']}").json() == model
    return model


def answer(api: TestClient, image: bytes) -> list[tuple[str, Any]]:
    given = api.post(f"{TINY}/predict", content=image, headers=PNG)
    assert given.status_code == 200, given.text
    return [
        (top["label"], pytest.approx(top["probability"], abs=1e-4)) for top in given.json()["predictions"][0]["top"]
    ]


def test_the_runtime_can_be_chosen_and_left_to_the_figures_again(
    trained_api: TestClient, test_digits: list[tuple[bytes, str]]
) -> None:
    before, image = trained_api.get(TINY).json(), test_digits[0][0]
    right = answer(trained_api, image)
    assert before["latency_ms"]["chosen_by"] == "measured"
    for runtime in RUNTIMES:
        figures = change(trained_api, runtime=runtime)["latency_ms"]
        assert (figures["runtime"], figures["device"], figures["precision"]) == (runtime, "cpu", "f32")
        assert (figures["chosen_by"], figures["asked"]) == ("user", {"runtime": runtime})
        assert figures["batch_1_p50"] == figures["runtimes"][runtime]["batch_1_p50"] > 0
        assert figures["measured"]["runtime"] == before["latency_ms"]["runtime"]
        assert answer(trained_api, image) == right
    figures = change(trained_api, runtime="auto")["latency_ms"]
    assert figures["chosen_by"] == "measured"
    assert figures.keys() == before["latency_ms"].keys()
    assert figures["runtime"] == before["latency_ms"]["runtime"]


def test_a_name_can_be_changed_and_counts_at_once(
    trained_api: TestClient, test_digits: list[tuple[bytes, str]]
) -> None:
    before, image = trained_api.get(TINY).json(), test_digits[0][0]
    assert answer(trained_api, image)
    renamed = trained_api.patch(TINY, json={"name": "tiniest"}).json()
    assert renamed == {**before, "name": "tiniest"}
    assert trained_api.post("/v1/models/tiniest/predict", content=image, headers=PNG).status_code == 200
    problem_of(trained_api.post(f"{TINY}/predict", content=image, headers=PNG), 404)
    assert trained_api.patch("/v1/models/tiniest", json={}).json() == renamed
    assert trained_api.patch("/v1/models/tiniest", json={"name": None, "device": None}).json() == renamed


def test_a_name_does_not_wait_for_the_trial_of_another_model(trained_api: TestClient) -> None:
    turn = cast(Any, trained_api.app).state.house.placing.turn
    portal = trained_api.portal
    assert portal is not None
    portal.call(turn.acquire)
    with ThreadPoolExecutor(1) as other:
        renamed = other.submit(trained_api.patch, TINY, json={"name": "tiniest"})
        done, _ = wait({renamed}, 10)

        async def release() -> None:
            turn.release()

        portal.call(release)
        assert done
        assert renamed.result().json()["name"] == "tiniest"


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"runtime": "openvin"}, "#/runtime", "Did you mean 'openvino'?"),
        ({"runtime": "x" * 5000}, "#/runtime", "Known: auto, onnxruntime, openvino."),
        ({"device": "gpus"}, "#/device", "Did you mean 'gpu'?"),
        ({"device": 1}, "#/device", ""),
        ({"runtime": ["openvino"]}, "#/runtime", ""),
        ({"devise": "gpu"}, "#/devise", "Did you mean 'device'?"),
        ({"name": "../tiny"}, "#/name", ""),
        ({"name": "a\u0000b"}, "#/name", ""),
        ({"name": ""}, "#/name", ""),
        ({"name": "x" * 101}, "#/name", ""),
        ({"runtime": "onnxruntime", "device": "gpu"}, "#/device", "It runs on: cpu."),
        ({"device": "gpu"}, "#/device", "Nothing was changed."),
        ([], "#", ""),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    api_with: Callable[[Device], TestClient], body: Any, pointer: str, words: str
) -> None:
    api = api_with(fake("absent", accelerator="cuda"))
    before = api.get(TINY).json()
    problem = problem_of(api.patch(TINY, json=body), 422, pointer)
    assert words in problem["errors"][0]["hint"]
    assert "xxxx" not in str(problem)
    assert api.get(TINY).json() == before


def test_nobody_changes_a_model_that_is_not_there(trained_api: TestClient) -> None:
    problem_of(trained_api.patch("/v1/models/nobody", json={"runtime": "openvino"}), 404)
    problem_of(trained_api.patch(TINY, content=b"{", headers={"content-type": "application/json"}), 422)


def test_a_device_that_computes_otherwise_is_refused_with_the_reason(
    api_with: Callable[[Device], TestClient], test_digits: list[tuple[bytes, str]]
) -> None:
    api = api_with(fake("wrong"))
    before = api.get(TINY).json()
    problem = problem_of(api.patch(TINY, json={"device": "gpu"}), 422, "#/device")
    assert "off the golden logits" in problem["errors"][0]["message"]
    assert api.get(TINY).json() == before
    assert answer(api, test_digits[0][0])


def test_a_device_that_fails_while_it_serves_is_told_and_nobody_notices(
    api_with: Callable[[Device], TestClient], test_digits: list[tuple[bytes, str]]
) -> None:
    image = test_digits[0][0]
    api = api_with(fake("right"))
    right = answer(api, image)
    figures = change(api, device="gpu")["latency_ms"]
    assert (figures["runtime"], figures["device"], figures["chosen_by"]) == ("openvino", "gpu", "user")
    assert "faults" not in figures
    # From now on the made-up device answers single images upside down, which shows who answers; golden ones are eight.
    LATER["alter"] = lambda logits, _half: -logits if len(logits) == 1 else logits
    wait_for(lambda: answer(api, image) != right)
    LATER["alter"] = lambda logits, _half: logits * np.float32("nan")
    answers: list[object] = []
    callers = [threading.Thread(target=lambda: answers.append(answer(api, image))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert answers == [right] * len(callers)
    LATER["alter"] = lambda logits, _half: -logits
    assert answer(api, image) == right  # not asked again by this process
    model = wait_for(lambda: "faults" in api.get(TINY).json()["latency_ms"] and api.get(TINY).json())
    faults = model["latency_ms"]["faults"]
    assert (faults["count"], faults["until_restart"]) == (1, True)
    assert "no numbers" in faults["reason"]
    events = api.get(f"/v1/jobs/{model['job']}/events").json()["items"]
    assert [event["data"]["device"] for event in events if event["type"] == "device_fault"] == ["gpu"]
    assert change(api, device="auto")["latency_ms"]["device"] == "cpu"


def test_changes_while_requests_run_lose_none(trained_api: TestClient, test_digits: list[tuple[bytes, str]]) -> None:
    image = test_digits[0][0]
    right = answer(trained_api, image)
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(answer(trained_api, image))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for runtime in (*RUNTIMES, "auto"):
        change(trained_api, runtime=runtime)
    stop.set()
    for asker in askers:
        asker.join()
    assert answers
    assert all(given == right for given in answers)
