"""What the API process pays for: run in a fresh interpreter, since this one has everything loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROOM = "import inference.models, inference.cache, inference.batching, inference.answers, inference.devices, sys"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_the_room_loads_no_runtime_and_no_torch():
    heavy = "{'onnxruntime', 'openvino', 'torch', 'fastapi', 'sqlalchemy'}"
    assert run(f"{ROOM}; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_only_the_runtime_in_use_is_loaded_and_it_keeps_quiet(publish, runtime):
    directory = publish().directory
    code = f"""
{ROOM}
import os
from pathlib import Path
inference.models.load_model(Path({str(directory)!r}), runtime={runtime!r}, threads=1)
print(sorted({{'onnxruntime', 'openvino'}} & set(sys.modules)), bool(sys.modules.get('openvino_telemetry')),
      os.environ['ORT_DISABLE_TELEMETRY'])
"""
    assert run(code) == f"['{runtime}'] False 1"
