"""Figures of networks in the catalogue: counted by a helper process, kept, asked for with any options."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from nets.counting import count
from service.app import create_app
from service.counting import Counter, CounterBusy, CounterFailed
from service.figures import MAX_WAITING, FigureBook
from specs.architectures import ARCHITECTURES
from specs.networks.base import LEAST_IMAGE_SIZE
from specs.settings import Settings
from store.database import Database
from store.figures import MAX_KEPT, find_figures, keep_figures
from store.tables import CountedFigures
from tests.conftest import LOOPBACK, wait_for
from tests.problems import problem_of

QUESTION = {"architecture": {"name": "mlp"}, "classes": 10, "channels": 1, "image_size": 8}
READY = "import json, os, sys, time\ndef say(it): print(json.dumps(it), flush=True)\nsay({'ready': True})\n"
LOOP = READY + "for line in sys.stdin: "
ANSWER = "say({'parameters': 1, 'macs': 2})"


# Networks that do not take the smallest images there are, with the options by which they do not.
CHOOSY = [
    (name, options, least)
    for name, entry in ARCHITECTURES.items()
    for options in ({}, {"stem": "paper"})
    if set(options) <= set(entry.options.model_fields)
    and (least := entry.options(**options).least_image_size()) > LEAST_IMAGE_SIZE
]


def helpers() -> list[psutil.Process]:
    """The processes that count for this one."""
    children = psutil.Process().children()
    return [child for child in children if "nets.counting" in _command_of(child)]


def _command_of(process: psutil.Process) -> list[str]:
    """Nothing of one that has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def figures_of(api: TestClient, query: str) -> dict[str, Any]:
    response = api.get(f"/v1/architectures/{query}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["figures"]
    return found


def test_the_list_has_the_figures_of_every_network_soon(api: TestClient) -> None:
    items = api.get("/v1/architectures").json()["items"]
    assert [item["figures"] for item in items] == [None] * len(items), "nobody waits for them"

    def all_counted() -> list[Any] | None:
        items = api.get("/v1/architectures").json()["items"]
        return items if all(item["figures"] for item in items) else None

    for item in wait_for(all_counted, seconds=120):
        found = item["figures"]
        options = ARCHITECTURES[item["name"]].options()
        assert found["image_size"] == max(32, options.least_image_size())
        assert (found["classes"], found["channels"]) == (10, 3)
        assert found == figures_of(api, item["name"])
        wanted = count(options, classes=10, channels=3, image_size=found["image_size"])
        assert (found["parameters"], found["macs"]) == (wanted.parameters, wanted.macs)


def test_figures_are_those_of_the_options_that_are_asked_for(api: TestClient) -> None:
    look = "image_size=8&channels=1&classes=10"
    wanted = {
        "parameters": 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10,
        "macs": 64 * 128 + 128 * 64 + 64 * 10,
        "image_size": 8,
        "classes": 10,
        "channels": 1,
    }
    for hidden in ("hidden=[128,64]", "hidden=128&hidden=64", "hidden=%5B128,%2064%5D"):
        assert figures_of(api, f"mlp?{hidden}&{look}") == wanted
    assert figures_of(api, f"mlp?hidden=7&{look}")["macs"] == 64 * 7 + 7 * 10
    narrow, wide = (figures_of(api, f"resnet18?width={width}&activation=silu") for width in ("0.25", "1"))
    assert narrow["parameters"] < wide["parameters"]
    paper = figures_of(api, "resnet18?stem=paper&image_size=224&classes=1000&channels=3")
    assert (paper["parameters"], paper["macs"]) == (11_689_512, 1_814_073_344)


BAD = [
    ("mlp?hiden=128", "query:hiden", "'hidden'"),
    ("mlp?image-size=8", "query:image-size", "'image_size'"),
    ("mlp?width=0.5", "query:width", "activation, channels, classes, dropout, hidden, image_size"),
    ("mlp?name=mlp", "query:name", "Known:"),
    ("resnet18?width=wide", "query:width", "Give a number."),
    ("resnet18?width=", "query:width", "Give a number."),
    ("resnet18?width=NaN", "query:width", "Give a number."),
    ("resnet18?width=1e999", "query:width", "Give a"),
    ("resnet18?width=9", "query:width", "at most 8"),
    ("resnet18?width=1&width=2", "query:width", "once"),
    ("resnet18?width=[1]", "query:width", "Give a number."),
    ("resnet18?activation=rely", "query:activation", "'relu'"),
    ("mlp?hidden=128&hidden=x", "query:hidden.1", "Give a whole number."),
    ("mlp?hidden=[]", "query:hidden", "at least 1"),
    ("mlp?hidden={}", "query:hidden.0", "Give a whole number."),
    ("mlp?hidden=1.5", "query:hidden.0", "Give a whole number."),
    ("mlp?hidden=" + "[" * 5000, "query:hidden", "Give a list."),
    ("mlp?image_size=7", "query:image_size", "at least 8"),
    ("mlp?image_size=513", "query:image_size", "at most 512"),
    ("mlp?image_size=32.5", "query:image_size", "Give a whole number."),
    ("mlp?channels=2", "query:channels", "1 or 3"),
    ("mlp?classes=1", "query:classes", "at least 2"),
    ("mlp?classes=100001", "query:classes", "at most 100000"),
    ("mlp?classes=" + "9" * 5000, "query:classes", "Give a"),
    ("mlp?classes=true", "query:classes", "Give a whole number."),
]


@pytest.mark.parametrize(("query", "pointer", "hint"), BAD, ids=[query[:40] for query, _, _ in BAD])
def test_a_bad_parameter_is_named_with_the_fix(api: TestClient, query: str, pointer: str, hint: str) -> None:
    problem = problem_of(api.get(f"/v1/architectures/{query}"), 422, pointer)
    assert hint in next(error["hint"] for error in problem["errors"] if error["pointer"] == pointer)
    assert helpers() == [], "nobody counts what makes no sense"


def test_every_bad_parameter_is_named_at_once(api: TestClient) -> None:
    problem = problem_of(api.get("/v1/architectures/mlp?dropout=2&classes=0&channels=4&hidden=5&hidden=0"), 422)
    pointers = {error["pointer"] for error in problem["errors"]}
    assert pointers == {"query:dropout", "query:classes", "query:channels", "query:hidden.1"}


@pytest.mark.parametrize(("name", "options", "least"), CHOOSY, ids=[f"{name} {options}" for name, options, _ in CHOOSY])
def test_images_that_are_too_small_are_refused_with_the_least_size(
    api: TestClient, name: str, options: dict[str, str], least: int
) -> None:
    query = {**options, "image_size": least - 1}
    problem = problem_of(api.get(f"/v1/architectures/{name}", params=query), 422, "query:image_size")
    assert str(least) in problem["errors"][0]["hint"]
    assert helpers() == []


def test_what_was_counted_is_kept_and_nobody_counts_it_again(settings: Settings) -> None:
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        found = figures_of(api, "mlp?hidden=33")
        assert len(helpers()) == 1
    assert helpers() == [], "the helper ends with the service"
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        assert figures_of(api, "mlp?hidden=33") == found
        assert figures_of(api, "mlp?hidden=[33]&image_size=32&channels=3") == found
        assert helpers() == []
        assert figures_of(api, "mlp?hidden=34") != found


def test_a_helper_that_was_killed_is_started_again(api: TestClient) -> None:
    figures_of(api, "mlp?hidden=33")
    (helper,) = helpers()
    helper.kill()
    figures_of(api, "mlp?hidden=34")
    (another,) = helpers()
    assert another.pid != helper.pid


def counter(folder: Path, script: str, **limits: float) -> Counter:
    path = folder / "helper.py"
    path.write_text(script, encoding="utf-8")
    return Counter([sys.executable, str(path)], **limits)


BROKEN = {
    "ends at once": ("raise SystemExit(1)", "ended before it answered"),
    "ends when asked": (READY + "sys.stdin.readline()", "ended before it answered"),
    "says nothing at first": ("import time; time.sleep(60)", "said nothing for 1 seconds"),
    "says nothing when asked": (READY + "time.sleep(60)", "said nothing for 1 seconds"),
    "says what is no JSON": (READY + "print('fine', flush=True)\ntime.sleep(60)", "no JSON"),
    "says what is no object": (LOOP + "say([1])", "no figures"),
    "says half of it": (LOOP + "say({'macs': 1})", "no figures"),
    "says an error": (LOOP + "say({'error': 'ValueError: no'})", "ValueError: no"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_helper_that_fails_fails_its_question_only(name: str, tmp_path: Path) -> None:
    script, message = BROKEN[name]
    start = 1.0 if name == "says nothing at first" else 30.0
    broken = counter(tmp_path, script, start_seconds=start, answer_seconds=1.0)
    for _ in range(2):
        with pytest.raises(CounterFailed, match=message):
            broken.ask(QUESTION)
    (tmp_path / "helper.py").write_text(LOOP + ANSWER, encoding="utf-8")
    broken.close()
    mended = Counter([sys.executable, str(tmp_path / "helper.py")])
    assert mended.ask(QUESTION) == {"parameters": 1, "macs": 2}
    mended.close()
    with pytest.raises(CounterFailed):
        mended.ask(QUESTION)


def test_a_program_that_is_not_there_fails() -> None:
    with pytest.raises(CounterFailed, match="could not be started"):
        Counter(["/nowhere/python"]).ask(QUESTION)


def test_late_answers_are_not_taken_for_those_of_the_next_question(tmp_path: Path) -> None:
    late = READY + "line = sys.stdin.readline()\nslow = 'resnet18' in line\ntime.sleep(3 if slow else 0)\n"
    slow = counter(
        tmp_path, late + "say({'parameters': 9 if slow else 1, 'macs': 2})\ntime.sleep(60)", answer_seconds=1
    )
    with pytest.raises(CounterFailed):
        slow.ask({**QUESTION, "architecture": {"name": "resnet18"}})
    assert slow.ask(QUESTION)["parameters"] == 1
    slow.close()


def test_one_question_is_asked_at_a_time_and_a_turn_is_not_waited_for_without_end(tmp_path: Path) -> None:
    slow = counter(tmp_path, READY + "time.sleep(60)", wait_seconds=0.5)
    ends: list[Exception] = []

    def wait_in_vain() -> None:
        try:
            slow.ask(QUESTION)
        except CounterFailed as error:
            ends.append(error)

    thread = threading.Thread(target=wait_in_vain)
    thread.start()
    time.sleep(0.2)
    with pytest.raises(CounterBusy):
        slow.ask(QUESTION)
    slow.close()
    thread.join(10)
    assert len(ends) == 1, "who waits for an answer is told that there will be none"


def test_no_more_wait_than_may(settings: Settings, tmp_path: Path) -> None:
    script = READY + f"for line in sys.stdin:\n    time.sleep(0.5)\n    {ANSWER}"
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        house = api.app.state.house  # type: ignore[attr-defined]
        house.figures = FigureBook(house.database, counter(tmp_path, script))
        asking = range(MAX_WAITING + 4)
        with ThreadPoolExecutor(len(asking)) as threads:
            queries = [f"/v1/architectures/mlp?hidden={number + 1}" for number in asking]
            responses = list(threads.map(api.get, queries))
        refused = [response for response in responses if response.status_code == 503]
        assert len(refused) == len(asking) - MAX_WAITING
        for response in refused:
            problem_of(response, 503)
            assert int(response.headers["retry-after"]) > 0
        assert {response.status_code for response in responses} == {200, 503}
        assert api.get(queries[responses.index(refused[0])]).status_code == 200


def test_the_catalogue_is_there_when_nothing_can_be_counted(settings: Settings, tmp_path: Path) -> None:
    with TestClient(create_app(settings), base_url=LOOPBACK) as api:
        house = api.app.state.house  # type: ignore[attr-defined]
        house.figures = FigureBook(house.database, counter(tmp_path, "raise SystemExit(1)"))
        entry = api.get("/v1/architectures/mlp").json()
        assert (entry["name"], entry["figures"]) == ("mlp", None)
        refused = api.get("/v1/architectures/mlp?hidden=128")
        problem_of(refused, 503)
        assert refused.headers["retry-after"]
        for _ in range(2):
            assert all(item["figures"] is None for item in api.get("/v1/architectures").json()["items"])


def test_of_too_many_figures_the_oldest_go(database: Database) -> None:
    with database.write() as session:
        session.add_all(CountedFigures(key=f"{number:064}", parameters=1, macs=number) for number in range(MAX_KEPT))
    with database.write() as session:
        keep_figures(session, "a" * 64, parameters=2, macs=3)
        keep_figures(session, "a" * 64, parameters=2, macs=3)
    with database.read() as session:
        found = find_figures(session, [f"{0:064}", f"{1:064}", "a" * 64])
    assert sorted(found) == [f"{1:064}", "a" * 64]
    assert (found["a" * 64].parameters, found["a" * 64].macs) == (2, 3)


def test_the_parameters_are_in_the_docs(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    parameters = document["paths"]["/v1/architectures/{name}"]["get"]["parameters"]
    assert {parameter["name"] for parameter in parameters} == {"name", "image_size", "classes", "channels", "options"}
