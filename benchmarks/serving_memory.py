"""Memory over very many predictions, and how long a prediction takes while a training runs.

    python -m benchmarks.serving_memory [--models N] [--loaded N] [--predictions N] [--json FILE]

Registers 100 models, asks 10 of them in turn for 100,000 predictions over 16 connections, and tells the resident size
of the API after the first 10,000 and at the end. Then MobileNetV2 at 32 x 32 is asked over one connection: alone, while
a training runs, and alone again. The models stay in var/bench-serving; to make them takes about ten minutes, the rest
five.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from benchmarks.api import machine, tell
from benchmarks.processes import process, wait_for
from benchmarks.serving_load import MEBIBYTE, Load, Requests, loaded
from benchmarks.serving_models import NETWORKS, environment_of, model, pictures, publish, service

FOLDER = Path("var/bench-serving")
ASKED = "mobilenet_v2-32"
CONNECTIONS = 16
FIRST = 10_000
PERCEPTRON = {"name": "mlp", "hidden": [16]}
NARROW = {"name": "resnet18", "width": 0.25}
TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100, help="that are registered")
    parser.add_argument("--loaded", type=int, default=10, help="of them that are asked")
    parser.add_argument("--predictions", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=FIRST, help="predictions after which memory should not grow")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement beside the training")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the models stay")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt install wrk")
    home = asked.folder / "home"
    publish(home, [NETWORKS[ASKED]])
    names = register(home, count=asked.models, loaded=asked.loaded)
    figures = {"memory": memory(home, names, asked), "beside a training": beside_a_training(home, asked.seconds)}
    for name, found in figures.items():
        print(name, *(f"  {key} {value}" for key, value in found.items()), sep="\n")
    tell({"machine": machine(), "figures": figures}, asked.json)


def register(home: Path, *, count: int, loaded: int) -> list[str]:
    """So many models in the data folder; the names of those that will be loaded."""
    names = [f"memory-{number}" for number in range(count)]
    with service(home) as (http, _), process("workers", environment_of(home)):
        for number, name in enumerate(names):
            architecture = NARROW if number < loaded else PERCEPTRON
            body = {"dataset": "digits", "architecture": architecture, "epochs": 1, "batch_size": 256, "device": "cpu"}
            model(http, {"kind": "train", "name": name, "seed": number, **body})
    return names[:loaded]


def memory(home: Path, names: list[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Resident sizes in MiB by how many predictions had been made."""
    bodies = [picture.png for picture in pictures(32)]
    paths = [f"/v1/models/{name}/predict" for name in names]
    requests = Requests(
        paths[0],
        bodies * len(paths),
        {"Content-Type": "image/png"},
        paths=[path for path in paths for _ in bodies],
    )
    with service(home) as (http, running):
        made, sizes = 0, {0: size(running)}
        for count in (asked.first, asked.predictions):
            while made < count:
                load = loaded(str(http.base_url), requests, running, connections=CONNECTIONS, seconds=3)
                assert not load.refused and not load.broken, load
                made += load.warmed + load.answered
                sizes[made] = size(running)
        listed = len(http.get("/v1/models", params={"limit": 200}).json()["items"])
    after = next(value for number, value in sizes.items() if number >= asked.first)
    return {
        "models registered": listed,
        "models asked": len(names),
        "predictions": made,
        f"MiB after {asked.first}": round(after, 1),
        "MiB at the end": round(sizes[made], 1),
        "grown to": round(sizes[made] / after, 4),
        "MiB by predictions": {number: round(value, 1) for number, value in sizes.items()},
    }


def size(running: psutil.Process) -> float:
    return sum(each.memory_info().rss for each in [running, *running.children(recursive=True)]) / MEBIBYTE


def beside_a_training(home: Path, seconds: float) -> dict[str, Any]:
    """p50, p95 and p99 in milliseconds of one connection, alone and beside a training, in turns."""
    requests = Requests(
        f"/v1/models/{ASKED}/predict", [picture.png for picture in pictures(32)], {"Content-Type": "image/png"}
    )
    alone: list[Load] = []
    beside: list[Load] = []
    with service(home) as (http, running), process("workers", environment_of(home)):

        def ask() -> Load:
            return loaded(str(http.base_url), requests, running, connections=1, seconds=seconds)

        for _ in range(TURNS):
            alone.append(ask())
            with training(http):
                beside.append(ask())
    found = {name: _medians(loads) for name, loads in (("alone", alone), ("beside a training", beside))}
    ratios = [after.p95 / before.p95 for before, after in zip(alone, beside, strict=True)]
    return {**found, "p95, times as long": f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"}


def _medians(loads: list[Load]) -> dict[str, float]:
    return {name: round(median(getattr(load, name) for load in loads), 3) for name in ("p50", "p95", "p99")}


@contextmanager
def training(http: httpx.Client) -> Iterator[None]:
    """A training that has made an epoch when the block begins, and is cancelled with it."""
    body = {**NETWORKS[ASKED].job, "name": "beside", "epochs": 10_000}
    job = http.post("/v1/jobs", json=body).raise_for_status().json()["id"]
    wait_for(lambda: http.get(f"/v1/jobs/{job}/metrics").json()["items"], seconds=600)
    try:
        yield
    finally:
        http.post(f"/v1/jobs/{job}/cancel").raise_for_status()
        wait_for(lambda: http.get(f"/v1/jobs/{job}").json()["status"] == "cancelled")


if __name__ == "__main__":
    main()
