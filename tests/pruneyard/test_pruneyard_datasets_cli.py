from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pruneyard.answers import Dataset
from pruneyard.client import Client
from pruneyard.commands.root import make_app
from pruneyard.packing import pack
from pruneyard.progress import UploadDisplay, follow
from pruneyard.summary import MOST_CLASSES, MOST_REJECTED, summary
from tests.pruneyard.conftest import FakeService, Handler
from tests.pruneyard.data_sets import FACTS, PREVIEW, REFUSALS

RUNNING = {"status": "running", "phase": "reading"}
KOREAN: Dataset = {
    "id": "ds_1",
    "name": "동물",
    "version": 2,
    "status": "ready",
    "source": {"kind": "upload"},
    "classes": ["고양이", "강아지"],
    "class_images": {"고양이": 1200, "강아지": 40},
    "class_splits": {
        "고양이": {"train": 768, "validation": 192, "test": 240},
        "강아지": {"train": 26, "validation": 6, "test": 8},
    },
    "splits": {"train": 794, "validation": 198, "test": 248},
    "splits_from": "rule",
    "images": 1240,
    "channels": 3,
    "image_size": 96,
    "sizes": {"min": [64, 48], "median": [500, 375], "max": [4032, 3024], "distinct": 57},
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "duplicates": {"same_bytes": 3, "same_pixels": 5, "examples": [["고양이/1.jpg", "고양이/1 복사본.jpg"]]},
    "conflicts": {
        "labels": 1,
        "splits": 0,
        "left_out": 2,
        "examples": [{"kind": "labels", "paths": ["고양이/7.jpg", "강아지/8.jpg"], "labels": ["고양이", "강아지"]}],
    },
    "imbalance": 30.0,
    "rejected_count": 1030,
    "rejected": [
        {"path": f"고양이/사진 {number}.jpg", "reason": "truncated", "message": "The file ends in the middle."}
        for number in range(30)
    ],
    "warnings": ["The class 강아지 has only 40 images."],
    "fingerprint": "sha256:00",
    "bytes": 123_456_789,
}


@pytest.fixture(autouse=True)
def _environment(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_URL", service.url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("pruneyard.client.POLL_SECONDS", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/.hidden"):
        path = tmp_path / "my cats" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1000)
    return tmp_path / "my cats"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(make_app(), ["datasets", *arguments])


def shown(dataset: Dataset, width: int = 120) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False).print(summary(dataset))
    return screen.getvalue()


def test_a_folder_is_added_followed_and_shown(service: FakeService, folder: Path) -> None:
    progress = {"done": 2, "total": 3, "fraction": 0.667, "eta_seconds": 61.0}
    service.states = [{"queue_position": 1}, {**RUNNING, "progress": progress}, {"status": "succeeded"}]
    result = run("add", "cats", str(folder), "--max-rejected", "0.05")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f"{folder}: 3 files, 30.7 kB (left out: 1 hidden)"
    assert lines[1] == "ds_1 accepted"
    assert lines[2] == "sent 30.7 kB of 30.7 kB (100%)"
    for line in ("cats: queued, 1 ahead of it", "cats: reading", "  2 of 3 files  ETA 1:01", "cats: succeeded"):
        assert line in lines
    assert "cats, version 1: ready" in lines
    assert json.loads(service.requests("POST", "/v1/datasets")[0].body)["max_rejected"] == 0.05
    assert service.shelf.received("ds_1") == b"".join(pack(folder).read_from(0))
    assert not service.requests("GET", "/v1/jobs/job_1/metrics"), "reading has no epochs"


def test_no_wait_returns_when_all_is_sent(service: FakeService, folder: Path) -> None:
    result = run("add", "cats", str(folder), "--no-wait")
    assert result.exit_code == 0, result.output
    assert "ready" not in result.output
    assert "pruneyard datasets show ds_1" in result.output
    assert service.shelf.views["ds_1"]["status"] == "processing"


@pytest.mark.parametrize(
    ("options", "source"),
    [
        (["--server-folder", "/data/cats"], {"kind": "folder", "path": "/data/cats"}),
        (["--torchvision", "mnist"], {"kind": "torchvision", "name": "mnist"}),
    ],
)
def test_what_the_service_fetches_itself(service: FakeService, options: list[str], source: dict[str, str]) -> None:
    service.states = [{**RUNNING, "phase": "downloading"}, {"status": "succeeded"}]
    result = run("add", "cats", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(service.requests("POST", "/v1/datasets")[0].body) == {"name": "cats", "source": source}
    assert "cats: downloading" in result.output
    assert "version 1: ready" in result.output


def test_a_data_set_that_fails_exits_with_1_and_names_files(service: FakeService, folder: Path) -> None:
    rejected = [{"path": "cat/1.png", "reason": "not_an_image", "message": "This is no image."}]
    failed = {"status": "failed", "reason": "too_many_rejected", "message": "All files are unusable."}
    service.shelf.after_reading = {**failed, "rejected": rejected, "rejected_count": 3}
    service.states = [{"status": "failed", "reason": "too_many_rejected", "message": "All files are unusable."}]
    result = run("add", "cats", str(folder))
    assert result.exit_code == 1
    for words in ("too_many_rejected", "All files are unusable.", "cat/1.png: This is no image.", "and 2 more"):
        assert words in result.stderr


def test_an_upload_that_fails_says_how_to_go_on_and_does(service: FakeService, folder: Path) -> None:
    service.shelf.mishaps = ["full"]
    result = run("add", "cats", str(folder))
    assert result.exit_code == 1
    assert "The disk is full." in result.stderr
    command = shlex.split(result.stdout.splitlines()[-1])
    assert command == ["pruneyard", "datasets", "add", "cats", str(folder), "--resume", "ds_1"]
    half = len(service.shelf.received("ds_1"))
    result = CliRunner().invoke(make_app(), [*command[1:], "--no-wait"])
    assert result.exit_code == 0, result.output
    assert service.shelf.received("ds_1") == b"".join(pack(folder).read_from(0))
    last = service.requests("PUT", "/v1/datasets/ds_1/content")[-1]
    assert last.headers["Content-Range"].startswith(f"bytes {half}-")
    assert list(service.shelf.views) == ["ds_1"]


def test_nothing_is_said_of_going_on_where_that_leads_nowhere(service: FakeService, folder: Path) -> None:
    service.shelf.mishaps = ["too large"]
    result = run("add", "cats", str(folder))
    assert result.exit_code == 1
    assert "--resume" not in result.output


def test_nothing_is_said_of_going_on_with_files_that_changed(
    service: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(handler: Handler, dataset_id: str) -> None:
        (folder / "dog" / "1.png").write_bytes(b"longer" * 10_000)
        REFUSALS["busy"](handler, dataset_id)

    monkeypatch.setitem(REFUSALS, "changed", change)
    service.shelf.mishaps = ["changed"]
    result = run("add", "cats", str(folder))
    assert result.exit_code == 1
    assert "dog/1.png changed while it was sent: it had 9000 bytes" in result.stderr
    assert "--resume" not in result.output


def test_an_upload_of_another_name_is_not_gone_on_with(service: FakeService, folder: Path) -> None:
    service.shelf.add(name="dogs")
    result = run("add", "cats", str(folder), "--resume", "ds_1")
    assert result.exit_code == 1
    assert "ds_1 is no upload of cats" in result.stderr
    assert not service.shelf.received("ds_1")


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_while_sending_says_how_to_go_on(service: FakeService, folder: Path, terminal: bool) -> None:
    service.shelf.mishaps = ["hanging"]
    command = [sys.executable, "-m", "pruneyard", "datasets", "add", "cats", str(folder)]
    environment = {"PRUNEYARD_URL": service.url, **({"FORCE_COLOR": "1", "TERM": "xterm"} if terminal else {})}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert service.shelf.hanging.wait(20)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == "Stopped.\n"
    assert "What was sent is kept." in output
    assert f"pruneyard datasets add cats '{folder}' --resume ds_1" in output


def test_ctrl_c_while_it_is_read_says_that_it_goes_on(service: FakeService, folder: Path) -> None:
    command = [sys.executable, "-m", "pruneyard", "datasets", "add", "cats", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "queued" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, "Stopped.\n")
    assert "pruneyard datasets show ds_1" in output
    assert "--resume" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        "add",
        "add cats",
        "add cats somewhere --torchvision mnist",
        "add cats --server-folder /data --torchvision mnist",
        "add cats --torchvision mnist --resume ds_1",
        "add cats somewhere --resume ds_1 --max-rejected 0.1",
        "add cats somewhere --max-rejected 2",
        "show",
        "delete",
    ],
)
def test_wrong_usage_exits_with_2(arguments: str, service: FakeService) -> None:
    assert run(*arguments.split()).exit_code == 2
    assert not service.seen


def test_data_sets_are_listed(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.shelf.add(
        name="고양이", **{**FACTS, "status": "ready", "upload": None, "created_at": "2026-11-24T06:30:01Z"}
    )
    service.shelf.add(name="dogs", status="failed", reason="one_class_only", upload=None)
    output = run().output
    for words in ("고양이", "12.3 kB", "2026-11-24", "failed", "ds_digits"):
        assert words in output
    assert run("--limit", "1").output.count("ds_") == 1


def test_a_data_set_is_shown_previewed_and_deleted(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service.shelf.add(**{**FACTS, "status": "ready", "upload": None, "name": "my cats (2)"})
    assert "my cats (2), version 1: ready" in run("show", "my cats (2)").output
    assert json.loads(run("show", "ds_1", "--json").output)["class_splits"] == FACTS["class_splits"]
    assert run("preview", "my cats (2)").output == f"my-cats-2-preview.png ({len(PREVIEW)} B)\n"
    assert (tmp_path / "my-cats-2-preview.png").read_bytes() == PREVIEW
    run("preview", "ds_1", "-o", str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").read_bytes() == PREVIEW
    assert run("preview", "ds_1", "-o", "-").stdout_bytes == PREVIEW
    refused = run("delete", "ds_1")
    assert refused.exit_code == 1
    assert "trained on this data set" in refused.stderr
    assert run("delete", "ds_1", "--force").output == "ds_1 deleted\n"


@pytest.mark.parametrize("width", [80, 120])
def test_a_summary_fits_the_page_also_with_wide_letters(width: int) -> None:
    text = shown(KOREAN, width)
    for line in text.splitlines():
        assert Console(width=500).measure(line).maximum <= width
    tables = [line for line in text.splitlines() if line.startswith(("│", "┃"))]
    assert tables
    for row in ("고양이", "1,200", "768", "192", "240"):
        assert any(row in line for line in tables)


def test_a_summary_says_what_is_wrong() -> None:
    text = shown(KOREAN)
    for words in (
        "1,240 in 2 classes; the largest has 30.0 times the images of the smallest",
        "train 794, validation 198, test 248 (made by the service)",
        "64x48 to 4032x3024, middle 500x375 (57 different ones)",
        "96x96, colour",
        "0.485 0.456 0.406, 0.229 0.224 0.225",
        "same bytes 3, same picture 5",
        "such as 고양이/1.jpg, 고양이/1 복사본.jpg",
        "in several classes 1, in several splits 0, left out 2",
        "such as 고양이/7.jpg (고양이), 강아지/8.jpg (강아지)",
        "! The class 강아지 has only 40 images.",
        f"the first {MOST_REJECTED} of 1,030",
        "123.5 MB",
    ):
        assert words in text
    assert text.count("truncated") == MOST_REJECTED


def test_a_summary_of_very_many_classes_shows_both_ends() -> None:
    counts = {f"class {number:03}": 1000 - number for number in range(200)}
    text = shown({**KOREAN, "classes": list(counts), "class_images": counts, "class_splits": {}, "rejected": []})
    assert f"The {MOST_CLASSES // 2} largest and the {MOST_CLASSES // 2} smallest of 200 classes" in text
    assert text.count("│ class ") == MOST_CLASSES
    assert "class 000" in text
    assert "class 199" in text
    assert "class 100" not in text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": "uploading", "upload": {"received": 1500, "total": 3000}}, "1.5 kB of 3.0 kB"),
        ({"status": "uploading", "upload": {"received": 1500, "max_bytes": 9}}, "1.5 kB"),
        ({"status": "processing", "job": "job_7"}, "job_7"),
        ({"status": "failed", "reason": "no_images", "message": "There are none."}, "no_images: There are none."),
        ({"status": "failed", "rejected": [{"path": "[bold].png", "reason": "empty"}]}, "[bold].png"),
        ({"status": "ready", "images": 10, "duplicates": {"same_bytes": 0}, "conflicts": {"labels": 0}}, "none"),
        ({"status": "ready", "images": 10, "rejected_count": 0, "image_size": 8, "channels": 1}, "8x8, grey"),
    ],
)
def test_a_summary_of_what_is_not_all_known(fields: dict[str, Any], words: str) -> None:
    nothing = dict.fromkeys(("classes", "class_images", "splits", "sizes", "mean", "std", "upload", "bytes"))
    assert words in shown({"id": "ds_1", "name": "cats", **nothing, **fields})  # type: ignore[typeddict-item]


def test_an_upload_is_shown_as_a_bar_on_a_terminal() -> None:
    for width in (80, 120):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=width, color_system=None)
        with UploadDisplay(console, 10_000_000) as display:
            for sent in (4_000_000, 8_000_000, 5_000_000, 10_000_000):
                display.update(sent, 10_000_000)
        assert "10.0/10.0 MB" in screen.getvalue()


def test_an_upload_is_told_in_lines_elsewhere() -> None:
    screen = io.StringIO()
    with UploadDisplay(Console(file=screen, width=100), 10_000_000) as display:
        for sent in range(0, 10_000_001, 100_000):
            display.update(sent, 10_000_000)
            display.update(max(0, sent - 500_000), 10_000_000)
    lines = screen.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[4] == "sent 5.0 MB of 10.0 MB (50%)"


@pytest.mark.parametrize(
    ("kind", "counted"), [("ingest", "files"), ("train", "files"), ("quantize", "images"), ("quote", "layers")]
)
def test_what_is_done_is_counted_live_on_a_terminal(service: FakeService, kind: str, counted: str) -> None:
    job_id = service.add_job(kind=kind, name="cats")
    counts = {"done": 1234, "total": 5678, "fraction": 0.2, "eta_seconds": 4.0}
    service.states = [{**RUNNING, "progress": None}, {**RUNNING, "progress": counts}, {"status": "succeeded"}]
    screen = io.StringIO()
    with Client(service.url) as client:
        follow(client, job_id, console=Console(file=screen, force_terminal=True, width=80))
    assert "cats: reading" in screen.getvalue()
    assert f"1,234 of 5,678 {counted}  ETA 0:04" in screen.getvalue()
    last = screen.getvalue().rpartition("cats: succeeded")[2]
    assert "100%" in last
    assert f"{counted}  ETA" not in last
    assert ("epoch" in screen.getvalue()) == (kind != "ingest"), "of a data set no epochs are asked for"


def test_files_of_an_archive_are_counted_though_their_number_is_not_known(service: FakeService) -> None:
    def reading(done: int) -> dict[str, Any]:
        return {**RUNNING, "progress": {"done": done, "total": None, "fraction": 0.0, "eta_seconds": None}}

    for terminal in (False, True):
        job_id = service.add_job(kind="ingest", name="cats")
        writing = {**RUNNING, "phase": "writing", "progress": {"done": 4, "total": 4000, "fraction": 0.001}}
        service.states = [reading(done) for done in (0, 1, 999, 1000, 1001, 2500)]
        service.states += [writing, {"status": "succeeded"}]
        screen = io.StringIO()
        with Client(service.url) as client:
            follow(client, job_id, console=Console(file=screen, force_terminal=terminal, width=80))
        if terminal:
            assert "2,500 files" in screen.getvalue()
        else:
            lines = ["cats: reading", "  1 file", "  999 files", "  2,500 files", "cats: writing", "cats: succeeded"]
            assert screen.getvalue().splitlines() == lines
