"""What the stock Triton client sends for the pixels of a folder, as files, and what it is answered.

python -m benchmarks.peers.triton_requests HOST:PORT MODEL SIZE FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from tritonclient import http as triton

TIMED = 300


def main() -> None:
    address, model, size, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    client = triton.InferenceServerClient(address)
    metadata = client.get_model_metadata(model)
    count = len(list(folder.glob("*.raw")))
    answers, times = [], []
    for number in range(count):
        pixels = np.frombuffer((folder / f"{number}.raw").read_bytes(), dtype=np.uint8).reshape(1, size, size, 3)
        given = triton.InferInput(metadata["inputs"][0]["name"], list(pixels.shape), "UINT8")
        given.set_data_from_numpy(pixels, binary_data=True)
        outputs = [triton.InferRequestedOutput(metadata["outputs"][0]["name"], binary_data=True)]
        body, length = triton.InferenceServerClient.generate_request_body([given], outputs=outputs)
        (folder / f"{number}.body").write_bytes(body)
        answers.append(int(client.infer(model, [given], outputs=outputs).as_numpy(outputs[0].name()).argmax()))
    for _ in range(TIMED):
        began = time.perf_counter()
        client.infer(model, [given], outputs=outputs)
        times.append(1000 * (time.perf_counter() - began))
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    told = {"answers": answers, "p50": median(times), "headers": headers}
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
