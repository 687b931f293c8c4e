"""Models taken away: what is in the archive runs elsewhere and answers as the service does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load_file

from inference.exporting import EXPORT_FORMS
from service.app import create_app
from specs.settings import Settings
from tests.conftest import LOOPBACK, png
from tests.problems import problem_of

# What was exported once, by its form: all copies of the model are alike, and a program of PyTorch takes seconds.
EXPORTED: dict[str, bytes] = {}


def archive(api: TestClient, form: str, folder: Path) -> Path:
    """The unpacked archive of the model `tiny pruned`."""
    if form not in EXPORTED:
        response = api.get(f"/v1/models/tiny pruned/export?format={form}")
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/zip"
        assert f"tiny-pruned.{form}.zip" in response.headers["content-disposition"]
        EXPORTED[form] = response.content
    folder.mkdir()
    with ZipFile(io.BytesIO(EXPORTED[form])) as file:
        for member in file.namelist():
            assert Path(member).name == member, "nothing lands outside of where it is unpacked"
            (folder / member).write_bytes(file.read(member))
    return folder


@pytest.mark.parametrize("form", EXPORT_FORMS)
def test_the_program_in_the_archive_answers_as_the_service_does(
    form: str, trained_api: TestClient, tmp_path: Path, test_digits: list[tuple[bytes, str]]
) -> None:
    folder = archive(trained_api, form, tmp_path / "out")
    generator = np.random.default_rng(0)
    glassy = generator.integers(0, 256, (9, 12, 4), dtype=np.uint8)
    deep = generator.integers(0, 65536, (10, 7), dtype=np.uint16)
    images = [*(data for data, _ in test_digits[:12]), png(glassy), png(Image.fromarray(deep))]
    for number, data in enumerate(images):
        (folder / f"{number}.png").write_bytes(data)
    told = run_program(folder, len(images))
    parts = [("images", (f"{number}.png", data, "image/png")) for number, data in enumerate(images)]
    answers = trained_api.post("/v1/models/tiny pruned/predict", files=parts).json()["predictions"]
    assert [label for _, label, _ in told] == [answer["label"] for answer in answers]
    assert [float(chance) for *_, chance in told] == pytest.approx(
        [answer["probability"] for answer in answers], abs=2e-3
    )


def run_program(folder: Path, images: int) -> list[list[str]]:
    """What the program prints of the first images, by words."""
    # Isolated: nothing of ours can be imported, as on another machine.
    command = [sys.executable, "-I", "predict.py", *(f"{number}.png" for number in range(images))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_the_program_applies_the_temperature_of_the_model(
    trained_api: TestClient, tmp_path: Path, test_digits: list[tuple[bytes, str]]
) -> None:
    folder = archive(trained_api, "onnx", tmp_path / "out")
    for number, (data, _) in enumerate(test_digits[:20]):
        (folder / f"{number}.png").write_bytes(data)
    manifest = json.loads((folder / "model.json").read_text())
    calibration, chances = manifest.pop("calibration"), []
    # The last is a model of before there was calibration.
    for changed in ({"calibration": calibration}, {"calibration": None}, {}):
        (folder / "model.json").write_text(json.dumps({**manifest, **changed}))
        chances.append([float(chance) for *_, chance in run_program(folder, 20)])
    assert chances[1] == chances[2]
    surer = [after > before for before, after in zip(*chances[:2], strict=True) if after != before]
    assert surer
    assert set(surer) == {calibration["temperature"] > 1}


def test_the_program_reads_labels_of_any_language_on_any_system(
    trained_api: TestClient, tmp_path: Path, test_digits: list[tuple[bytes, str]]
) -> None:
    """Some read files as something else than UTF-8 if nothing is said."""
    folder = archive(trained_api, "onnx", tmp_path / "out")
    (folder / "0.png").write_bytes(test_digits[0][0])
    manifest = json.loads((folder / "model.json").read_text())
    manifest["classes"] = ["猫"] * 10
    (folder / "model.json").write_text(json.dumps(manifest, ensure_ascii=False), "utf-8")
    (folder / "labels.json").write_text(json.dumps(manifest["classes"], ensure_ascii=False), "utf-8")
    command = [sys.executable, "-I", "-X", "utf8=0", "predict.py", "0.png"]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120, check=True)
    assert done.stdout.startswith(b"0.png \\u732b ")


def test_the_program_computes_in_what_was_checked(trained_api: TestClient, tmp_path: Path) -> None:
    """OpenVINO takes fewer digits where the processor has them, unless it is told."""
    program = (archive(trained_api, "openvino", tmp_path / "out") / "predict.py").read_text()
    assert '"INFERENCE_PRECISION_HINT": "f32"' in program


@pytest.mark.parametrize("form", EXPORT_FORMS)
def test_all_that_is_needed_is_in_the_archive(form: str, trained_api: TestClient, tmp_path: Path) -> None:
    folder = archive(trained_api, form, tmp_path / "out")
    model = trained_api.get("/v1/models/tiny pruned").json()
    assert json.loads((folder / "labels.json").read_text()) == model["classes"]
    how = json.loads((folder / "preprocessing.json").read_text())
    assert (how["image_size"], how["channels"]) == (model["image_size"], model["channels"])
    assert json.loads((folder / "model.json").read_text())["id"] == model["id"]


def test_weights_are_dense_and_bear_their_names(trained_api: TestClient, tmp_path: Path) -> None:
    folder = archive(trained_api, "safetensors", tmp_path / "out")
    tensors = load_file(folder / "weights.safetensors")
    shapes = json.loads((folder / "model.json").read_text())["shapes"]
    assert {name: list(array.shape) for name, array in tensors.items()} == shapes


def test_nothing_is_left_behind(trained_api: TestClient, trained_settings: Settings) -> None:
    assert trained_api.get("/v1/models/tiny/export?format=onnx").status_code == 200
    problem_of(trained_api.get("/v1/models/tiny/export?format=pickle"), 404)
    assert not list((trained_settings.home / "scratch").iterdir())


@pytest.mark.parametrize("span", ["bytes=0-9", "bytes=99999999-", "lines=1"])
def test_an_archive_is_sent_whole(trained_api: TestClient, trained_settings: Settings, span: str) -> None:
    whole = trained_api.get("/v1/models/tiny/export", headers={"range": span})
    assert whole.status_code == 200
    assert whole.headers["accept-ranges"] == "none"
    assert ZipFile(io.BytesIO(whole.content)).testzip() is None
    assert not list((trained_settings.home / "scratch").iterdir())


def test_nothing_is_left_of_what_could_not_be_sent(trained_settings: Settings) -> None:
    app = create_app(trained_settings)

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        async def fail(message: Any) -> None:
            if message.get("body"):
                raise OSError("The connection broke.")
            await send(message)

        await app(scope, receive, fail if scope["type"] == "http" else send)

    with TestClient(broken, base_url=LOOPBACK) as api, pytest.raises(OSError, match="broke"):
        api.get("/v1/models/tiny/export")
    assert not list((trained_settings.home / "scratch").iterdir())


def test_a_damaged_model_is_not_given_away(trained_api: TestClient, trained_settings: Settings) -> None:
    model = trained_api.get("/v1/models/tiny").json()
    weights = next((trained_settings.home / "models" / model["id"]).glob("weights*"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert trained_api.get("/v1/models/tiny/export").status_code >= 500
    assert not list((trained_settings.home / "scratch").iterdir())


def test_what_is_not_there_cannot_be_taken(trained_api: TestClient) -> None:
    problem_of(trained_api.get("/v1/models/nobody/export"), 404)
