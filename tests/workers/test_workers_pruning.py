"""Prunings of channels by a real worker, over HTTP."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fastapi.testclient import TestClient
from safetensors.torch import load_file

from nets import datasets
from nets.answers import answers
from nets.architectures import architecture_options, build
from nets.pruning import magnitude
from service.app import create_app
from specs.datasets import BUILTIN_DATASETS
from specs.jobs import JOB_SPEC
from specs.pruning import MagnitudeOptions
from specs.settings import Settings
from specs.splits import VALIDATION_FRACTION
from tests.conftest import (
    LOOPBACK,
    ended,
    forget_calibration,
    new_home,
    png,
    running_worker,
    spoil_golden,
    wait_for,
)
from tests.problems import problem_of

TRAINING: dict[str, Any] = {
    "kind": "train",
    "name": "wide",
    "dataset": "digits",
    "architecture": {"name": "mlp", "hidden": [768, 384]},
    "image_size": 16,
    "epochs": 2,
    "keep_epochs": [1, 2],
}
PRUNING: dict[str, Any] = {"kind": "prune", "model": "wide", "fine_tune": None}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, TestClient]]:
    """A data folder with a worker that has trained the model `wide`, and a client of its API."""
    settings = new_home(tmp_path_factory.mktemp("pruning") / "home")
    with running_worker(settings), TestClient(create_app(settings), base_url=LOOPBACK) as client:
        assert ended(client, TRAINING)["status"] == "succeeded"
        yield settings, client


@contextmanager
def seen_of(module: str) -> Iterator[list[dict[str, str]]]:
    """Environments of the processes of this module that run below this one within the block, as often as seen."""
    seen: list[dict[str, str]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if module in process.cmdline():
                        seen.append(process.environ())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def test_a_model_of_fewer_channels_is_an_ordinary_model(home: tuple[Settings, TestClient]) -> None:
    settings, client = home
    before = client.get("/v1/models/wide").json()
    with seen_of("inference.footprint") as environments:
        job = ended(client, {**PRUNING, "name": "half", "method": "l1-filter", "macs": 0.5, "fine_tune": {"epochs": 1}})
    assert job["status"] == "succeeded", job
    # What a report tells of memory is what the service takes, and not a process that keeps what it had, as a job does.
    assert environments
    assert not any("GLIBC_TUNABLES" in environment for environment in environments)
    assert 0.3 < job["result"]["macs_left"] <= 0.5
    half = client.get("/v1/models/half").json()
    assert half["architecture"] == before["architecture"]
    assert half["parent"] == before["id"]
    assert half["macs"] == pytest.approx(job["result"]["macs_left"] * before["macs"], rel=1e-3)
    assert half["parameters"] < 0.7 * before["parameters"]
    assert half["bytes"] < 0.7 * before["bytes"]
    assert client.get("/v1/models/wide").json() == before
    image = png(np.full((16, 16), 90, dtype=np.uint8))
    answer = client.post("/v1/models/half/predict", content=image, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text

    # Of what is left weights are cut.
    rounds = {"sparsity": 0.8, "rounds": 2, "fine_tune": {"rewind": True}}
    job = ended(client, {**PRUNING, "name": "sparse", "model": "half", **rounds})
    assert job["status"] == "succeeded", job
    assert job["result"]["sparsity"] == pytest.approx(0.8, abs=0.01)
    # A job has succeeded once its model is there; what it no longer needs goes right after that.
    kept = client.get("/v1/models/wide").json()["job"]
    checkpoints = Path(settings.home) / "checkpoints"
    # A glob stumbles over folders that go while it looks.
    wait_for(
        lambda: (
            {Path(at).name for at, inside, _ in os.walk(checkpoints) if inside and Path(at) != checkpoints} == {kept}
        )
    )


def test_retraining_changes_images_as_the_parent_did_or_as_it_says(home: tuple[Settings, TestClient]) -> None:
    _, client = home
    losses = {}
    for augmentation in (None, "erase"):
        retraining = {"epochs": 1, "augmentation": augmentation}
        job = ended(client, {**PRUNING, "sparsity": 0.5, "fine_tune": retraining})
        assert job["status"] == "succeeded", job
        (row,) = client.get(f"/v1/jobs/{job['id']}/metrics").json()["items"]
        losses[augmentation] = row["train_loss"]
    assert losses["erase"] > losses[None], "the parent saw images as they are"


def test_a_speed_is_found_by_timing_or_the_nearest_is_told(home: tuple[Settings, TestClient]) -> None:
    settings, client = home
    job = ended(client, {**PRUNING, "name": "faster", "method": "l2-filter", "speedup": 1.2})
    assert job["status"] == "succeeded", job
    assert 0 < job["result"]["sparsity"] <= 1
    assert job["result"]["speedup_found"] >= 1.2
    assert client.get("/v1/models/faster").json()["macs"] < client.get("/v1/models/wide").json()["macs"]
    job = ended(client, {**PRUNING, "name": "never", "method": "l2-filter", "speedup": 100.0})
    assert (job["status"], job["reason"]) == ("failed", "target_not_reached")
    for target in ("macs", "parameters"):
        few = ended(client, {**PRUNING, "method": "l2-filter", target: 0.0001})
        assert (few["status"], few["reason"]) == ("failed", "target_not_reached"), few
        assert f"{target} 0.0001 cannot be reached" in few["message"]
    assert "speedup 100 cannot be reached" in job["message"]
    assert client.get("/v1/models/never").status_code == 404
    wait_for(lambda: not list(Path(settings.home).glob("scratch/.*")))


def test_a_layer_that_is_not_there_is_told(home: tuple[Settings, TestClient]) -> None:
    _, client = home
    job = ended(client, {**PRUNING, "layers": {"hidden.99": 0.5}})
    assert (job["status"], job["reason"]) == ("failed", "unknown_layer")
    assert "hidden." in job["message"]


def test_a_method_that_finds_nothing_to_rank_by_says_so(home: tuple[Settings, TestClient]) -> None:
    _, client = home
    job = ended(client, {**PRUNING, "method": "bn-scale"})
    assert (job["status"], job["reason"]) == ("failed", "cannot_be_cut")
    assert "l1-filter" in job["message"]


def test_a_cut_of_which_nothing_or_little_comes_says_so(home: tuple[Settings, TestClient]) -> None:
    """Layers of 24 and of 8 channels, in multiples of 8."""
    _, client = home
    training = {**TRAINING, "name": "narrow", "architecture": {"name": "mlp", "hidden": [24, 8]}}
    assert ended(client, training)["status"] == "succeeded"
    body = {**PRUNING, "name": "narrower", "model": "narrow", "method": "l1-filter"}
    nothing, little = (ended(client, {**body, "sparsity": share}) for share in (0.05, 0.5))
    assert (nothing["status"], nothing["reason"]) == ("failed", "cannot_be_cut"), nothing
    assert "multiples of 8" in nothing["message"]
    assert little["status"] == "succeeded", little
    assert little["result"]["sparsity"] == 0.25
    assert "Of all channels 25.0% go, not 50.0%" in notices_of(client, little["id"])


def notices_of(client: TestClient, job_id: str) -> str:
    events = client.get(f"/v1/jobs/{job_id}/events").json()["items"]
    return " ".join(event["data"]["message"] for event in events if event["type"] == "notice")


def test_a_rewind_of_fewer_epochs_than_rounds_is_refused_before_anything_is_cut(
    home: tuple[Settings, TestClient],
) -> None:
    _, client = home
    job = ended(client, {**PRUNING, "sparsity": 0.5, "rounds": 3, "fine_tune": {"rewind": True}})
    assert (job["status"], job["reason"]) == ("failed", "cannot_be_cut"), job
    assert "3 rounds takes an epoch, and the parent was trained for 2" in job["message"]


def test_a_parent_that_runs_no_more_costs_the_report_and_nothing_else(home: tuple[Settings, TestClient]) -> None:
    settings, client = home
    parent = client.get("/v1/models/wide").json()["id"]
    spoil_golden(settings, parent)
    try:
        job = ended(client, {**PRUNING, "name": "of a broken one", "sparsity": 0.5})
        timed = ended(client, {**PRUNING, "method": "l1-filter", "speedup": 1.5})
    finally:
        spoil_golden(settings, parent, by=-3.0)
    assert job["status"] == "succeeded", job
    assert "no report" in notices_of(client, job["id"])
    problem_of(client.get("/v1/models/of a broken one/report"), 404)
    assert (timed["status"], timed["reason"]) == ("failed", "cannot_be_run"), timed


def test_a_report_has_the_layers_of_the_model_that_is_published(home: tuple[Settings, TestClient]) -> None:
    """Auxiliary heads are for the training."""
    _, client = home
    student = {"name": "googlenet", "width": 0.0625, "auxiliary": True}
    body = {"kind": "distill", "name": "with helpers", "teacher": "wide", "architecture": student, "epochs": 1}
    assert ended(client, body)["status"] == "succeeded"
    layers = client.get("/v1/models/with helpers/report").json()["layers"]
    assert len(layers) == 58
    assert not [layer["name"] for layer in layers if layer["name"].startswith("aux")]


def test_a_network_learns_from_another_and_is_pruned_with_its_help(home: tuple[Settings, TestClient]) -> None:
    settings, client = home
    teacher = client.get("/v1/models/wide").json()
    forget_calibration(settings, teacher["id"])
    body = {"kind": "distill", "name": "student", "teacher": "wide", "architecture": {"name": "mlp", "hidden": [64]}}
    body |= {"epochs": 5, "optimizer": {"name": "adam", "lr": 0.003}, "seed": 5}
    job = ended(client, body)
    assert job["status"] == "succeeded", job
    student = client.get("/v1/models/student").json()
    assert (student["kind"], student["parent"], student["family"]) == ("distilled", teacher["id"], teacher["family"])
    assert student["metrics"]["test_accuracy"] > 0.8
    evaluation = client.get("/v1/models/student/evaluation").json()
    assert evaluation["accuracy"] == pytest.approx(student["metrics"]["test_accuracy"])
    report = client.get("/v1/models/student/report").json()
    assert report["accuracy"]["test"]["after_cut"] is None
    calibration = report["calibration"]
    assert calibration["temperature"] == {"before": 1, "after": student["calibration"]["temperature"]}
    assert calibration["ece"] == {"before": None, "after": student["calibration"]["test"]["ece"]}
    assert [row["measured"]["before"] for row in calibration["coverage"]] == [None, None]
    assert report["sizes"]["parameters"] == {"before": teacher["parameters"], "after": student["parameters"]}
    page = client.get("/v1/models/student/report", headers={"accept": "text/html"})
    assert page.status_code == 200
    retraining = {"rewind": True, "distill": True}
    job = ended(client, {**PRUNING, "name": "less", "model": "student", "sparsity": 0.7, "fine_tune": retraining})
    assert job["status"] == "succeeded", job
    assert len(client.get(f"/v1/jobs/{job['id']}/metrics").json()["items"]) == 5
    validated = client.get("/v1/models/less/report").json()["accuracy"]["validation"]["before"]
    assert validated == student["metrics"]["validation_accuracy"], "on the same images"
    narrower = {"name": "narrower", "model": "less", "method": "l1-filter", "sparsity": 0.25, "round_to": 1}
    job = ended(client, {**PRUNING, **narrower, "fine_tune": {"epochs": 1}})
    assert job["status"] == "succeeded", job
    found = client.get("/v1/models/narrower").json()
    assert found["nonzero_parameters"] < 0.5 * found["parameters"], "what was cut before does not grow back"


def test_a_teacher_as_it_was_earlier_teaches_otherwise(home: tuple[Settings, TestClient]) -> None:
    settings, client = home
    body = {"kind": "distill", "teacher": "wide", "architecture": {"name": "mlp", "hidden": [16]}, "epochs": 1}
    weights = {}
    for name, earlier in (("as it was", {"teacher_epoch": 1}), ("as it is", {})):
        job = ended(client, {**body, **earlier, "name": name})
        assert job["status"] == "succeeded", job
        weights[name] = client.get(f"/v1/models/{name}").json()["weights_sha256"]
    assert weights["as it was"] != weights["as it is"]
    # The student trained for fewer epochs than its teacher kept, and is a model like any other.
    job = ended(client, {**PRUNING, "model": "as it is", "sparsity": 0.5})
    assert job["status"] == "succeeded", job
    problem_of(client.post("/v1/jobs", json={**body, "teacher_epoch": 3}), 422, "#/teacher_epoch")
    problem_of(client.post("/v1/jobs", json={**TRAINING, "keep_epochs": [3]}), 422, "#/keep_epochs")

    kept = settings.home / "checkpoints" / client.get("/v1/models/wide").json()["job"]
    assert {path.name for path in kept.iterdir()} == {"1-0-1", "2-0-1"}
    for file in kept.glob("*/*.safetensors"):
        file.write_bytes(b"")
    job = ended(client, {**body, "teacher_epoch": 1})
    assert (job["status"], job["reason"]) == ("failed", "damaged_model")


def test_what_a_training_kept_goes_with_its_model(home: tuple[Settings, TestClient]) -> None:
    settings, client = home
    trained = client.get("/v1/models/wide").json()
    other = ended(client, {**TRAINING, "name": "another", "architecture": {"name": "mlp", "hidden": [8]}})
    assert (settings.home / "checkpoints" / other["id"]).exists()
    assert client.delete("/v1/models/another").status_code == 204
    assert not (settings.home / "checkpoints" / other["id"]).exists()
    assert (settings.home / "checkpoints" / trained["job"]).exists()


def test_one_job_makes_an_fpnet(home: tuple[Settings, TestClient]) -> None:
    settings, client = home
    network = {"name": "fpnet", "base": {"name": "mlp", "hidden": [64]}, "sparsity": 0.8}
    body = {**TRAINING, "name": "light", "architecture": network, "epochs": 6, "keep_epochs": [1]}
    job = ended(client, {**body, "optimizer": {"name": "adam", "lr": 0.003}})
    assert job["status"] == "succeeded", job
    assert job["result"]["best_epoch"] > 5, "only what was cut to the end is what was asked for"
    light = client.get("/v1/models/light").json()
    weights = 256 * 64 + 64 * 10
    assert light["parameters"] - light["nonzero_parameters"] == pytest.approx(0.8 * weights, rel=0.01)
    assert light["metrics"]["test_accuracy"] > 0.8
    assert light["bytes"] < 0.5 * 4 * light["parameters"] + 10_000
    report = client.get("/v1/models/light/report").json()
    assert (report["parent"], report["dense_epoch"]) == (None, 2)
    rows = client.get(f"/v1/jobs/{job['id']}/metrics").json()["items"]
    told = report["accuracy"]
    assert told["validation"]["before"] == pytest.approx(rows[1]["validation_accuracy"]), "as it was when it was cut"
    assert (told["test"]["after_cut"], told["test"]["after"]) == (None, light["metrics"]["test_accuracy"])
    assert report["sizes"]["nonzero_parameters"]["before"] > 0.99 * light["parameters"]
    assert report["sizes"]["bytes"]["before"] > 4 * light["parameters"]
    assert report["sizes"]["bytes"]["after"] == light["bytes"]
    sizes = dict(zip(("hidden.0", "head"), (256 * 64, 64 * 10), strict=True))
    zeros = sum(layer["zeros"] * sizes[layer["name"]] for layer in report["layers"])
    assert zeros == pytest.approx(0.8 * weights, rel=0.01)
    assert [row["batch"] for row in report["latency"]] == [1, 8, 32]
    assert report["calibration"]["temperature"]["before"] is not None
    assert job["result"]["verdict"] == report["verdict"]
    page = client.get("/v1/models/light/report", headers={"accept": "text/html"}).text
    assert "after epoch 2 of its training" in page
    assert "parent" not in page
    # Nothing is kept of it but what the training was asked to keep.
    kept = settings.home / "checkpoints" / job["id"]
    wait_for(lambda: {path.name for path in kept.iterdir()} == {"1-0-1"})
    wait_for(lambda: not list(settings.home.glob("scratch/.*")))
    job = ended(client, {"kind": "distill", "name": "taught", "teacher": "wide", "architecture": network, "epochs": 2})
    assert job["status"] == "succeeded", job
    taught = client.get("/v1/models/taught").json()
    assert taught["nonzero_parameters"] == pytest.approx(light["nonzero_parameters"], rel=0.01)


def test_an_fpnet_is_reported_on_as_far_as_there_is_something_to_compare_it_with(
    home: tuple[Settings, TestClient],
) -> None:
    settings, client = home
    network = {"name": "fpnet", "base": {"name": "mlp", "hidden": [64]}, "rounds": 1}
    body = {**TRAINING, "keep_epochs": [], "optimizer": {"name": "adam", "lr": 0.003}}
    job = ended(client, {**body, "name": "at once", "architecture": {**network, "dense_share": 0.5}})
    assert job["status"] == "succeeded", job
    told = client.get("/v1/models/at once/report").json()["accuracy"]["test"]
    assert told["after_cut"] < min(told["before"], told["after"])

    # Of averages too what is cut is chosen by the weights that are trained.
    averaged = {"name": "averaged", "architecture": {**network, "dense_share": 0.5, "sparsity": 0.5}}
    job = ended(client, {**body, **averaged, "ema": {"decay": 0.9}, "keep_epochs": [1]})
    assert job["status"] == "succeeded", job
    report = client.get("/v1/models/averaged/report").json()
    kept = settings.home / "checkpoints" / job["id"] / "1-0-1"
    cut, average = (load_file(kept / f"{name}.safetensors") for name in ("network", "average"))
    digits, fraction = BUILTIN_DATASETS["digits"], VALIDATION_FRACTION
    data = datasets.load(digits, image_size=16, seed=0, validation_fraction=fraction)
    base = architecture_options(network["base"])
    trained, shown = (build(base, **data.look, seed=0) for _ in range(2))
    trained.load_state_dict(cut)
    shown.load_state_dict(average)
    masks = magnitude(trained, MagnitudeOptions(sparsity=0.5))
    masks.apply(shown)
    expected = answers(shown.eval(), data.test, data).accuracy
    assert report["accuracy"]["test"]["after_cut"] == expected

    job = ended(client, {**body, "name": "from the start", "architecture": {**network, "dense_share": 0}})
    assert job["status"] == "succeeded", job
    problem_of(client.get("/v1/models/from the start/report"), 404)

    body |= {"name": "without", "architecture": {**network, "dense_share": 0.1}, "epochs": 100}
    posted = client.post("/v1/jobs", json=body).json()["id"]
    dense = settings.home / "checkpoints" / posted / "10-0-1"
    wait_for(dense.exists)
    (dense / "network.safetensors").write_bytes(b"")
    wait_for(lambda: client.get(f"/v1/jobs/{posted}").json()["status"] == "succeeded", seconds=180)
    problem_of(client.get("/v1/models/without/report"), 404)
    assert "There will be no report" in client.get(f"/v1/jobs/{posted}/events?limit=500").text


@pytest.mark.parametrize(("method", "layers"), [("magnitude", 3), ("l2-filter", 2)])
def test_a_quote_tells_what_each_layer_bears_and_suggests_a_job(
    home: tuple[Settings, TestClient], method: str, layers: int
) -> None:
    _, client = home
    before = client.get("/v1/models").json()
    job = ended(client, {**PRUNING, "method": method, "scope": "layer"}, dry_run=True)
    assert (job["status"], job["kind"]) == ("succeeded", "quote"), job
    assert client.get("/v1/models").json() == before, "nothing is made"
    found = job["result"]
    assert found["accuracy"] > 0.5
    assert len(found["layers"]) == layers
    for layer in found["layers"]:
        accuracies = list(layer["accuracy"].values())
        assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    # Somewhere a cut is felt, and more the more is cut.
    assert min(min(layer["accuracy"].values()) for layer in found["layers"]) < found["accuracy"]
    suggested = found["suggested"]
    JOB_SPEC.validate_python(suggested)
    assert (suggested["scope"], suggested["fine_tune"]) == ("layer", None), "as it was asked about"
    tried = {layer["name"]: {0.0, *map(float, layer["accuracy"])} for layer in found["layers"]}
    assert set(suggested["layers"]) == set(tried)
    assert all(share in tried[name] for name, share in suggested["layers"].items())
