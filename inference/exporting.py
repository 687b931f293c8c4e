"""A published model as an archive for elsewhere: the network, how to prepare images, the labels, and a program.

Each form is one function. What goes into the archive was held against the golden answers in the form it has there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from formats.graphs import GRAPH_NAME, filled_graph
from formats.manifest import MANIFEST_NAME, ModelManifest, read_manifest
from formats.weights import DENSE_NAME, read_weights, write_dense
from inference.models import check_golden, load_model
from inference.runtimes import INPUT_NAME, OUTPUT_NAME
from inference.telemetry import forbid_telemetry
from specs.registry import Registry

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

how = json.load(open("preprocessing.json"))
labels = json.load(open("labels.json"))


def prepare(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("L" if how["channels"] == 1 else "RGB")
    image = image.resize((how["image_size"], how["image_size"]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32).reshape(how["image_size"], how["image_size"], how["channels"])
    return ((pixels / 255 - np.float32(how["mean"])) / np.float32(how["std"])).transpose(2, 0, 1)


images = np.stack([prepare(path) for path in sys.argv[1:]])
{run}
for path, row in zip(sys.argv[1:], logits):
    chances = np.exp(row - row.max())
    best = int(row.argmax())
    print(path, labels[best], round(float(chances[best] / chances.sum()), 4))
'''
RUN_ONNX = f"""import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
logits = session.run(["{OUTPUT_NAME}"], {{"{INPUT_NAME}": images}})[0]"""
RUN_OPENVINO = """import openvino

logits = openvino.Core().compile_model("model.xml", "CPU")(images)[0]"""


@dataclass(frozen=True)
class ExportForm:
    """One form: `write` puts its files into an empty folder, given the model's directory and its whole graph."""

    name: str
    title: str
    write: Callable[[Path, Path, bytes], None]


def export(directory: Path, form: str, target: Path) -> ModelManifest:
    """Writes the archive of a model's directory; returns what the model says of itself.

    Raises UnknownName for a form that there is not, DamagedFiles, GoldenMismatch and CannotRun.
    """
    chosen = EXPORT_FORMS[form]
    manifest = read_manifest(directory)
    graph = filled_graph((directory / GRAPH_NAME).read_bytes(), read_weights(directory / manifest.weights.file))
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        chosen.write(folder, directory, graph)
        rule = {**manifest.preprocessing.model_dump(mode="json"), "rule": RULE}
        (folder / "preprocessing.json").write_text(json.dumps(rule, indent=1), "utf-8")
        (folder / "labels.json").write_text(json.dumps(manifest.classes, indent=1), "utf-8")
        (folder / MANIFEST_NAME).write_bytes((directory / MANIFEST_NAME).read_bytes())
        with ZipFile(target, "w", ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
    return manifest


def _onnx(folder: Path, directory: Path, graph: bytes) -> None:
    load_model(directory, runtime="onnxruntime")  # held against the golden answers: it is this graph
    (folder / "model.onnx").write_bytes(graph)
    (folder / "predict.py").write_text(
        PREPARE.format(program="predict.py", package="onnxruntime", run=RUN_ONNX), "utf-8"
    )


def _openvino(folder: Path, directory: Path, graph: bytes) -> None:
    forbid_telemetry()
    import openvino  # noqa: PLC0415 - only whoever asks for it pays for it

    core = openvino.Core()
    openvino.save_model(core.read_model(graph), folder / "model.xml", compress_to_fp16=False)
    compiled = core.compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    check_golden(directory, lambda images: np.asarray(compiled(images)[0]))
    run = PREPARE.format(program="predict.py", package="openvino", run=RUN_OPENVINO)
    (folder / "predict.py").write_text(run, "utf-8")


def _safetensors(folder: Path, directory: Path, _graph: bytes) -> None:
    manifest = read_manifest(directory)
    write_dense(folder / DENSE_NAME, read_weights(directory / manifest.weights.file), {"format": "pt"})


EXPORT_FORMS: Registry[ExportForm] = Registry(
    "export form",
    [
        ExportForm("onnx", "ONNX, held against its golden answers in ONNX Runtime", _onnx),
        ExportForm(
            "openvino", "OpenVINO IR in float32, held against its golden answers as it is in the archive", _openvino
        ),
        ExportForm("safetensors", "The weights by their names in PyTorch's state dict, dense", _safetensors),
    ],
)
