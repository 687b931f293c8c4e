"""The same parents, pruned by other libraries and retrained in the same way: what they leave in hand.

`torch.nn.utils.prune` and NNCF cut as many weights as our `magnitude`, Torch-Pruning as many multiply-accumulates as
our filter pruning. Files are what `torch.save` writes of the state dict (of the module, where shapes changed). Latency
is that of PyTorch, one image, the dense network and the small one in turn: that is what a user of these has.
"""

from __future__ import annotations

import copy
import io
import json
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import torch_pruning
from torch import nn
from torch.nn.utils import prune

from benchmarks.recipes import Watch
from inference.comparing import median_interval
from inference.telemetry import forbid_telemetry
from nets.answers import answers
from nets.figures import figures
from nets.training import train
from specs.jobs import JOB_SPEC, PruneSpec
from specs.settings import Settings
from store.artifacts import Artifacts
from store.database import Database
from store.queue import Claim
from workers.parents import Parent, load_parent
from workers.plans import plan_fine_tuning
from workers.run import Run

if TYPE_CHECKING:
    from benchmarks.pruning import Yard

Prunable = nn.Conv2d | nn.Linear
SPARSITY = 0.9
FEWER_CHANNELS = "Torch-Pruning"
WARM_UPS, PAIRS = 20, 200


def compare_peers(yard: Yard, tuned: dict[str, Any], asked: Namespace, *, longer: int) -> list[dict[str, Any]]:
    """A row for each library; those of fewer channels are retrained `longer` times as many epochs.

    What was measured before is read from the data folder.
    """
    rows = []
    # What ours could not reach, another cannot be held against.
    reached = bool(asked.speedups) and yard.has(f"x{asked.speedups[0]:g}")
    for name in PEERS:
        if name == FEWER_CHANNELS and not reached:
            continue
        kept = yard.home / f"peer {yard.network} {yard.seed} {name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(_measured(yard, name, tuned, asked, longer)))
        rows.append(json.loads(kept.read_text()))
    return rows


def _measured(yard: Yard, name: str, tuned: dict[str, Any], asked: Namespace, longer: int) -> dict[str, Any]:
    parent = _parent(yard)
    dense = copy.deepcopy(parent.network)
    # Both PyTorch's and NNCF's pruning take weights in one order of memory only.
    plain = copy.deepcopy(parent.network).to(memory_format=torch.contiguous_format)
    network, finish = PEERS[name](plain, parent, yard, asked)
    epochs = asked.then * (longer if name == FEWER_CHANNELS else 1)
    spec = JOB_SPEC.validate_python(
        {"kind": "prune", "model": "parent", "fine_tune": {**tuned, "epochs": epochs}, "device": "cpu"}
    )
    assert isinstance(spec, PruneSpec) and spec.fine_tune is not None
    plan = plan_fine_tuning(spec, spec.fine_tune, origin=parent.origin)
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder), lambda: None)
        train(network, parent.data, plan, watch)
    seconds = sum(row.seconds for row in watch.rows)
    trained = (yard.seconds("parent") + seconds) / yard.seconds("dense")
    network, size = finish(network.eval())
    speedup, low, high, milliseconds = _timed(dense.eval(), network, parent)
    look = {"channels": parent.data.channels, "image_size": parent.data.image_size}
    macs = figures(network, **look).macs / parent.manifest.macs
    test = answers(network, parent.data.test, parent.data).accuracy
    return yard.row(
        name,
        test=test,
        speedup=speedup,
        low=low,
        high=high,
        milliseconds=milliseconds,
        macs=macs,
        bytes=size,
        trained=trained,
    )


def _parent(yard: Yard) -> Parent:
    settings = Settings(home=yard.home)
    artifacts = Artifacts(yard.home, owner="benchmark")
    run = Run(settings, Database.of(settings), artifacts, Claim("benchmark", 1), threading.Event())
    return load_parent(run, yard.view("parent")["id"])


Finish = Callable[[nn.Module], tuple[nn.Module, int]]
Peer = Callable[[nn.Module, Parent, "Yard", Namespace], tuple[nn.Module, Finish]]


def _torch_prune(network: nn.Module, _parent: Parent, _yard: Yard, _asked: Namespace) -> tuple[nn.Module, Finish]:
    """Global L1 of PyTorch itself."""
    layers = [module for module in network.modules() if isinstance(module, Prunable)]
    prune.global_unstructured(
        [(module, "weight") for module in layers], pruning_method=prune.L1Unstructured, amount=SPARSITY
    )

    def finish(trained: nn.Module) -> tuple[nn.Module, int]:
        for module in trained.modules():
            if isinstance(module, Prunable):
                prune.remove(module, "weight")
        return trained, _saved(trained.state_dict())

    return network, finish


def _nncf(network: nn.Module, parent: Parent, _yard: Yard, _asked: Namespace) -> tuple[nn.Module, Finish]:
    """Global magnitude of NNCF."""
    forbid_telemetry()
    import nncf  # noqa: PLC0415 - it asks for telemetry as it loads

    example = torch.zeros(1, parent.data.channels, parent.data.image_size, parent.data.image_size)
    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL
    wrapped = nncf.prune(network, mode, ratio=SPARSITY, examples_inputs=example)

    # Its masks are saved too: to strip them it wants torchao.
    return wrapped, lambda trained: (trained, _saved(trained.state_dict()))


def _torch_pruning(network: nn.Module, parent: Parent, yard: Yard, asked: Namespace) -> tuple[nn.Module, Finish]:
    """Torch-Pruning's own pruner, global and by L1, down to the multiply-accumulates that ours left."""
    left = yard.view(f"x{asked.speedups[0]:g}")["macs"]
    look = {"channels": parent.data.channels, "image_size": parent.data.image_size}
    example = torch.zeros(1, look["channels"], look["image_size"], look["image_size"])
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.BasePruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
        global_pruning=True,
        pruning_ratio=0.98,
        max_pruning_ratio=0.95,
        iterative_steps=100,
        ignored_layers=[head],
    )
    while figures(network, **look).macs > left and pruner.current_step < pruner.iterative_steps:
        pruner.step()
    return network, lambda trained: (trained, _saved(trained))


def _saved(what: Any) -> int:
    file = io.BytesIO()
    torch.save(what, file)
    return file.tell()


def _timed(dense: nn.Module, small: nn.Module, parent: Parent) -> tuple[float, float, float, float]:
    """How many times as fast, with its interval at 95 %, and milliseconds of the small one."""
    image = torch.randn(1, parent.data.channels, parent.data.image_size, parent.data.image_size)
    both = [network.to(memory_format=torch.channels_last) for network in (dense, small)]
    with torch.inference_mode():
        pairs = [tuple(_milliseconds(network, image) for network in both) for _ in range(WARM_UPS + PAIRS)][WARM_UPS:]
    ratios = sorted(before / after for before, after in pairs)
    low, high = median_interval(len(ratios))
    return median(ratios), ratios[low], ratios[high], median(after for _, after in pairs)


def _milliseconds(network: nn.Module, image: torch.Tensor) -> float:
    began = time.perf_counter()
    network(image)
    return 1000 * (time.perf_counter() - began)


PEERS: dict[str, Peer] = {
    "torch.nn.utils.prune 0.9": _torch_prune,
    "NNCF 0.9": _nncf,
    FEWER_CHANNELS: _torch_pruning,
}
