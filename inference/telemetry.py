"""Both runtimes report their use to their makers unless they are told not to before they are imported."""

from __future__ import annotations

import os
import sys


def forbid_telemetry() -> None:
    """Call before `openvino` or `onnxruntime` is imported; later it has no effect on the one already there.

    `import openvino` sends an event through the package openvino_telemetry, for which it has a silent stand-in
    when the import fails. ONNX Runtime starts an uploader and keeps a device id and a database in the user's
    cache folder unless ORT_DISABLE_TELEMETRY is set (its Privacy.md, "Disabling Telemetry").
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
