"""What the API costs: start, memory, accepting a job beside a training, predicting, cancelling.

    python -m benchmarks.api [--json FILE]

Starts real processes on a data folder of its own. Latencies are set against GET /healthz in the same run, over the
same kind of connection: what HTTP alone costs here. Takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import psutil

from benchmarks.processes import answers, free_port, migrate, process, wait_for

TRAINING: dict[str, Any] = {
    "kind": "train",
    "name": "bench",
    "dataset": "digits",
    "architecture": {"name": "resnet18", "width": 0.25},
    "optimizer": {"name": "adam", "lr": 0.002},
    "epochs": 2,
}
STARTS = 5
REQUESTS = 400
CANCELS = 10
MEBIBYTE = 1024 * 1024
PACKAGES = ("fastapi", "uvicorn", "openvino", "onnxruntime", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        figures = {"machine": machine(), "figures": measure(Path(home))}
    for name, row in figures["figures"].items():
        print(f"{name:44}", "  ".join(f"{key} {value:9.2f}" for key, value in row.items()))
    tell(figures, arguments.json)


def tell(figures: dict[str, Any], path: Path | None) -> None:
    """Prints where the figures were measured, and writes all of them to a file, if one is named."""
    print(json.dumps(figures["machine"]))
    if path:
        path.write_text(json.dumps(figures, indent=1))


def machine() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": psutil.cpu_count(logical=False),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()


def measure(home: Path) -> dict[str, dict[str, float]]:
    environment = {**os.environ, "PRUNEYARD_HOME": str(home), "PRUNEYARD_PORT": str(free_port())}
    url = f"http://127.0.0.1:{environment['PRUNEYARD_PORT']}"
    migrate(environment)
    starts = [start_seconds(environment, url) for _ in range(STARTS)]
    figures = {"ready after start, s": spread(starts)}
    with process("service", environment) as service, httpx.Client(base_url=url, trust_env=False) as http:
        wait_for(lambda: answers(http, "/readyz"))
        figures["API memory before a model, MiB"] = {"rss": rss(service)}
        with process("workers", environment):
            wait_for_end(http, submit(http, TRAINING))
            figures |= predictions(http)
            figures["API memory with one model, MiB"] = {"rss": rss(service)}
            figures |= beside_a_training(http)
            figures["cancel to cancelled, s"] = spread([cancel_seconds(http) for _ in range(CANCELS)])
    return figures


def predictions(http: httpx.Client) -> dict[str, dict[str, float]]:
    items = http.get("/v1/datasets/digits/images", params={"limit": 100}).json()["items"]
    images = [base64.b64decode(item["png"]) for item in items]
    headers = {"content-type": "image/png"}

    def predict(number: int) -> None:
        answer = http.post("/v1/models/bench/predict", content=images[number % len(images)], headers=headers)
        answer.raise_for_status()

    for number in range(20):
        predict(number)
    ours, plain = paired(predict, lambda _: http.get("/healthz").raise_for_status())
    return {"predict, one connection, ms": spread(ours), "GET /healthz, ms": spread(plain)}


def beside_a_training(http: httpx.Client) -> dict[str, dict[str, float]]:
    job = submit(http, {**TRAINING, "name": "beside", "epochs": 10_000})
    wait_for(lambda: len(http.get(f"/v1/jobs/{job}/metrics").json()["items"]) >= 1)
    waiting: list[str] = []
    ours, plain = paired(
        lambda _: waiting.append(submit(http, TRAINING)), lambda _: http.get("/healthz").raise_for_status(), count=200
    )
    predicted = predictions(http)
    for identifier in (*waiting, job):
        http.post(f"/v1/jobs/{identifier}/cancel").raise_for_status()
    wait_for_end(http, job)
    return {
        "POST /v1/jobs beside a training, ms": spread(ours),
        "GET /healthz beside a training, ms": spread(plain),
        "predict beside a training, ms": predicted["predict, one connection, ms"],
    }


def cancel_seconds(http: httpx.Client) -> float:
    job = submit(http, {**TRAINING, "name": "cancelled", "epochs": 10_000})
    wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["phase"] == "training")
    asked = time.perf_counter()
    http.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["status"] == "cancelled", pause=0.01)
    return time.perf_counter() - asked


def start_seconds(environment: dict[str, str], url: str) -> float:
    began = time.perf_counter()
    with process("service", environment), httpx.Client(base_url=url, trust_env=False) as http:
        wait_for(lambda: answers(http, "/readyz"), pause=0.01)
        return time.perf_counter() - began


def paired(
    ours: Callable[[int], object], plain: Callable[[int], object], *, count: int = REQUESTS
) -> tuple[list[float], list[float]]:
    """Milliseconds of both, one after the other, so that a slow moment of the machine meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(count):
        for call, column in zip((ours, plain), times, strict=True):
            began = time.perf_counter()
            call(number)
            column.append(1000 * (time.perf_counter() - began))
    return times


def spread(values: list[float]) -> dict[str, float]:
    hundredths = quantiles(values, n=100, method="inclusive")
    return {"p50": median(values), "p95": hundredths[94], "min": min(values), "max": max(values)}


def rss(of: psutil.Process) -> float:
    return of.memory_info().rss / MEBIBYTE


def submit(http: httpx.Client, body: dict[str, Any]) -> str:
    identifier: str = http.post("/v1/jobs", json=body).raise_for_status().json()["id"]
    return identifier


def wait_for_end(http: httpx.Client, job: str) -> None:
    wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["status"] not in {"queued", "running"})


if __name__ == "__main__":
    main()
