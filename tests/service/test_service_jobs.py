"""Jobs over HTTP: made, read, cancelled; bad bodies are refused and change nothing."""

from __future__ import annotations

import io
import json
from enum import Enum
from typing import Any
from zipfile import ZipFile

import pytest
from fastapi.testclient import TestClient

from service import examples
from specs.architectures import ARCHITECTURES
from specs.optimizers import OPTIMIZERS
from specs.schedules import SCHEDULES
from specs.settings import Settings
from store import models, queue
from store.database import Database
from tests.problems import problem_of

GOOD: dict[str, Any] = {"kind": "train", "dataset": "digits", "architecture": "mlp"}


class Deleted(Enum):
    """Stands for a field that is left out; its text is the same in each process that collects these tests."""

    FIELD = "deleted"


DELETED = Deleted.FIELD


def test_a_job_is_accepted_with_its_defaults(api: TestClient) -> None:
    response = api.post("/v1/jobs", json=GOOD)
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["status"] == "queued"
    assert job["queue_position"] == 0
    assert job["attempt"] == 0
    spec = job["spec"]
    assert (spec["epochs"], spec["batch_size"]) == (20, 64)
    assert (spec["optimizer"]["name"], spec["optimizer"]["lr"]) == ("adam", 0.001)
    assert api.get(f"/v1/jobs/{job['id']}").json() == job


@pytest.mark.parametrize("name", list(examples.JOBS))
def test_each_example_of_the_docs_page_is_accepted(trained_api: TestClient, name: str) -> None:
    body = examples.JOBS[name]["value"]
    for field in {"model", "teacher"} & body.keys():
        body = {**body, field: "tiny"}
    assert trained_api.post("/v1/jobs", json=body).status_code == 202


def test_each_architecture_is_accepted_by_name_and_with_options(api: TestClient) -> None:
    entries = {entry["name"]: entry for entry in api.get("/v1/architectures").json()["items"]}
    assert list(entries) == list(ARCHITECTURES)
    for name, entry in entries.items():
        assert api.post("/v1/jobs", json={**GOOD, "architecture": name}).status_code == 202
        full = {"name": name, **entry["defaults"]}
        job = api.post("/v1/jobs", json={**GOOD, "architecture": full}).json()
        assert job["spec"]["architecture"] == full


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_each_optimizer_is_accepted(api: TestClient, name: str) -> None:
    job = api.post("/v1/jobs", json={**GOOD, "optimizer": name}).json()
    assert job["spec"]["optimizer"]["name"] == name


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_each_schedule_is_accepted(api: TestClient, name: str) -> None:
    job = api.post("/v1/jobs", json={**GOOD, "schedule": name}).json()
    assert job["spec"]["schedule"]["name"] == name


def test_whole_numbers_will_do_for_fractions(api: TestClient) -> None:
    job = api.post("/v1/jobs", json={**GOOD, "optimizer": {"name": "sgd", "lr": 1, "weight_decay": 0}}).json()
    assert job["spec"]["optimizer"]["lr"] == 1.0


def test_a_quote_that_cannot_be_given_starts_nothing(trained_api: TestClient) -> None:
    before = trained_api.get("/v1/jobs").json()
    problem_of(trained_api.post("/v1/jobs?dry_run=true", json={"kind": "quantize", "model": "tiny"}), 501)
    assert trained_api.get("/v1/jobs").json() == before
    assert trained_api.post("/v1/jobs?dry_run=false", json=GOOD).status_code == 202


def test_trainings_and_distillations_are_quoted(trained_api: TestClient) -> None:
    trained_api.post("/v1/jobs", json=GOOD).raise_for_status()
    for body in (GOOD, {"kind": "distill", "teacher": "tiny", "architecture": "mlp"}):
        answer = trained_api.post("/v1/jobs?dry_run=true", json=body)
        assert answer.status_code == 202
        assert answer.json()["kind"] == "quote"
    assert trained_api.post("/v1/jobs?dry_run=true", json=GOOD).json()["queue_position"] == 2


def test_lists_are_paged_newest_first(api: TestClient) -> None:
    made = [api.post("/v1/jobs", json=GOOD).json()["id"] for _ in range(5)]
    assert [api.get(f"/v1/jobs/{job_id}").json()["queue_position"] for job_id in made] == [0, 1, 2, 3, 4]
    seen, cursor = [], None
    while True:
        page = api.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_a_waiting_job_is_cancelled_once_and_for_all(api: TestClient) -> None:
    job = api.post("/v1/jobs", json=GOOD).json()
    for _ in range(2):
        response = api.post(f"/v1/jobs/{job['id']}/cancel")
        assert response.status_code == 202
        assert (response.json()["status"], response.json()["reason"]) == ("cancelled", "user")
    states = [event["data"]["status"] for event in api.get(f"/v1/jobs/{job['id']}/events").json()["items"]]
    assert states == ["queued", "cancelled"]


def test_a_finished_job_cannot_be_cancelled(trained_api: TestClient) -> None:
    job = trained_api.get("/v1/jobs?status=succeeded").json()["items"][0]
    problem_of(trained_api.post(f"/v1/jobs/{job['id']}/cancel"), 409)


def test_a_waiting_job_is_set_aside_and_goes_on(api: TestClient) -> None:
    job = api.post("/v1/jobs", json=GOOD).json()["id"]
    for what, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("retry", "queued")):
        for _ in range(2):
            answer = api.post(f"/v1/jobs/{job}/{what}")
            assert (answer.status_code, answer.json()["status"]) == (202, status)
    states = [event["data"]["status"] for event in api.get(f"/v1/jobs/{job}/events").json()["items"]]
    assert states == ["queued", "paused", "queued", "cancelled", "queued"]
    for what in ("pause", "resume", "retry", "clone"):
        problem_of(api.post(f"/v1/jobs/job_0/{what}", json={}), 404)


def test_what_has_ended_is_told_so(trained_api: TestClient) -> None:
    job = trained_api.get("/v1/jobs?status=succeeded").json()["items"][0]
    for what in ("pause", "resume", "retry"):
        assert "already" in problem_of(trained_api.post(f"/v1/jobs/{job['id']}/{what}"), 409)["detail"]
    assert trained_api.get(f"/v1/jobs/{job['id']}").json() == job


def test_a_job_whose_model_is_gone_is_not_tried_again(trained_api: TestClient) -> None:
    job = trained_api.post("/v1/jobs", json={"kind": "prune", "model": "tiny pruned", "sparsity": 0.5}).json()["id"]
    trained_api.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    trained_api.delete("/v1/models/tiny pruned").raise_for_status()
    problem = problem_of(trained_api.post(f"/v1/jobs/{job}/retry"), 422)
    assert problem["errors"][0]["pointer"] == "#/model"
    assert trained_api.get(f"/v1/jobs/{job}").json()["status"] == "cancelled"


FULL: dict[str, Any] = {
    **GOOD,
    "name": "one",
    "optimizer": {"name": "adam", "lr": 0.01, "weight_decay": 0.1},
    "architecture": {"name": "mlp", "hidden": [32, 16], "dropout": 0.2},
    "early_stopping": {"patience": 3},
}
CLONES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "same": ({}, {}),
    "one field": ({"seed": 3}, {"seed": 3}),
    "inside": (
        {"optimizer": {"lr": 0.5}},
        {"optimizer": {"name": "adam", "lr": 0.5, "weight_decay": 0.1}},
    ),
    "another optimizer": ({"optimizer": {"name": "sgd", "lr": 1.0}}, {"optimizer": {"name": "sgd", "lr": 1.0}}),
    "by name": ({"architecture": "resnet18"}, {"architecture": "resnet18"}),
    "none": ({"early_stopping": None}, {"early_stopping": None}),
    "another recipe": ({"recipe": "fast"}, {"recipe": "fast"}),
}


@pytest.mark.parametrize("name", CLONES)
def test_a_clone_is_the_same_but_for_what_is_changed(api: TestClient, name: str) -> None:
    changes, differs = CLONES[name]
    wanted = {**FULL, **differs}
    if name == "another recipe":
        del wanted["optimizer"]
    first = api.post("/v1/jobs", json=FULL).json()
    response = api.post(f"/v1/jobs/{first['id']}/clone", json=changes)
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}" != f"/v1/jobs/{first['id']}"
    assert (job["status"], job["attempt"]) == ("queued", 0)
    assert job["spec"] == api.post("/v1/jobs", json=wanted).json()["spec"]
    assert api.get(f"/v1/jobs/{first['id']}").json() == first


@pytest.mark.parametrize(("first", "then"), [(4, 20), (20, 4), (4, 5)])
def test_a_clone_of_other_epochs_has_what_its_recipe_says_of_those(api: TestClient, first: int, then: int) -> None:
    body = {**GOOD, "recipe": "fast", "epochs": first, "name": "one"}
    job = api.post("/v1/jobs", json=body).json()["id"]
    clone = api.post(f"/v1/jobs/{job}/clone", json={"epochs": then}).json()
    assert clone["spec"] == api.post("/v1/jobs", json={**body, "epochs": then}).json()["spec"]
    own = {"augmentation": "flip"}
    job = api.post("/v1/jobs", json=body | own).json()["id"]
    clone = api.post(f"/v1/jobs/{job}/clone", json={"epochs": then}).json()
    assert clone["spec"] == api.post("/v1/jobs", json={**body, **own, "epochs": then}).json()["spec"]


def test_a_clone_that_gives_up_its_weights_has_any_stem_again(api: TestClient) -> None:
    body = {**GOOD, "architecture": "resnet18", "image_size": 32, "name": "one"}
    job = api.post("/v1/jobs", json={**body, "pretrained": "IMAGENET1K_V1"}).json()
    assert job["spec"]["architecture"]["stem"] == "paper"
    clone = api.post(f"/v1/jobs/{job['id']}/clone", json={"pretrained": None}).json()
    assert clone["spec"] == api.post("/v1/jobs", json=body).json()["spec"]
    kept = {"pretrained": None, "architecture": {"stem": "paper"}}
    clone = api.post(f"/v1/jobs/{job['id']}/clone", json=kept).json()
    assert clone["spec"]["architecture"]["stem"] == "paper"


def test_a_frozen_backbone_takes_single_images(api: TestClient) -> None:
    body = {**GOOD, "architecture": "resnet18", "image_size": 32, "pretrained": "IMAGENET1K_V1", "batch_size": 1}
    problem_of(api.post("/v1/jobs", json=body), 422, "#/batch_size")
    assert api.post("/v1/jobs", json={**body, "freeze": "backbone"}).status_code == 202


def test_a_network_of_weights_that_are_cut_takes_the_batches_that_its_base_takes(api: TestClient) -> None:
    body = {**GOOD, "image_size": 32, "batch_size": 1}
    for base in ("mlp", "vgg11"):
        assert api.post("/v1/jobs", json={**body, "architecture": {"name": "fpnet", "base": base}}).status_code == 202
    for base in ("vgg11_bn", "mobilenet_v2"):
        answer = api.post("/v1/jobs", json={**body, "architecture": {"name": "fpnet", "base": base}})
        problem_of(answer, 422, "#/batch_size")


def test_a_clone_of_a_pruning_takes_another_method(trained_api: TestClient) -> None:
    body = {"kind": "prune", "model": "tiny", "sparsity": 0.7, "fine_tune": {"epochs": 3}}
    job = trained_api.post("/v1/jobs", json=body).json()["id"]
    changes = {"method": "l1-filter", "speedup": 1.5, "fine_tune": None}
    spec = trained_api.post(f"/v1/jobs/{job}/clone", json=changes).json()["spec"]
    assert (spec["method"], spec["speedup"], spec["fine_tune"]) == ("l1-filter", 1.5, None)


def test_a_clone_of_a_pruning_says_otherwise_how_much_to_cut(trained_api: TestClient) -> None:
    job = trained_api.post("/v1/jobs", json={"kind": "prune", "model": "tiny", "sparsity": 0.7}).json()["id"]
    spec = trained_api.post(f"/v1/jobs/{job}/clone", json={"threshold": 0.01}).json()["spec"]
    assert (spec["threshold"], spec["sparsity"]) == (0.01, None)
    in_rounds = {"kind": "prune", "model": "tiny", "sparsity": 0.7, "rounds": 3}
    other = trained_api.post("/v1/jobs", json=in_rounds).json()["id"]
    spec = trained_api.post(f"/v1/jobs/{other}/clone", json={"threshold": 0.01}).json()["spec"]
    assert (spec["threshold"], spec["rounds"]) == (0.01, 1)
    assert trained_api.post(f"/v1/jobs/{other}/clone", json={"sparsity": 0.8}).json()["spec"]["rounds"] == 3
    both = {"threshold": 0.01, "sparsity": 0.5}
    problem_of(trained_api.post(f"/v1/jobs/{job}/clone", json=both), 422, "#/threshold")


def test_a_clone_that_rewinds_drops_what_a_rewind_takes_from_the_parent(trained_api: TestClient) -> None:
    fine_tune = {"epochs": 3, "batch_size": 32, "optimizer": "sgd", "augmentation": "flip"}
    job = trained_api.post("/v1/jobs", json={"kind": "prune", "model": "tiny", "fine_tune": fine_tune}).json()["id"]
    spec = trained_api.post(f"/v1/jobs/{job}/clone", json={"fine_tune": {"rewind": True}}).json()["spec"]["fine_tune"]
    assert (spec["rewind"], spec["batch_size"], spec["augmentation"][0]["name"]) == (True, 64, "flip")
    both = {"fine_tune": {"rewind": True, "epochs": 4}}
    problem_of(trained_api.post(f"/v1/jobs/{job}/clone", json=both), 422, "#/fine_tune/epochs")


def test_a_clone_on_other_images_takes_a_batch_that_fits_them(
    trained_api: TestClient, trained_settings: Settings
) -> None:
    """Nobody chose the batch; where somebody did, it stays."""
    database = Database.of(trained_settings)
    with database.write() as session:
        row = models.find_model(session, "tiny pruned")
        row.facts = {**row.facts, "training_images": 40}
    database.close()
    for chosen, then in (({}, 40), ({"batch_size": 32}, 32)):
        body = {"kind": "distill", "teacher": "tiny", "architecture": "mlp", **chosen}
        job = trained_api.post("/v1/jobs", json=body).json()["id"]
        other = trained_api.post(f"/v1/jobs/{job}/clone", json={"teacher": "tiny pruned"})
        assert other.status_code == 202, other.text
        assert other.json()["spec"]["batch_size"] == then
        back = trained_api.post(f"/v1/jobs/{other.json()['id']}/clone", json={"teacher": "tiny"}).json()["spec"]
        assert back["batch_size"] == chosen.get("batch_size", 64)
    for kind, field, first, then in (("prune", "batch_size", 64, 40), ("quantize", "calibration_images", 300, 40)):
        job = trained_api.post("/v1/jobs", json={"kind": kind, "model": "tiny"}).json()
        other = trained_api.post(f"/v1/jobs/{job['id']}/clone", json={"model": "tiny pruned"}).json()
        found = [each["spec"].get("fine_tune", each["spec"])[field] for each in (job, other)]
        assert found == [first, then]
    database = Database.of(trained_settings)
    with database.read() as session:
        all_of_them = models.find_model(session, "tiny").facts["training_images"]
    database.close()
    for too_many in (48, all_of_them):
        body = {"kind": "distill", "teacher": "tiny", "architecture": "mlp", "batch_size": too_many}
        job = trained_api.post("/v1/jobs", json=body).json()["id"]
        problem_of(trained_api.post(f"/v1/jobs/{job}/clone", json={"teacher": "tiny pruned"}), 422, "#/batch_size")


def test_a_job_of_another_version_is_not_tried_again(api: TestClient, settings: Settings) -> None:
    """One whose network, say, is no longer installed."""
    job = api.post("/v1/jobs", json=GOOD).json()["id"]
    api.post(f"/v1/jobs/{job}/cancel")
    database = Database.of(settings)
    with database.write() as session:
        row = queue.find_job(session, job)
        row.spec = row.spec.replace('"name":"mlp"', '"name":"elsewhere"')
    database.close()
    assert "cannot read" in problem_of(api.post(f"/v1/jobs/{job}/retry"), 409)["detail"]


@pytest.mark.parametrize("name", list(examples.CHANGES))
def test_each_example_of_changes_is_accepted(api: TestClient, name: str) -> None:
    job = api.post("/v1/jobs", json=examples.TRAIN).json()["id"]
    assert api.post(f"/v1/jobs/{job}/clone", json=examples.CHANGES[name]["value"]).status_code == 202


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"epochs": 0}, "#/epochs"),
        ({"optimizer": {"lr": -1}}, "#/optimizer/lr"),
        ({"optimizer": {"name": "adma"}}, "#/optimizer/name"),
        ({"kind": "prune"}, "#/kind"),
        ({"kind": None}, "#/kind"),
        ({"colour": "red"}, "#/colour"),
        ({"dataset": "none such"}, "#/dataset"),
        ({"architecture": None}, "#/architecture"),
        ({"recipe": ["fast"]}, "#/recipe"),
        ({"name": {"name": 1}}, "#/name"),
    ],
)
def test_changes_that_make_no_job_are_refused(api: TestClient, changes: dict[str, Any], pointer: str) -> None:
    job = api.post("/v1/jobs", json=FULL).json()["id"]
    problem = problem_of(api.post(f"/v1/jobs/{job}/clone", json=changes), 422)
    assert problem["errors"][0]["pointer"] == pointer
    assert problem["errors"][0]["hint"]
    assert len(api.get("/v1/jobs").json()["items"]) == 1


def test_a_higher_priority_goes_first(api: TestClient) -> None:
    first, late = (api.post("/v1/jobs", json=GOOD).json()["id"] for _ in range(2))
    urgent = api.post("/v1/jobs?priority=5", json=GOOD).json()
    assert (urgent["priority"], urgent["queue_position"]) == (5, 0)
    between = api.post(f"/v1/jobs/{first}/clone?priority=1", json={}).json()
    idle = api.post("/v1/jobs?priority=-1", json=GOOD).json()
    places = [api.get(f"/v1/jobs/{job}").json()["queue_position"] for job in (first, late)]
    assert (between["queue_position"], places, idle["queue_position"]) == (1, [2, 3], 4)
    for bad in ("101", "-101", "high", "1.5"):
        problem_of(api.post(f"/v1/jobs?priority={bad}", json=GOOD), 422)


def test_a_clone_with_a_key_is_made_once(api: TestClient) -> None:
    job = api.post("/v1/jobs", json=GOOD).json()["id"]
    key = {"Idempotency-Key": "a"}
    made = [api.post(f"/v1/jobs/{job}/clone", json={"seed": 1}, headers=key).json()["id"] for _ in range(2)]
    assert len({job, *made}) == 2
    problem_of(api.post(f"/v1/jobs/{job}/clone", json={"seed": 2}, headers=key), 422)


def test_all_that_is_known_of_a_job_comes_in_one_zip(trained_api: TestClient) -> None:
    job = trained_api.get("/v1/jobs?status=succeeded").json()["items"][-1]
    answer = trained_api.get(f"/v1/jobs/{job['id']}/bundle")
    assert answer.headers["content-type"] == "application/zip"
    assert f'filename="{job["id"]}.zip"' in answer.headers["content-disposition"]
    archive = ZipFile(io.BytesIO(answer.content))
    found = {name: archive.read(name) for name in archive.namelist()}
    assert b"succeeded" in found["README.txt"]
    assert json.loads(found["spec.json"]) == job["spec"]
    assert json.loads(found["job.json"])["id"] == job["id"]
    assert len(found["metrics.csv"].splitlines()) == 1 + job["spec"]["epochs"]
    assert [event["data"]["status"] for event in json.loads(found["events.json"]) if event["type"] == "state"] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert json.loads(found["environment.json"])["packages"]["torch"]
    assert "log.txt" in found
    waiting = trained_api.post("/v1/jobs", json=GOOD).json()["id"]
    assert ZipFile(io.BytesIO(trained_api.get(f"/v1/jobs/{waiting}/bundle").content)).read("log.txt") == b""
    problem_of(trained_api.get("/v1/jobs/job_0/bundle"), 404)


def test_an_idempotency_key_makes_one_job(api: TestClient) -> None:
    first = api.post("/v1/jobs", json=GOOD, headers={"Idempotency-Key": "a"}).json()
    again = api.post("/v1/jobs", json=GOOD, headers={"Idempotency-Key": "a"}).json()
    other = api.post("/v1/jobs", json=GOOD, headers={"Idempotency-Key": "b"}).json()
    assert first["id"] == again["id"] != other["id"]
    problem_of(api.post("/v1/jobs", json={**GOOD, "epochs": 3}, headers={"Idempotency-Key": "a"}), 422)
    assert len(api.get("/v1/jobs").json()["items"]) == 2


BAD_FIELDS = [
    ({"architecture": "resnet19"}, "#/architecture"),
    ({"architecture": {"name": "resnet81"}}, "#/architecture/name"),
    ({"architecture": {"name": "resnet18", "widht": 1}}, "#/architecture/widht"),
    ({"architecture": {"name": "resnet18", "width": 0}}, "#/architecture/width"),
    ({"architecture": {"name": "mlp", "hidden": []}}, "#/architecture/hidden"),
    ({"architecture": {"name": "mlp", "hidden": [16, 10**9]}}, "#/architecture/hidden/1"),
    ({"architecture": 18}, "#/architecture"),
    ({"architecture": DELETED}, "#/architecture"),
    ({"optimizer": "adm"}, "#/optimizer"),
    ({"optimizer": {"name": "sgd", "momentum": 0.9}}, "#/optimizer/momentum"),
    ({"optimizer": {"name": "adam", "lr": 0}}, "#/optimizer/lr"),
    ({"optimizer": {"name": "adam", "lr": -0.1}}, "#/optimizer/lr"),
    ({"optimizer": {"name": "adam", "lr": "fast"}}, "#/optimizer/lr"),
    ({"schedule": "cosinus"}, "#/schedule"),
    ({"augmentation": "flipp"}, "#/augmentation"),
    ({"epochs": 0}, "#/epochs"),
    ({"epochs": 10**9}, "#/epochs"),
    ({"epochs": 2.5}, "#/epochs"),
    ({"batch_size": 0}, "#/batch_size"),
    ({"loss": {"class_weights": [1, 2, 3]}}, "#/loss/class_weights"),
    ({"recipe": "fats"}, "#/recipe"),
    ({"batch_size": 5000}, "#/batch_size"),
    ({"batch_size": 10**30}, "#/batch_size"),
    ({"batch_size": True}, "#/batch_size"),
    ({"batch_size": 1, "architecture": "resnet18"}, "#/batch_size"),
    ({"seed": "0"}, "#/seed"),
    ({"optimizer": {"name": "adam", "lr": True}}, "#/optimizer/lr"),
    ({"architecture": {"width": 0.5}}, "#/architecture/name"),
    ({"dataset": "digit"}, "#/dataset"),
    ({"dataset": "../../etc/passwd"}, "#/dataset"),
    ({"dataset": DELETED}, "#/dataset"),
    ({"name": "../x"}, "#/name"),
    ({"name": "a\u0000b"}, "#/name"),
    ({"name": "a\nb"}, "#/name"),
    ({"name": "x" * 10_000}, "#/name"),
    ({"name": ""}, "#/name"),
    ({"seed": -1}, "#/seed"),
    ({"seed": 2**63}, "#/seed"),
    ({"validation_fraction": 1.0}, "#/validation_fraction"),
    ({"early_stopping": {"patience": 0}}, "#/early_stopping/patience"),
    ({"device": "tpu"}, "#/device"),
    ({"kind": "trian"}, "#/kind"),
    ({"kind": DELETED}, "#/kind"),
    ({"epoch": 3}, "#/epoch"),
    ({"a/b~c": 3}, "#/a~1b~0c"),
]


@pytest.mark.parametrize(("change", "pointer"), BAD_FIELDS, ids=[str(pair)[:60] for pair in BAD_FIELDS])
def test_a_bad_field_is_named_and_nothing_changes(api: TestClient, change: dict[str, Any], pointer: str) -> None:
    body = {key: value for key, value in (GOOD | change).items() if value is not DELETED}
    problem_of(api.post("/v1/jobs", json=body), 422, pointer)
    assert api.get("/v1/jobs").json()["items"] == []
    assert api.post("/v1/jobs", json=GOOD).status_code == 202


def test_an_unknown_name_is_answered_with_the_nearest_one(api: TestClient) -> None:
    found = problem_of(api.post("/v1/jobs", json={**GOOD, "architecture": "mobilnet_v2"}), 422, "#/architecture")
    assert "'mobilenet_v2'" in found["errors"][0]["hint"]


def test_the_input_is_never_echoed(api: TestClient) -> None:
    secret = "hunter2hunter2"
    for change in ({"architecture": secret}, {"kind": secret}, {"epochs": secret}, {"dataset": secret}):
        assert secret not in api.post("/v1/jobs", json=GOOD | change).text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(api: TestClient, number: str) -> None:
    body = json.dumps({**GOOD, "optimizer": {"name": "adam", "lr": 0.125}}).replace("0.125", number)
    response = api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    problem_of(response, 422, "#/optimizer/lr")


@pytest.mark.parametrize("field", ["sparsity", "threshold", "speedup"])
def test_how_much_to_cut_is_a_number(trained_api: TestClient, field: str) -> None:
    method = "l1-filter" if field == "speedup" else "magnitude"
    body = json.dumps({"kind": "prune", "model": "tiny", "method": method, field: 0.125}).replace("0.125", "NaN")
    response = trained_api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    problem_of(response, 422, f"#/{field}")


@pytest.mark.parametrize("kind", ["prune", "quantize"])
def test_a_model_that_is_still_trained_is_none_yet(trained_api: TestClient, kind: str) -> None:
    job = trained_api.post("/v1/jobs", json={**GOOD, "name": "soon"}).json()
    for reference in ("soon", job["id"]):
        problem_of(trained_api.post("/v1/jobs", json={"kind": kind, "model": reference}), 422, "#/model")


def test_too_few_images_to_calibrate_by_are_told(trained_api: TestClient, trained_settings: Settings) -> None:
    database = Database.of(trained_settings)
    with database.write() as session:
        row = models.find_model(session, "tiny")
        row.facts = {**row.facts, "training_images": 15}
    database.close()
    answer = trained_api.post("/v1/jobs", json={"kind": "quantize", "model": "tiny"})
    assert "calibration takes 16" in json.dumps(problem_of(answer, 422, "#/model"))


BROKEN = {
    "broken": b'{"kind": "train", ',
    "empty": b"",
    "not utf-8": b'{"kind": "\xff\xfe"}',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"architecture":' * 50_000 + b"1" + b"}" * 50_000,
    "endless number": b'{"kind":"train","epochs":' + b"9" * 6000 + b"}",
    "list": b"[]",
    "null": b"null",
    "surrogate key": b'{"\\ud800":1}',
    "surrogate": b'{"kind":"train","dataset":"digits","architecture":"mlp","name":"\\ud800"}',
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_json_is_refused(api: TestClient, name: str) -> None:
    response = api.post("/v1/jobs", content=BROKEN[name], headers={"content-type": "application/json"})
    assert response.status_code in {400, 422}
    problem_of(response, response.status_code)
    assert api.post("/v1/jobs", json=GOOD).status_code == 202


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "image/png", None])
def test_another_content_type_is_refused(api: TestClient, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    found = problem_of(api.post("/v1/jobs", content=json.dumps(GOOD), headers=headers), 415)
    assert "application/json" in found["detail"]
    assert api.get("/v1/jobs").json()["items"] == []


def test_a_body_over_the_limit_is_refused_whatever_it_says_of_its_length(api: TestClient) -> None:
    limit = api.get("/v1/limits").json()["max_body_bytes"]
    headers = {"content-type": "application/json"}
    problem_of(api.post("/v1/jobs", content=b" " * (limit + 1), headers=headers), 413)
    chunks = (b" " * 1_000_000 for _ in range(limit // 1_000_000 + 2))
    problem_of(api.post("/v1/jobs", content=chunks, headers=headers), 413)
    assert api.post("/v1/jobs", json=GOOD).status_code == 202


BAD_PRUNINGS = [
    ({"model": "nobody"}, "#/model"),
    ({"model": "../tiny"}, "#/model"),
    ({"model": DELETED}, "#/model"),
    ({"method": "magnitud"}, "#/method"),
    ({"sparsity": 0}, "#/sparsity"),
    ({"sparsity": 1}, "#/sparsity"),
    ({"sparsty": 0.5}, "#/sparsty"),
    ({"sparsity": 1.5}, "#/sparsity"),
    ({"threshold": -1.0}, "#/threshold"),
    ({"threshold": 0.1, "sparsity": 0.5}, "#/threshold"),
    ({"pattern": "4:2"}, "#/pattern"),
    ({"pattern": "2:4\n"}, "#/pattern"),
    ({"pattern": "2:65"}, "#/pattern"),
    ({"layers": {"head": 1.0}}, "#/layers/head"),
    ({"rounds": 6}, "#/rounds"),
    ({"rounds": 2, "fine_tune": None}, "#/rounds"),
    ({"rounds": 2, "pattern": "2:4"}, "#/rounds"),
    ({"fine_tune": {"rewind": True, "epochs": 9}}, "#/fine_tune/epochs"),
    ({"fine_tune": {"rewind": True, "gradient_accumulation": 2}}, "#/fine_tune/gradient_accumulation"),
    ({"method": "l1-filter", "rounds": 2}, "#/rounds"),
    ({"method": "l1-filter", "sparsity": 0}, "#/sparsity"),
    ({"method": "l1-filter", "sparsity": 1.5}, "#/sparsity"),
    ({"method": "l1-filter", "speedup": 1}, "#/speedup"),
    ({"method": "l1-filter", "macs": 1.0}, "#/macs"),
    ({"method": "l1-filter", "macs": 0.5, "speedup": 2.0}, "#/macs"),
    ({"method": "l1-filter", "round_to": 0}, "#/round_to"),
    ({"method": "l1-filter", "layers": {"head": 1.0}}, "#/layers/head"),
    ({"method": "magnitude", "speedup": 2.0}, "#/speedup"),
    ({"fine_tune": {"epochs": 0}}, "#/fine_tune/epochs"),
    ({"fine_tune": {"batch_size": 5000}}, "#/fine_tune/batch_size"),
    ({"fine_tune": {"loss": {"class_weights": [1, 2, 3]}}}, "#/fine_tune/loss/class_weights"),
    ({"fine_tune": {"optimizer": "adamm"}}, "#/fine_tune/optimizer"),
]


def test_a_quote_waits_for_no_training_and_no_training_for_it(trained_api: TestClient) -> None:
    first = trained_api.post("/v1/jobs", json=GOOD).json()
    body = {"kind": "prune", "model": "tiny", "sparsity": 0.5}
    headers = {"Idempotency-Key": "once"}
    quote = trained_api.post("/v1/jobs?dry_run=true", json=body, headers=headers).json()
    assert (quote["kind"], quote["name"], quote["queue_position"]) == ("quote", "tiny pruned quote", 0)
    assert trained_api.get(f"/v1/jobs/{first['id']}").json()["queue_position"] == 0
    assert quote["spec"]["job"]["sparsity"] == 0.5
    assert trained_api.post("/v1/jobs?dry_run=true", json=body, headers=headers).json()["id"] == quote["id"]
    problem_of(trained_api.post("/v1/jobs", json=body, headers=headers), 422)
    problem_of(trained_api.delete("/v1/models/tiny"), 409)
    problem_of(trained_api.post("/v1/jobs?dry_run=true", json={**body, "sparsity": 2.0}), 422, "#/sparsity")


def test_rewound_a_small_split_has_the_batches_that_it_had(trained_api: TestClient, trained_settings: Settings) -> None:
    database = Database.of(trained_settings)
    with database.write() as session:
        row = models.find_model(session, "tiny")
        row.facts = {**row.facts, "training_images": 40}
    database.close()
    body = {"kind": "prune", "model": "tiny", "fine_tune": {"rewind": True}}
    answer = trained_api.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    problem_of(
        trained_api.post("/v1/jobs", json={**body, "fine_tune": {"batch_size": 41}}), 422, "#/fine_tune/batch_size"
    )


BAD_DISTILLINGS = [
    ({"teacher": "nobody"}, "#/teacher"),
    ({"teacher": DELETED}, "#/teacher"),
    ({"temperature": 0.5}, "#/temperature"),
    ({"alpha": 1.5}, "#/alpha"),
    ({"architecture": "resnet19"}, "#/architecture"),
    ({"architecture": {"name": "inception_v3", "stem": "paper"}}, "#/architecture"),
    ({"dataset": "digits"}, "#/dataset"),
    ({"batch_size": 1, "architecture": "resnet18"}, "#/batch_size"),
    ({"loss": {"class_weights": [1.0, 2.0]}}, "#/loss/class_weights"),
    ({"recipe": "quick"}, "#/recipe"),
]


@pytest.mark.parametrize(("change", "pointer"), BAD_DISTILLINGS, ids=[str(pair)[:60] for pair in BAD_DISTILLINGS])
def test_a_bad_distilling_is_refused(trained_api: TestClient, change: dict[str, Any], pointer: str) -> None:
    body = {"kind": "distill", "teacher": "tiny", "architecture": "mlp", **change}
    sent = {key: value for key, value in body.items() if value is not DELETED}
    problem_of(trained_api.post("/v1/jobs", json=sent), 422, pointer)


def test_a_distilling_takes_the_settings_of_a_recipe(trained_api: TestClient) -> None:
    body = {"kind": "distill", "teacher": "tiny", "architecture": "mlp", "recipe": "fast", "epochs": 9}
    job = trained_api.post("/v1/jobs", json=body).json()
    assert job["name"] == "tiny distilled"
    assert (job["spec"]["optimizer"]["name"], job["spec"]["epochs"]) == ("muon", 9)
    assert job["spec"]["teacher"].startswith("mdl_")
    problem_of(trained_api.delete("/v1/models/tiny"), 409)


@pytest.mark.parametrize(("change", "pointer"), BAD_PRUNINGS, ids=[str(pair)[:60] for pair in BAD_PRUNINGS])
def test_a_bad_pruning_is_refused(trained_api: TestClient, change: dict[str, Any], pointer: str) -> None:
    body = {"kind": "prune", "model": "tiny", **change}
    before = trained_api.get("/v1/jobs").json()
    problem_of(
        trained_api.post("/v1/jobs", json={key: value for key, value in body.items() if value is not DELETED}),
        422,
        pointer,
    )
    assert trained_api.get("/v1/jobs").json() == before


def test_a_pruning_keeps_the_id_of_its_model(trained_api: TestClient) -> None:
    model = trained_api.get("/v1/models/tiny").json()
    trained_api.put("/v1/aliases/prod", json={"model": "tiny"}).raise_for_status()
    for reference in ("tiny", "prod", model["id"]):
        job = trained_api.post("/v1/jobs", json={"kind": "prune", "model": reference}).json()
        assert job["spec"]["model"] == model["id"]


@pytest.mark.parametrize("path", ["", "/metrics", "/events"])
def test_an_unknown_job_is_not_found(api: TestClient, path: str) -> None:
    for job_id in ("job_0", "..%2f..%2fetc", "%00", "x" * 300, "job_1;x"):
        problem_of(api.get(f"/v1/jobs/{job_id}{path}"), 404)


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=-1", "cursor=a", "status=done"])
def test_a_bad_query_is_refused(api: TestClient, query: str) -> None:
    problem_of(api.get(f"/v1/jobs?{query}"), 422, f"query:{query.partition('=')[0]}")


def test_metrics_are_one_row_an_epoch(trained_api: TestClient) -> None:
    job = trained_api.get("/v1/models/tiny").json()["job"]
    rows = trained_api.get(f"/v1/jobs/{job}/metrics").json()["items"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert all(row["images_per_second"] > 0 and row["lr"] == 0.005 for row in rows)
    page = trained_api.get(f"/v1/jobs/{job}/metrics?limit=4").json()
    rest = trained_api.get(f"/v1/jobs/{job}/metrics?limit=4&cursor={page['next_cursor']}").json()
    assert page["items"] + rest["items"] == rows
    assert rest["next_cursor"] is None


def test_events_are_a_page_or_a_stream_that_can_be_resumed(trained_api: TestClient) -> None:
    job = trained_api.get("/v1/models/tiny").json()["job"]
    events = trained_api.get(f"/v1/jobs/{job}/events?limit=500").json()["items"]
    states = [event["data"]["status"] for event in events if event["type"] == "state"]
    assert states == ["queued", "running", "succeeded"]
    headers = {"accept": "text/event-stream"}
    stream = trained_api.get(f"/v1/jobs/{job}/events", headers=headers)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert _ids(stream.text) == [event["id"] for event in events]
    middle = events[len(events) // 2]["id"]
    rest = trained_api.get(f"/v1/jobs/{job}/events", headers=headers | {"last-event-id": str(middle)})
    assert _ids(rest.text) == [event["id"] for event in events if event["id"] > middle]


def _ids(stream: str) -> list[int]:
    return [int(line.removeprefix("id: ")) for line in stream.splitlines() if line.startswith("id: ")]
