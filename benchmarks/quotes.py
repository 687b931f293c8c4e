"""How near quotes of trainings come to what the trainings take, for one network of each family.

    python -m benchmarks.quotes [--image-size N] [--epochs N] [--turns N] [--json FILE]

A real service on a data folder of its own is asked for a quote of each training, and then for the training, on the
digits. The first turn knows of no earlier quotes; later ones are corrected by those before. Told are seconds of all
epochs and the peak memory: what the quote said over what it was. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from benchmarks.api import machine, tell
from benchmarks.processes import answers, free_port, migrate, process, wait_for

NETWORKS: dict[str, dict[str, Any]] = {
    "vgg11_bn": {"width": 0.25},
    "resnet18": {"width": 0.25},
    "wide_resnet": {"depth": 16, "width": 1},
    "mobilenet_v1": {"width": 0.5},
    "mobilenet_v2": {"width": 0.5},
    "shufflenet_v1": {"width": 0.5},
    "shufflenet_v2": {"width": 0.5},
    "googlenet": {"width": 0.25},
    "inception_v3": {"width": 0.25},
    "densenet121": {"width": 0.25},
    "mlp": {"hidden": [300, 100]},
}
WITHIN = 0.25
LOOK_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        rows = turns(home, asked)
    tell({"machine": machine(), "figures": rows}, asked.json)


def turns(home: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, printed as they come."""
    rows: list[dict[str, Any]] = []
    environment = {**os.environ, "PRUNEYARD_HOME": home, "PRUNEYARD_PORT": str(free_port())}
    url = f"http://127.0.0.1:{environment['PRUNEYARD_PORT']}"
    migrate(environment)
    with (
        process("service", environment),
        process("workers", environment) as worker,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
    ):
        wait_for(lambda: answers(http, "/readyz"))
        print(HEADER)
        for turn in range(asked.turns):
            for name in asked.networks:
                rows.append({"turn": turn, **compare(http, worker, body(name, asked))})
                print(line(rows[-1]), flush=True)
            print(summary(turn, rows), flush=True)
    return rows


def body(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "kind": "train",
        "name": name,
        "dataset": "digits",
        "architecture": {"name": name, **NETWORKS[name]},
        "image_size": asked.image_size,
        "epochs": asked.epochs,
        "device": "cpu",
    }


def compare(http: httpx.Client, worker: psutil.Process, training: dict[str, Any]) -> dict[str, Any]:
    """What was said, and what it came to."""
    said = ended(http, worker, http.post("/v1/jobs", params={"dry_run": True}, json=training))[0]["result"]
    job, peak = ended(http, worker, http.post("/v1/jobs", json=training))
    rows = http.get(f"/v1/jobs/{job['id']}/metrics").raise_for_status().json()["items"]
    seconds = sum(row["seconds"] for row in rows)
    return {
        "network": training["name"],
        "said_seconds": said["seconds"],
        "seconds": round(seconds, 2),
        "seconds_ratio": round(said["seconds"] / seconds, 3),
        "inside": said["seconds_low"] <= seconds <= said["seconds_high"],
        "corrected_by": said["corrected_by"],
        "said_memory": said["peak_memory_bytes"],
        "memory": peak,
        "memory_ratio": round(said["peak_memory_bytes"] / peak, 3),
    }


def ended(http: httpx.Client, worker: psutil.Process, answer: httpx.Response) -> tuple[dict[str, Any], int]:
    """The job after its success, and the most bytes that its training was seen to hold."""
    address, peak = f"/v1/jobs/{answer.raise_for_status().json()['id']}", 0

    def look() -> dict[str, Any] | None:
        nonlocal peak
        job: dict[str, Any] = http.get(address).raise_for_status().json()
        if job["phase"] == "training":
            peak = max(peak, held(worker))
        return None if job["status"] in {"queued", "running"} else job

    job = wait_for(look, pause=LOOK_SECONDS, seconds=3600)
    assert job is not None
    if job["status"] != "succeeded":
        raise RuntimeError(job["message"])
    return job, peak


def held(worker: psutil.Process) -> int:
    """The largest peak of a process below this one, as Linux keeps it; what a job's process is."""
    peaks = [0]
    for child in worker.children(recursive=True):
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            continue
        if "Name:\tpruneyard-job" in status:
            peaks += [1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return max(peaks)


HEADER = f"{'network':14}{'said s':>9}{'took s':>9}{'ratio':>8}  {'inside':8}{'corrected by':>13}{'memory':>9}"


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['network']:14}{row['said_seconds']:9.1f}{row['seconds']:9.1f}{row['seconds_ratio']:8.2f}"
        f"  {'yes' if row['inside'] else 'no':8}{row['corrected_by']:13}{row['memory_ratio']:9.2f}"
    )


def summary(turn: int, rows: list[dict[str, Any]]) -> str:
    rows = [row for row in rows if row["turn"] == turn]
    near = sum(abs(row["seconds_ratio"] - 1) <= WITHIN for row in rows)
    inside = sum(row["inside"] for row in rows)
    ratios = [row["seconds_ratio"] for row in rows]
    return (
        f"turn {turn + 1}: {near} of {len(rows)} within {WITHIN:.0%}, {inside} inside the interval; "
        f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
