"""A published model as an archive for elsewhere: the network, how to prepare images, the labels, and a program.

Each form is one function. What goes into the archive was held against the golden answers in the form it has there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from formats.manifest import MANIFEST_NAME
from formats.weights import DENSE_NAME, write_dense
from inference.models import StoredModel, read_stored
from inference.runtimes import INPUT_NAME, OUTPUT_NAME, RUNTIMES
from inference.telemetry import forbid_telemetry
from specs.registry import Registry

PROGRAM_NAME = "predict.py"
NETWORK_NAME = "network.py"
RULE = (
    "EXIF orientation applied; 16-bit grey scaled to 8 bits; transparency laid over black; grey or RGB by the number "
    "of channels; resized to image_size x image_size, antialiased and bilinear, whatever the aspect ratio; then "
    "(pixel / 255 - mean) / std for each channel, as float32 (N, channels, image_size, image_size)"
)

PREPARE = '''"""Run with: python {program} IMAGE [IMAGE ...]    (needs numpy, pillow and {package})"""
import json
import sys

import numpy as np
from PIL import Image, ImageOps

def told(name):
    with open(name, encoding="utf-8") as file:
        return json.load(file)


how, labels = told("preprocessing.json"), told("labels.json")
# What makes probabilities as large as the network is often right.
temperature = (told("model.json").get("calibration") or {{}}).get("temperature", 1)


def prepare(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257 + 0.5).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    image = image.convert("L" if how["channels"] == 1 else "RGB")
    image = image.resize((how["image_size"], how["image_size"]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32).reshape(how["image_size"], how["image_size"], how["channels"])
    return ((pixels / 255 - np.float32(how["mean"])) / np.float32(how["std"])).transpose(2, 0, 1)


if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="backslashreplace")
images = np.stack([prepare(path) for path in sys.argv[1:]])
{run}
for path, row in zip(sys.argv[1:], logits):
    chances = np.exp((row - row.max()) / temperature)
    best = int(row.argmax())
    print(path, labels[best], round(float(chances[best] / chances.sum()), 4))
'''
RUN_ONNX = f"""import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
logits = session.run(["{OUTPUT_NAME}"], {{"{INPUT_NAME}": images}})[0]"""
# Without a word OpenVINO computes in bfloat16 where the processor has it.
IN_FULL = {"INFERENCE_PRECISION_HINT": "f32"}
RUN_OPENVINO = f"""import openvino

logits = openvino.Core().compile_model("model.xml", "CPU", {json.dumps(IN_FULL)})(images)[0]"""


RUN_TORCH = """import pathlib

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from network import network

with torch.inference_mode():
    logits = network(load_file("weights.safetensors"), torch.from_numpy(images)).numpy()"""

Source = Callable[[], str]


@dataclass(frozen=True)
class ExportForm:
    """One form: `write` puts its files into an empty folder, given the model and what tells its program."""

    name: str
    title: str
    write: Callable[[Path, StoredModel, Source], None]


def export(directory: Path, form: str, target: Path, *, source: Source) -> None:
    """Writes the archive of a model's directory to a file that is not there yet, in a folder of its own.

    `source` gives the network as a program of PyTorch, for the form that has one; it takes seconds. Raises
    UnknownName for a form that there is not, DamagedFiles, GoldenMismatch and CannotRun.
    """
    chosen, model = EXPORT_FORMS[form], read_stored(directory)
    folder = target.parent / "files"
    folder.mkdir()
    chosen.write(folder, model, source)
    rule = {**model.manifest.preprocessing.model_dump(mode="json"), "rule": RULE}
    (folder / "preprocessing.json").write_text(json.dumps(rule, indent=1), "utf-8")
    (folder / "labels.json").write_text(json.dumps(model.manifest.classes, indent=1), "utf-8")
    (folder / MANIFEST_NAME).write_bytes((directory / MANIFEST_NAME).read_bytes())
    with ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)


def _onnx(folder: Path, model: StoredModel, _source: Source) -> None:
    graph = model.graph()
    model.check("onnxruntime", RUNTIMES["onnxruntime"].compile(graph, threads=0))
    (folder / "model.onnx").write_bytes(graph)
    _write_program(folder, "onnxruntime", RUN_ONNX)


def _openvino(folder: Path, model: StoredModel, _source: Source) -> None:
    forbid_telemetry()
    import openvino  # noqa: PLC0415 - only whoever asks for it pays for it

    core = openvino.Core()
    openvino.save_model(core.read_model(model.graph()), folder / "model.xml", compress_to_fp16=False)
    compiled = core.compile_model(folder / "model.xml", "CPU", IN_FULL)
    model.check("openvino", lambda images: np.asarray(compiled(images)[0]))
    _write_program(folder, "openvino", RUN_OPENVINO)


def _safetensors(folder: Path, model: StoredModel, source: Source) -> None:
    write_dense(folder / DENSE_NAME, model.tensors, {"format": "pt"})
    (folder / NETWORK_NAME).write_text(source(), "utf-8")
    _write_program(folder, "torch and safetensors", RUN_TORCH)


def _write_program(folder: Path, package: str, run: str) -> None:
    text = PREPARE.format(program=PROGRAM_NAME, package=package, run=run)
    (folder / PROGRAM_NAME).write_text(text, "utf-8")


EXPORT_FORMS: Registry[ExportForm] = Registry(
    "export form",
    [
        ExportForm("onnx", "ONNX, held against its golden answers in ONNX Runtime", _onnx),
        ExportForm(
            "openvino", "OpenVINO IR in float32, held against its golden answers as it is in the archive", _openvino
        ),
        ExportForm(
            "safetensors",
            "The weights by their names in PyTorch's state dict, and the network as a program of plain PyTorch",
            _safetensors,
        ),
    ],
)
