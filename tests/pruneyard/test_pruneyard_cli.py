from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pruneyard.answers import Model
from pruneyard.client import Client
from pruneyard.commands.root import make_app
from pruneyard.demo import Contender, comparison, failures, run_demo
from pruneyard.errors import PruneyardError
from pruneyard.figures import duration, figure, size
from pruneyard.measurement import Measured, compare, held_out_images
from pruneyard.progress import follow
from tests.pruneyard.conftest import BAD, PNG, FakeService

SUCCEEDED = {"status": "succeeded", "result": {"model": "mdl_1"}}


@pytest.fixture(autouse=True)
def _environment(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_URL", service.url)
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(make_app(), list(arguments), input=stdin)


def sent_spec(service: FakeService) -> dict[str, object]:
    (post,) = service.requests("POST", "/v1/jobs")
    spec: dict[str, object] = json.loads(post.body)
    return spec


def test_train_sends_what_the_options_say(service: FakeService) -> None:
    options = "--dataset digits --architecture resnet18 --set width=0.5 --set activation=relu --lr 0.01 --epochs 3"
    result = run("train", *options.split(), "--name", "first try", "--seed", "7", "--no-wait")
    assert result.exit_code == 0, result.output
    assert "job_1 accepted" in result.output
    assert sent_spec(service) == {
        "kind": "train",
        "dataset": "digits",
        "architecture": {"name": "resnet18", "width": 0.5, "activation": "relu"},
        "optimizer": {"name": "adam", "lr": 0.01},
        "epochs": 3,
        "name": "first try",
        "seed": 7,
    }


def test_options_stand_above_a_spec_from_standard_input(service: FakeService) -> None:
    spec = {"dataset": "digits", "architecture": {"name": "mlp", "dropout": 0.1}, "optimizer": {"name": "sgd", "lr": 1}}
    result = run("train", "--json", "-", "--set", "hidden=[8,8]", "--lr", "0.5", "--no-wait", stdin=json.dumps(spec))
    assert result.exit_code == 0, result.output
    assert sent_spec(service) == {
        "kind": "train",
        "dataset": "digits",
        "architecture": {"name": "mlp", "dropout": 0.1, "hidden": [8, 8]},
        "optimizer": {"name": "sgd", "lr": 0.5},
    }


@pytest.mark.parametrize(("epochs", "fine_tune"), [("5", {"epochs": 5}), ("0", None)])
def test_prune_sends_what_the_options_say(service: FakeService, epochs: str, fine_tune: object) -> None:
    assert run("prune", "best", "--sparsity", "0.9", "--epochs", epochs, "--no-wait").exit_code == 0
    assert sent_spec(service) == {"kind": "prune", "model": "best", "sparsity": 0.9, "fine_tune": fine_tune}


def test_quantize_sends_what_the_options_say(service: FakeService) -> None:
    assert run("quantize", "best", "--max-drop", "0.02", "--no-wait").exit_code == 0
    assert sent_spec(service) == {"kind": "quantize", "model": "best", "max_drop": 0.02}


def test_distill_sends_what_the_options_say(service: FakeService) -> None:
    assert run("distill", "best", "--architecture", "mlp", "--set", "hidden=[8]", "--no-wait").exit_code == 0
    network = {"name": "mlp", "hidden": [8]}
    assert sent_spec(service) == {"kind": "distill", "teacher": "best", "architecture": network}


def test_a_job_that_is_waited_for_is_shown_line_by_line(service: FakeService) -> None:
    running = {"status": "running", "phase": "training", "progress": {"epoch": 3, "epochs": 3, "eta_seconds": 61.0}}
    service.states = [{"queue_position": 2}, running, SUCCEEDED]
    result = run("train", "--dataset", "digits", "--architecture", "mlp", "--name", "[red]")
    assert result.exit_code == 0, result.output
    assert "[red]: queued, 2 ahead of it" in result.output
    assert "epoch   1/3  loss –  train 50.00 %  validation –  1,234 images/s  ETA 1:01" in result.output
    assert "model mdl_1" in result.output


def test_a_job_is_shown_live_on_a_terminal(service: FakeService) -> None:
    job_id = service.add_job(name="first")
    service.states = [{"status": "running", "phase": "training", "progress": {"epoch": 1, "fraction": 0.5}}, SUCCEEDED]
    screen = io.StringIO()
    with Client(service.url) as client:
        follow(client, job_id, console=Console(file=screen, force_terminal=True, width=100))
    assert "first: training" in screen.getvalue()
    assert "epoch   3/?" in screen.getvalue()


def test_a_failed_job_exits_with_1(service: FakeService) -> None:
    service.states = [{"status": "failed", "reason": "out_of_memory", "message": "Too little memory."}]
    result = run("train", "--dataset", "digits", "--architecture", "mlp")
    assert result.exit_code == 1
    assert "out_of_memory" in result.stderr
    assert "Too little memory." in result.stderr


def test_a_refused_job_shows_pointer_and_hint_and_exits_with_1() -> None:
    result = run("train", "--dataset", "digits", "--architecture", "resnet19")
    assert result.exit_code == 1
    assert (
        "#/architecture/name: There is no architecture of this name.\n      Did you mean 'resnet18'?" in result.stderr
    )


def test_a_job_is_asked_for_once_more_with_changes(service: FakeService) -> None:
    service.add_job(name="first")
    assert "job_2 accepted" in run("jobs", "clone", "job_1", "--set", "seed=3", "--set", "name=second").output
    (seen,) = service.requests("POST", "/v1/jobs/job_1/clone")
    assert json.loads(seen.body) == {"seed": 3, "name": "second"}
    assert seen.headers["Idempotency-Key"]
    assert run("jobs", "clone", "job_1", "--set", "seed").exit_code == 2
    for name in ("priority", "job_id", "idempotency_key"):
        assert run("jobs", "clone", "job_1", "--set", f"{name}=5").exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--dataset", "digits", "--architecture", "resnet18"],
        ["prune", "first"],
        ["distill", "first", "--architecture", "mlp"],
        ["quantize", "first"],
        ["jobs", "clone", "job_1"],
    ],
    ids=lambda command: command[-2] if command[0] == "jobs" else command[0],
)
def test_a_job_is_set_before_others(service: FakeService, command: list[str]) -> None:
    service.add_job(name="first")
    assert run(*command, "--priority", "5", "--no-wait").exit_code == 0
    assert run(*command, "--no-wait").exit_code == 0
    assert [seen.query for seen in service.seen if seen.method == "POST"] == [{"priority": "5"}, {}]
    assert run(*command, "--priority", "101").exit_code == 2


QUOTE = {"of": "0", "epochs": 20, "measured_seconds_per_epoch": 60.0, "seconds_per_epoch": 61.0, "seconds": 1220.0}
QUOTE |= {"seconds_low": 976.0, "seconds_high": 1525.0, "peak_memory_bytes": 812e6, "available_memory_bytes": 6.1e9}
QUOTE |= {"disk_bytes": 134e6, "free_disk_bytes": 50e9, "fits": True, "jobs_beside": 1, "corrected_by": 0}


def test_what_a_training_would_take_is_told_in_lines(service: FakeService) -> None:
    service.states = [{"status": "succeeded", "kind": "quote", "result": QUOTE}]
    output = run("train", "--dataset", "digits", "--architecture", "resnet18", "--dry-run").output
    for words in (
        "20:20 (16:16 to 25:25) for 20 epochs",
        "812.0 MB of 6.1 GB",
        "134.0 MB for checkpoints",
        "beside 1 running job",
        "It fits.",
    ):
        assert words in output
    assert service.seen[0].query == {"dry_run": "true"}


def test_all_that_is_known_of_a_job_is_saved(service: FakeService, tmp_path: Path) -> None:
    job = service.add_job()
    assert run("jobs", "bundle", job, "--out", str(tmp_path / "job.zip")).exit_code == 0
    assert json.loads((tmp_path / "job.zip").read_bytes()) == {"a": "zip"}
    assert run("jobs", "bundle", job, "--out", str(tmp_path / "none" / "job.zip")).exit_code == 2


def test_jobs_and_models_are_listed_shown_and_changed(service: FakeService) -> None:
    service.add_job(name="first", status="running", phase="training", progress={"fraction": 0.25, "eta_seconds": 5.0})
    for word in ("job_1", "first", "running (training)", "25.00 %", "0:05"):
        assert word in run("jobs").output
    assert json.loads(run("jobs", "show", "job_1").output)["name"] == "first"
    for what, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("retry", "queued")):
        assert run("jobs", what, "job_1").output == f"job_1: {status}\n"
    assert run("models", "--limit", "2").output.count("[bold]") == 2
    assert json.loads(run("models", "show", "best").output)["name"] == "best"
    assert run("models", "alias", "best", "mdl_1").output == "best -> mdl_1\n"
    assert run("models", "delete", "mdl_1").output == "mdl_1 deleted\n"


def test_aliases_are_listed_set_and_moved_back() -> None:
    assert all(word in run("aliases").output for word in ("prod", "[bold]", "mdl_1", "2026-11-24T09:00:00Z"))
    for arguments in (("set", "prod", "one"), ("rollback", "prod")):
        assert run("aliases", *arguments).output == "prod -> [bold] (mdl_1)\n"
    lines = run("aliases", "history", "prod").output.splitlines()[3:6]
    for line, words in zip(lines, ("removed", "rolled back, model deleted", "one"), strict=True):
        assert words in line
    assert "09:01:00" not in run("aliases", "history", "prod", "--limit", "1").output


def test_predict_prints_a_row_for_each_file(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(40)]
    for file in files:
        file.write_bytes(PNG)
    result = run("predict", "best", *map(str, files), "--top", "2")
    assert result.exit_code == 0, result.output
    assert result.output.count("5 12.50 %") == 40


def test_predict_asks_in_parts_that_are_taken_and_names_files_that_are_not(
    service: FakeService, tmp_path: Path
) -> None:
    """Few photos are as many pixels, or bytes, as a request may have."""
    service.most_images = 5
    files = [tmp_path / f"{number}.png" for number in range(40)]
    for number, file in enumerate(files):
        file.write_bytes(BAD if number in {3, 36} else PNG)
    result = run("predict", "best", *map(str, files), "--top", "2")
    assert result.exit_code == 1
    assert result.output.count("5 12.50 %") == 38
    assert result.output.count("could not be read") == 2
    for number in (3, 36):
        assert f"{files[number]}: This is no image." in result.stderr
    (tmp_path / "notes.txt").write_text("no image")
    result = run("predict", "best", *map(str, files[:2]), str(tmp_path / "notes.txt"), str(files[2]))
    assert (result.exit_code, result.output.count("5 12.50 %")) == (1, 3)
    assert "notes.txt: this does not look like an image" in result.stderr
    alone = run("predict", "best", str(files[3]))
    assert (alone.exit_code, "This is no image." in alone.stderr) == (1, True)


def test_what_a_terminal_cannot_show_is_shown_by_numbers(service: FakeService) -> None:
    service.add_job(name="猫", status="succeeded")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command_line("jobs"), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "\\u732b" in done.stdout


def test_predict_says_which_model_of_a_family_answered(service: FakeService, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(40)]
    for file in files:
        file.write_bytes(PNG)
    wishes = ("--family", "fam_1", "--budget-ms", "2", "--min-accuracy", "0.9")
    result = run("predict", *wishes, *map(str, files))
    assert result.exit_code == 0, result.output
    assert result.output.count("5 12.50 %") == 40
    by = "by [bold] (mdl_1): 0.412 ms, 98.00 % right in validation, 97.00 % in test. The most accurate.\n"
    assert result.output.count(by) == 1
    query = {"latency_budget_ms": "2.0", "min_accuracy": "0.9", "top_k": "3"}
    assert [seen.query for seen in service.requests("POST", "/v1/families/fam_1/predict")] == [query] * 2
    refused = run("predict", "--family", "fam_1", "--min-accuracy", "0.99", str(files[0]))
    assert (refused.exit_code, "No model fits." in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        "train",
        "train --dataset digits",
        "train --dataset digits --architecture mlp --set width",
        "train --json no-such-file",
        "train --dataset digits --set a=1",
        "prune",
        "predict best no-such-file.png",
        "predict best",
        "predict --family fam_1",
        f"predict best {__file__} --budget-ms 2",
        "jobs show",
        "aliases set prod",
        "aliases rollback",
        "no-such-command",
        "up --port 65536",
    ],
)
def test_wrong_usage_exits_with_2(arguments: str, service: FakeService) -> None:
    assert run(*arguments.split()).exit_code == 2
    assert not service.seen


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pruneyard", *arguments]


def test_the_command_exits_with_1_and_no_traceback_when_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    command = command_line("--url", "http://127.0.0.1:9", "jobs")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pruneyard up" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_waiting_exits_with_130_in_one_line(service: FakeService) -> None:
    command = command_line("train", "--dataset", "digits", "--architecture", "mlp")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "accepted" in process.stdout.readline()
        assert "queued" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == "Stopped.\n"
    assert "pruneyard jobs cancel job_1" in output


def test_models_are_compared_over_http(service: FakeService) -> None:
    with Client(service.url) as client:
        images = held_out_images(client, "digits")
        right, wrong = compare(service.url, ["best", "always 8"], images)
    assert (right.images, right.accuracy) == (10, 1.0)
    assert wrong.accuracy == 0.1
    assert right.p50_ms > 0


def contender(accuracy: float, sparsity: float = 0.0) -> Contender:
    model: Model = {"id": "mdl_1", "kind": "trained", "status": "ready"}
    model |= {"parameters": 1000, "nonzero_parameters": 1004 - round(1000 * sparsity), "bytes": 4000}
    return Contender(model, Measured(359, accuracy, 1.25), sparsity)


@pytest.mark.parametrize(
    ("accuracy", "after", "sparsity", "words"),
    [
        (0.98, 0.975, 0.9, []),
        (0.96, 0.96, 0.9, ["less than 97.00 %"]),
        (0.99, 0.975, 0.9, ["cost 1.50 points"]),
        (0.98, 0.98, 0.8, ["Only 80.00 %"]),
    ],
)
def test_the_demo_says_which_figure_is_not_right(
    accuracy: float, after: float, sparsity: float, words: list[str]
) -> None:
    found = failures(contender(accuracy), contender(after, sparsity))
    assert len(found) == len(words)
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


def test_the_demo_prints_both_models_side_by_side() -> None:
    screen = io.StringIO()
    Console(file=screen, width=120).print(comparison(contender(0.98), contender(0.975, 0.9)))
    for word in ("359 images", "98.00 %", "97.50 %", "4.0 kB", "1,004", "104", "1.25 ms"):
        assert word in screen.getvalue()


def test_the_demo_does_not_empty_a_folder_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(PruneyardError, match="left alone"):
        run_demo(tmp_path, Console(file=io.StringIO()))
    assert (tmp_path / "thesis.txt").exists()


def test_figures() -> None:
    assert figure(float("nan"), ".2f") == figure(None) == "–"
    assert [duration(value) for value in (5, 61, 3700, None)] == ["0:05", "1:01", "1:01:40", "–"]
    assert [size(value) for value in (999, 1500, 2.5e6, None)] == ["999 B", "1.5 kB", "2.5 MB", "–"]


def test_the_version_is_said() -> None:
    result = CliRunner().invoke(make_app(), ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("pruneyard ")


def test_a_recipe_is_sent_and_what_it_leaves_unclear_is_asked(service: FakeService) -> None:
    options = ("train", "--dataset", "digits", "--architecture", "mlp", "--recipe", "fast", "--no-wait")
    unclear = run(*options, "--lr", "0.1")
    assert unclear.exit_code == 2
    assert "--optimizer" in unclear.output
    plain = [*options[:-2], "plain", "--no-wait", "--lr", "0.1"]
    assert run(*plain).exit_code == 0
    assert sent_spec(service)["optimizer"] == {"name": "adam", "lr": 0.1}
    service.seen.clear()
    assert run(*options, "--epochs", "8").exit_code == 0
    assert sent_spec(service) == {
        "kind": "train",
        "dataset": "digits",
        "architecture": {"name": "mlp"},
        "epochs": 8,
        "recipe": "fast",
    }
