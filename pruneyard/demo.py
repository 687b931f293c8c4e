"""The demo: train a network, cut nine of ten weights, and compare the two over HTTP."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pruneyard.answers import Model
from pruneyard.client import Client
from pruneyard.errors import PruneyardError
from pruneyard.figures import duration, figure, percent, size, table
from pruneyard.installation import Installation, free_port, migrate, start_api, start_worker, wait_until_ready
from pruneyard.measurement import Measured, compare, held_out_images
from pruneyard.processes import Children
from pruneyard.progress import follow

# Chosen on the validation split, over five seeds; the test split was read once, afterwards.
DEMO_TRAIN: dict[str, Any] = {
    "kind": "train",
    "name": "demo digits",
    "dataset": "digits",
    "architecture": {"name": "resnet18", "width": 0.25},
    "optimizer": {"name": "adam", "lr": 0.003},
    "schedule": {"name": "one-cycle"},
    "augmentation": {"name": "shift", "pixels": 1},
    "epochs": 12,
    "batch_size": 64,
    "seed": 0,
}
DEMO_PRUNE: dict[str, Any] = {
    "kind": "prune",
    "name": "demo digits pruned",
    "method": "magnitude",
    "sparsity": 0.9,
    "fine_tune": {"epochs": 16, "optimizer": {"name": "adam", "lr": 0.002}, "schedule": "cosine"},
}
DEFAULT_FOLDER = Path("var") / "demo"
MARKER = ".pruneyard-demo"
LEAST_ACCURACY = 0.97
MOST_LOST = 0.01
# Of the weights of convolutions and linear layers; the count that is cut is rounded to whole weights.
LEAST_CUT = DEMO_PRUNE["sparsity"] - 1e-4
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Contender:
    """A model of the demo and what it measured over HTTP."""

    model: Model
    measured: Measured
    sparsity: float = 0.0


def run_demo(folder: Path, out: Console) -> bool:
    """Run it in `folder`, which is made anew; returns whether the figures are as they should be."""
    started = time.monotonic()
    _renew(folder)
    out.print(Text(f"Demo in {folder.absolute()} (made anew)"))
    installation = Installation(home=folder, port=free_port(), environment=_own_settings())
    with Children(grace=GRACE_SECONDS) as children:
        migrate(children, installation)
        processes = [starter(children, installation, to_file=True) for starter in (start_api, start_worker)]
        wait_until_ready(installation.url, processes)
        out.print(Text(f"API and worker are ready at {installation.url} ({time.monotonic() - started:.1f} s)"))
        with Client(installation.url) as client:
            contenders = _contest(client, out)
    trained, pruned = contenders
    out.print(comparison(trained, pruned))
    return _conclude(trained, pruned, folder=folder, seconds=time.monotonic() - started, out=out)


def failures(trained: Contender, pruned: Contender) -> list[str]:
    """A sentence for each figure that is not as it should be."""
    found = []
    accuracy, after = trained.measured.accuracy, pruned.measured.accuracy
    if accuracy < LEAST_ACCURACY:
        found.append(f"The trained network reached {percent(accuracy)}, less than {percent(LEAST_ACCURACY)}.")
    if accuracy - after > MOST_LOST:
        found.append(f"Pruning cost {100 * (accuracy - after):.2f} points, more than {100 * MOST_LOST:g}.")
    if pruned.sparsity < LEAST_CUT:
        found.append(f"Only {percent(pruned.sparsity)} of the weights were cut, not {percent(DEMO_PRUNE['sparsity'])}.")
    return found


def _contest(client: Client, out: Console) -> tuple[Contender, Contender]:
    trained, _ = _made(client, DEMO_TRAIN, out)
    pruned, report = _made(client, {**DEMO_PRUNE, "model": trained["id"]}, out)
    images = held_out_images(client, DEMO_TRAIN["dataset"])
    out.print(Text(f"Sending {len(images)} held-out test images to both models over HTTP ..."))
    measured = compare(client.url, [trained["id"], pruned["id"]], images)
    return Contender(trained, measured[0]), Contender(pruned, measured[1], report["sparsity"])


def _made(client: Client, spec: dict[str, Any], out: Console) -> tuple[Model, dict[str, Any]]:
    job = follow(client, client.submit(spec)["id"], console=out)
    result = job.get("result") or {}
    return client.model(result["model"]), result


def comparison(trained: Contender, pruned: Contender) -> Any:
    """The table that sets the two side by side."""
    both = (trained, pruned)
    count = trained.measured.images
    rows = [
        [f"test accuracy (over HTTP, {count} images)", *(percent(one.measured.accuracy) for one in both)],
        ["bytes stored", *(size(one.model["bytes"]) for one in both)],
        ["parameters not zero", *(figure(one.model["nonzero_parameters"], ",") for one in both)],
        ["p50 latency over HTTP", *(f"{one.measured.p50_ms:.2f} ms" for one in both)],
    ]
    return table(["", "trained", "pruned"], rows, title="Trained against pruned")


def _conclude(trained: Contender, pruned: Contender, *, folder: Path, seconds: float, out: Console) -> bool:
    problems = failures(trained, pruned)
    for problem in problems:
        out.print(Text(problem, style="red"))
    lines = [
        f"Both models, their metrics and logs are in {folder.absolute()}.",
        f"To look at them: PRUNEYARD_HOME={folder} make up, then http://127.0.0.1:8000/docs",
        f"All processes are stopped. Total time {duration(seconds)} ({seconds:.1f} s).",
    ]
    out.print(Text("\n".join(lines)))
    return not problems


def _own_settings() -> dict[str, str]:
    """Blanks for what the environment says to other installations; blank settings count as unset."""
    return {name: "" for name in os.environ if name.startswith("PRUNEYARD_")}


def _renew(folder: Path) -> None:
    """Empty the folder, unless somebody else's files are in it."""
    if folder.exists():
        _require_ours(folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("Made by `pruneyard demo`, which removes this folder when it starts again.\n")


def _require_ours(folder: Path) -> None:
    ours = folder.is_dir() and not folder.is_symlink()
    contents: Sequence[Path] = list(folder.iterdir()) if ours else ()
    if not ours or (contents and not (folder / MARKER).is_file()):
        raise PruneyardError(f"{folder} was not made by the demo, so it is left alone; choose another with --home.")
