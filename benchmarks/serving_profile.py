"""Where the time of our API goes under load: stacks taken by py-spy, a hundred times a second."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serving_load import loaded
from benchmarks.serving_models import pictures
from benchmarks.serving_peers import OURS, SERVERS

if TYPE_CHECKING:
    from benchmarks.serving import Bench

SECONDS = 8
LINES = 25


def profile(bench: Bench, folder: Path) -> str:
    """Loads our API over 1 and over most connections; writes the stacks, folded, and tells what is in most of them."""
    spy = _py_spy(bench.asked.environment)
    folder.mkdir(parents=True, exist_ok=True)
    network, told = bench.networks[0], []
    requests = SERVERS[OURS].ask(bench.asked.bodies[0], pictures(network.image_size), network)
    with bench.running(SERVERS[OURS], network) as (url, process):
        loaded(url, requests, process, connections=1, seconds=1)  # the model is there before anybody looks
        for connections in sorted({1, max(bench.asked.connections)}):
            loading = threading.Thread(
                target=loaded,
                args=(url, requests, process),
                kwargs={"connections": connections, "seconds": 1.5 * SECONDS},
            )
            loading.start()
            path = folder / f"{network.name}-{connections}.folded"
            command = [spy, "record", "--pid", str(process.pid), "--duration", str(SECONDS), "--format", "raw"]
            subprocess.run([*command, "--nonblocking", "--output", str(path)], check=True, capture_output=True)
            loading.join()
            told.append(f"\n{network.name}, {connections} connections: {path}\n{summary(path.read_text())}")
    return "\n".join(told)


def summary(folded: str) -> str:
    """Shares of the samples of threads that did not wait: a function is on the stack, or is the one that runs."""
    inside, itself, total = Counter[str](), Counter[str](), 0
    for line in folded.splitlines():
        stack, _, text = line.rpartition(" ")
        frames, samples = stack.split(";"), int(text)
        total += samples
        itself[frames[-1]] += samples
        for frame in set(frames):
            inside[frame] += samples
    rows = [f"{'inside':>8}{'itself':>8}  function"]
    for frame, count in inside.most_common(LINES):
        rows.append(f"{100 * count / total:7.1f}%{100 * itself[frame] / total:7.1f}%  {frame}")
    rows.append("most by themselves:")
    rows += [f"{100 * count / total:15.1f}%  {frame}" for frame, count in itself.most_common(LINES)]
    return "\n".join(rows)


def _py_spy(environment: Path) -> str:
    own = environment.absolute() / "py-spy"
    spy = own / "bin" / "py-spy"
    if not spy.exists():
        subprocess.run([sys.executable, "-m", "venv", str(own)], check=True)
        subprocess.run(
            [str(own / "bin" / "python"), "-m", "pip", "install", "--quiet", "py-spy"], check=True, capture_output=True
        )
    return str(spy)
