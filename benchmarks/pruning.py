"""What pruning, quantizing and both are worth: accuracy, speed and bytes against a dense network of the same budget.

    python -m benchmarks.pruning FOLDER --home HOME [--networks NAME ...] [--seeds N ...] [--first N] [--then N]

FOLDER has `train/<class>/<image>` and `test/<class>/<image>`. Everything is asked of a real service on the data folder
HOME, over HTTP. What has been made stays there: broken off and started again, it goes on where it was.

For each network and seed: `dense` trains for `first + then` epochs by the recipe `fast`. `parent` trains for `first`,
and from it come the others, each retrained for `then`, or three times as long where channels were cut, which takes
about the same time: `trained` is the seconds of both trainings, as a share of the dense network's. With `--weights-of
dense` the dense network itself loses weights and is retrained on top of its training. Epochs are chosen by the
validation images; what is told is of the test images. Latency is measured here, both models in turn, each in its
fastest runtime, from pixels to logits of one image; bytes are all that is stored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.api import machine, tell
from benchmarks.processes import answers, free_port, migrate, process, wait_for
from benchmarks.pruning_peers import compare_peers
from inference.comparing import compare
from inference.models import LoadedModel, load_model
from specs.recipes import RECIPES
from store.artifacts import Artifacts

NETWORKS: dict[str, dict[str, Any]] = {
    "vgg16_bn": {"name": "vgg16_bn", "width": 0.25},
    "resnet18": {"name": "resnet18", "width": 0.5},
    "mobilenet_v2": {"name": "mobilenet_v2", "width": 0.5},
    "shufflenet_v2": {"name": "shufflenet_v2", "width": 0.5},
    "densenet121": {"name": "densenet121", "width": 0.25},
    "mlp": {"name": "mlp", "hidden": [300, 100]},
    "vgg16_bn_half": {"name": "vgg16_bn", "width": 0.5},
    "vgg16_bn_whole": {"name": "vgg16_bn"},
    "resnet18_whole": {"name": "resnet18"},
}
WITHOUT_NORMALISATION = {"mlp"}
# Measured again, a model is a little slower or faster than when its channels were chosen.
SPEEDUPS = (2.6,)
SPARSITIES = (0.9, 0.95, 0.98)
THEN_INT8 = 0.95
# Chosen on validation images of the perceptron: in one round it loses a point at 0.95.
DEEP = {"sparsity": 0.96, "rounds": 10}
# Chosen on validation images, seed 0 of vgg16_bn: AdamW is two points worse, and the parent's help (`distill`) is worth
# nothing for twice the time.
FINE_TUNE: dict[str, Any] = {key: RECIPES["fast"].settings[key] for key in ("optimizer", "schedule", "loss")}
# A network of a fifth of the multiply-accumulates trains as many epochs more in the same time: `trained` tells it.
EPOCHS_OF_FEWER_CHANNELS = 3
# What integers cost is to be seen, not refused.
INT8 = {"kind": "quantize", "max_drop": None}
HOURS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, required=True, help="data folder; what is there is not made again")
    parser.add_argument("--networks", nargs="+", default=["vgg16_bn"], choices=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--first", type=int, default=10, help="epochs of the parent")
    parser.add_argument("--then", type=int, default=10, help="epochs of retraining")
    parser.add_argument("--speedups", nargs="*", type=float, default=list(SPEEDUPS))
    parser.add_argument("--sparsities", nargs="*", type=float, default=list(SPARSITIES))
    parser.add_argument("--weights-of", default="parent", choices=["parent", "dense"], help="which loses weights")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of all trainings")
    parser.add_argument("--method", default="bn-scale", help="by which channels are chosen")
    parser.add_argument("--deep", action="store_true", help="the smallest file: cut in rounds of long retraining, int8")
    parser.add_argument("--peers", action="store_true", help="other libraries too, on the same parents")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with service(arguments.home, arguments.folder.parent) as http:
        dataset = find_dataset(http, arguments.folder)
        for name in arguments.networks:
            for seed in arguments.seeds:
                yard = Yard(http, arguments.home, dataset, name, seed, arguments.precision)
                found = one_seed(yard, arguments)
                rows += found
                print(table(found), flush=True)
            print(summary(name, rows), flush=True)
    tell({"machine": machine(), "figures": rows}, arguments.json)


def one_seed(yard: Yard, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Makes all models of a network and seed that are not there, and measures them."""
    fine_tune = {**FINE_TUNE, "precision": asked.precision}
    tuned = {"fine_tune": {**fine_tune, "epochs": asked.then}}
    longer = {"fine_tune": {**fine_tune, "epochs": asked.then * EPOCHS_OF_FEWER_CHANNELS}}
    yard.train("dense", epochs=asked.first + asked.then)
    if asked.speedups or asked.deep or asked.peers or (asked.sparsities and asked.weights_of == "parent"):
        yard.train("parent", epochs=asked.first)
    method = asked.method if yard.network not in WITHOUT_NORMALISATION else "l1-filter"
    smaller: list[str] = []
    for speedup in asked.speedups:
        try:
            fast = yard.make(f"x{speedup:g}", "parent", kind="prune", method=method, speedup=speedup, **longer)
        except OutOfReach as error:
            print(error, flush=True)
            continue
        smaller += [fast, yard.make(f"x{speedup:g} int8", fast, **INT8)]
    smaller.append(yard.make("int8", "dense", **INT8))
    for sparsity in asked.sparsities:
        variant = f"{sparsity:g}" if asked.weights_of == "parent" else f"{asked.weights_of} {sparsity:g}"
        smaller.append(yard.make(variant, asked.weights_of, kind="prune", sparsity=sparsity, **tuned))
    if THEN_INT8 in asked.sparsities and asked.weights_of == "parent":
        smaller.append(yard.make(f"{THEN_INT8:g} int8", f"{THEN_INT8:g}", **INT8))
    if asked.deep:
        deep = yard.make("deep", "parent", kind="prune", **DEEP, **longer)
        smaller += [deep, yard.make("deep int8", deep, **INT8)]
    rows = [yard.measure(variant) for variant in smaller]
    if asked.peers:
        rows += compare_peers(yard, FINE_TUNE, asked, longer=EPOCHS_OF_FEWER_CHANNELS)
    return rows


class OutOfReach(Exception):
    """No cut of this network gains what was asked for; the message names the best there is."""


class Yard:
    """The models of one network and seed."""

    def __init__(self, http: httpx.Client, home: Path, dataset: str, network: str, seed: int, precision: str) -> None:
        self.http, self.home, self.dataset, self.network, self.seed = http, home, dataset, network, seed
        self.precision = precision

    def train(self, variant: str, *, epochs: int) -> str:
        """A dense network."""
        body = {
            "dataset": self.dataset,
            "architecture": NETWORKS[self.network],
            "seed": self.seed,
            "precision": self.precision,
            # Short trainings by the recipe do not crop, and retraining changes images as the parent's training did.
            "augmentation": "auto",
        }
        return self._made(variant, {"kind": "train", "recipe": "fast", "epochs": epochs, **body})

    def make(self, variant: str, parent: str, **spec: Any) -> str:
        """A model made out of another one."""
        return self._made(variant, {"model": self._name(parent), **spec})

    def view(self, variant: str) -> dict[str, Any]:
        """What the service says of a model."""
        found: dict[str, Any] = self.http.get(f"/v1/models/{self._name(variant)}").raise_for_status().json()
        return found

    def has(self, variant: str) -> bool:
        """Whether there is a model of this variant."""
        return self.http.get(f"/v1/models/{self._name(variant)}").status_code == 200

    def directory(self, variant: str) -> Path:
        return Artifacts(self.home, owner="benchmark").model(self.view(variant)["id"])

    def loaded(self, variant: str) -> LoadedModel:
        """The model in the runtime that it is served by."""
        return load_model(self.directory(variant), runtime=self.view(variant)["latency_ms"]["runtime"])

    def measure(self, variant: str) -> dict[str, Any]:
        """A model against the dense network that was trained for as long."""
        dense, small = self.view("dense"), self.view(variant)
        timed = compare(self.loaded("dense"), self.loaded(variant), batches=(1,))[0]
        return self.row(
            variant,
            test=small["metrics"]["test_accuracy"],
            speedup=timed.speedup,
            low=timed.low,
            high=timed.high,
            milliseconds=timed.child.p50,
            macs=small["macs"] / dense["macs"],
            bytes=small["bytes"],
            trained=self.seconds(variant) / self.seconds("dense"),
        )

    def seconds(self, variant: str) -> float:
        """What the trainings of a model and of those that it was made out of took."""
        model = self.view(variant)
        rows = self.http.get(f"/v1/jobs/{model['job']}/metrics", params={"limit": 100}).raise_for_status().json()
        own = sum(row["seconds"] for row in rows["items"])
        before = self.http.get(f"/v1/models/{model['parent']}").json()["name"] if model["parent"] else None
        return own + (self.seconds(before.removeprefix(self._name(""))) if before else 0.0)

    def row(self, variant: str, *, test: float, **figures: Any) -> dict[str, Any]:
        """Figures of a variant, with what it lost against the dense network."""
        dense = self.view("dense")
        return {
            "network": self.network,
            "seed": self.seed,
            "variant": variant,
            "dense_test": dense["metrics"]["test_accuracy"],
            "test": test,
            "points": 100 * (test - dense["metrics"]["test_accuracy"]),
            **figures,
            "of_bytes": figures["bytes"] / dense["bytes"],
        }

    def _name(self, variant: str) -> str:
        return f"{self.network} {self.seed} {variant}"

    def _made(self, variant: str, spec: dict[str, Any]) -> str:
        name = self._name(variant)
        if not self.has(variant):
            # The same key finds the job that was asked for before this program was broken off.
            body = json.dumps({**spec, "name": name}, sort_keys=True)
            headers = {"Idempotency-Key": hashlib.sha256(body.encode()).hexdigest(), "Content-Type": "application/json"}
            answer = self.http.post("/v1/jobs", content=body, headers=headers)
            assert answer.status_code == 202, answer.text
            job = wait_for(lambda: ended(self.http, answer.json()["id"]), seconds=3600 * HOURS, pause=1)
            if job["reason"] == "target_not_reached":
                raise OutOfReach(f"{name}: {job['message']}")
            assert job["status"] == "succeeded", job
        return variant


def ended(http: httpx.Client, job: str) -> dict[str, Any] | None:
    view: dict[str, Any] = http.get(f"/v1/jobs/{job}").raise_for_status().json()
    return view if view["status"] in {"succeeded", "failed", "cancelled"} else None


@contextmanager
def service(home: Path, root: Path) -> Iterator[httpx.Client]:
    """A service with one worker, and a client of it."""
    environment = {**os.environ, "PRUNEYARD_HOME": str(home), "PRUNEYARD_PORT": str(free_port())}
    environment["PRUNEYARD_DATA_ROOTS"] = str(root.resolve())
    migrate(environment)
    url = f"http://127.0.0.1:{environment['PRUNEYARD_PORT']}"
    with process("service", environment), httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        wait_for(lambda: answers(http, "/readyz"))
        with process("workers", environment):
            yield http


def find_dataset(http: httpx.Client, folder: Path) -> str:
    """The id of the folder's data set, read if it is not there."""
    known = {item["name"]: item for item in http.get("/v1/datasets").raise_for_status().json()["items"]}
    if folder.name not in known:
        source = {"kind": "folder", "path": str(folder.resolve())}
        answer = http.post("/v1/datasets", json={"name": folder.name, "source": source})
        assert answer.status_code in {201, 202}, answer.text

    def ready() -> str | None:
        found: dict[str, Any] = http.get(f"/v1/datasets/{folder.name}").raise_for_status().json()
        assert found["status"] != "failed", found
        return str(found["id"]) if found["status"] == "ready" else None

    identifier: str = wait_for(ready, seconds=3600)
    return identifier


HEADER = (
    f"{'variant':28}{'test':>8}{'points':>8}{'times as fast':>24}"
    f"{'ms':>8}{'MACs':>7}{'bytes':>12}{'of dense':>10}{'trained':>9}"
)


def table(rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    title = f"{first['network']}, seed {first['seed']}: dense {first['dense_test']:.4f}"
    return "\n".join([title, HEADER, *map(line, rows)])


def line(row: dict[str, Any]) -> str:
    span = f"{row['speedup']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    return (
        f"{row['variant']:28}{row['test']:8.4f}{row['points']:+8.2f}{span:>24}"
        f"{row['milliseconds']:8.3f}{row['macs']:7.2f}{row['bytes']:12,}{row['of_bytes']:10.3f}{row['trained']:9.2f}"
    )


def summary(network: str, rows: list[dict[str, Any]]) -> str:
    """Medians over seeds, with the least and the most."""
    own = [row for row in rows if row["network"] == network]
    lines = [f"{network}, medians of {len({row['seed'] for row in own})} seeds"]
    for variant in dict.fromkeys(row["variant"] for row in own):
        found = [row for row in own if row["variant"] == variant]
        parts = (spread(found, key, form) for key, form in FORMS.items())
        lines.append(f"{variant:28}" + "  ".join(parts))
    return "\n".join(lines)


FORMS = {"points": "+.2f", "speedup": ".2f", "macs": ".2f", "of_bytes": ".3f"}


def spread(rows: list[dict[str, Any]], key: str, form: str) -> str:
    values = [row[key] for row in rows]
    return f"{key} {median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
