"""What data sets cost: reading an archive, taking an upload beside predictions, beginning an epoch, memory.

    python -m benchmarks.datasets [--archive cifar.zip] [--json FILE]

Starts real processes on a data folder of its own. Reading is set against the plain way in the same run: unpack the
archive, then open every file with Pillow, on one core. Predictions beside an upload are set against predictions
before it. Without an archive, JPEGs of noise are made. Takes about five minutes on two cores and 8 GB of disk.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.api import (
    MEBIBYTE,
    TRAINING,
    answers,
    free_port,
    machine,
    paired,
    process,
    rss,
    spread,
    submit,
    tell,
    wait_for,
    wait_for_end,
)
from workers.child import TITLE

READINGS = 5
IMAGES = 10_000
UPLOAD_BYTES = 1024 * MEBIBYTE
IDLE = "import workers.job, workers.tasks.ingest, sys; print('ready', flush=True); sys.stdin.read()"
TINY: dict[str, Any] = {"architecture": {"name": "mlp", "hidden": [32]}, "epochs": 1, "batch_size": 256}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, help="a zip of JPEGs, a folder a class")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = arguments.archive or noise_archive(Path(folder) / "noise.zip")
        figures = {"machine": machine(), "figures": measure(Path(folder) / "home", archive)}
    for name, row in figures["figures"].items():
        print(f"{name:52}", "  ".join(f"{key} {value:10.2f}" for key, value in row.items()))
    tell(figures, arguments.json)


def measure(home: Path, archive: Path) -> dict[str, dict[str, float]]:
    home.mkdir()
    environment = {**os.environ, "PRUNEYARD_HOME": str(home), "PRUNEYARD_PORT": str(free_port())}
    url = f"http://127.0.0.1:{environment['PRUNEYARD_PORT']}"
    subprocess.run([sys.executable, "-m", "store.migrate"], env=environment, check=True, capture_output=True)
    with process("service", environment) as service, httpx.Client(base_url=url, trust_env=False, timeout=600) as http:
        wait_for(lambda: answers(http, "/readyz"))
        with process("workers", environment) as worker:
            figures = reading(http, worker, archive)
            wait_for_end(http, submit(http, TRAINING))
            figures |= uploading(http, service)
            figures |= training(http, worker)
    return figures


def reading(http: httpx.Client, worker: psutil.Process, archive: Path) -> dict[str, dict[str, float]]:
    content = archive.read_bytes()
    ours, plain, peaks = [], [], []
    for number in range(READINGS):
        plain.append(plainly(archive))
        began = time.perf_counter()
        with Peak(worker, TITLE) as peak:
            dataset = bring(http, f"read {number}", content)
        ours.append(time.perf_counter() - began)
        peaks.append(peak.bytes / MEBIBYTE)
    count = dataset["images"]
    idle = idle_bytes() / MEBIBYTE
    return {
        f"upload to ready, {count} images, s": spread(ours),
        "unpack and open with Pillow, s": spread(plain),
        "ratio": spread([a / b for a, b in zip(ours, plain, strict=True)]),
        "memory of the reading process, MiB": {"peak": max(peaks), "idle": idle, "over": max(peaks) - idle},
    }


def plainly(archive: Path) -> float:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as packed:
            # Under names of our own: those in an archive are not to be trusted.
            for number, name in enumerate(name for name in packed.namelist() if name.endswith(".jpg")):
                Path(folder, f"{number}.jpg").write_bytes(packed.read(name))
        for path in sorted(Path(folder).iterdir()):
            with Image.open(path) as image:
                image.convert("RGB")
    return time.perf_counter() - began


def uploading(http: httpx.Client, service: psutil.Process) -> dict[str, dict[str, float]]:
    image = noise_jpeg(np.random.default_rng(0))

    def predict(_: int) -> None:
        http.post("/v1/models/bench/predict", content=image, headers={"content-type": "image/jpeg"}).raise_for_status()

    for number in range(50):
        predict(number)
    before, _ = paired(predict, lambda _: None, count=1000)
    memory, during, done = rss(service), [], threading.Event()
    with Peak(service, "service") as peak:
        sending = threading.Thread(target=upload, args=(str(http.base_url), done))
        began = time.perf_counter()
        sending.start()
        while not done.is_set():
            during += paired(predict, lambda _: None, count=20)[0]
        seconds = time.perf_counter() - began
        sending.join()
    return {
        "predict before an upload, ms": spread(before),
        "predict during an upload of 1 GiB, ms": {**spread(during), "count": len(during)},
        "upload of 1 GiB": {"s": seconds, "MiB/s": 1024 / seconds},
        "API memory during the upload, MiB": {"before": memory, "grown": peak.bytes / MEBIBYTE - memory},
    }


def upload(url: str, done: threading.Event) -> None:
    """In a process of its own, as a client would be."""
    program = (
        "import httpx, sys; url = sys.argv[1]; http = httpx.Client(base_url=url, trust_env=False, timeout=600)\n"
        "made = http.post('/v1/datasets', json={'name': 'large'}).json()['id']\n"
        "piece = bytes(2**20)\n"
        "http.put(f'/v1/datasets/{made}/content', content=(piece for _ in range(1024))).raise_for_status()\n"
    )
    subprocess.run([sys.executable, "-c", program, url], check=True)
    done.set()


def training(http: httpx.Client, worker: psutil.Process) -> dict[str, dict[str, float]]:
    """Time to the first epoch and memory, for small and large sets of one shape; the last has 2 GB decoded."""
    rows: dict[str, dict[str, float]] = {}
    for images, side in ((2_000, 32), (50_000, 32), (600, 224), (14_000, 224)):
        name = f"{images} of {side} x {side} x 3"
        bring(http, name, flat_archive(images, side))
        body = {"kind": "train", "name": name, "dataset": name, "image_size": side, **TINY}
        for attempt in ("decoded for the first time", "from the cache"):
            with Peak(worker, TITLE) as peak:
                job = submit(http, body)
                wait_for_end(http, job)
            rows[f"{name}, {attempt}"] = {"loading s": loading_seconds(http, job), "peak MiB": peak.bytes / MEBIBYTE}
    return rows


def loading_seconds(http: httpx.Client, job: str) -> float:
    """From the event of the phase `loading` to that of `training`."""
    events = http.get(f"/v1/jobs/{job}/events", params={"limit": 500}).raise_for_status().json()["items"]
    at = {item["data"]["phase"]: item["at"] for item in events if item["type"] == "phase"}
    first, last = (np.datetime64(at[phase].rstrip("Z")) for phase in ("loading", "training"))
    return float((last - first) / np.timedelta64(1, "s"))


class Peak:
    """The most memory that a process or one below it, of this module or name, has resident during a block."""

    def __init__(self, owner: psutil.Process, which: str) -> None:
        self._owner, self._which = owner, which
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for member in (self._owner, *self._owner.children(recursive=True)):
                try:
                    if self._which in (*member.cmdline(), member.name()):
                        self.bytes = max(self.bytes, high_water(member.pid))
                except (psutil.Error, OSError):
                    continue


def high_water(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def idle_bytes() -> int:
    """Of a process that has loaded what reading needs and has read nothing."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", IDLE], **pipes)
    assert child.stdout is not None
    child.stdout.readline()
    found = high_water(child.pid)
    child.communicate(b"")
    return found


def bring(http: httpx.Client, name: str, content: bytes) -> dict[str, Any]:
    made = http.post("/v1/datasets", json={"name": name}).raise_for_status().json()["id"]
    http.put(f"/v1/datasets/{made}/content", content=content).raise_for_status()
    wait_for(lambda: http.get(f"/v1/datasets/{made}").json()["status"] != "processing", pause=0.05)
    view: dict[str, Any] = http.get(f"/v1/datasets/{made}").json()
    assert view["status"] == "ready", view
    return view


def noise_jpeg(random: np.random.Generator) -> bytes:
    target = io.BytesIO()
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    coarse.resize((32, 32), Image.Resampling.BICUBIC).save(target, "JPEG", quality=90)
    return target.getvalue()


def noise_archive(path: Path) -> Path:
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(IMAGES):
            packed.writestr(f"{number % 10}/{number}.jpg", noise_jpeg(random))
    return path


def flat_archive(images: int, side: int) -> bytes:
    """Quickly made pictures of one colour with a number in it, so that no two are the same."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as packed:
        for name, data in flat_images(images, side):
            packed.writestr(name, data)
    return target.getvalue()


def flat_images(images: int, side: int) -> Iterator[tuple[str, bytes]]:
    for number in range(images):
        pixels = np.full((side, side, 3), (number % 10) * 25, dtype=np.uint8)
        pixels[0, :4, 0] = [number % 251, number // 251 % 251, number // 63001, 7]
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
        yield f"{number % 10}/{number}.png", file.getvalue()


if __name__ == "__main__":
    main()
